"""Every code block of README and of the documentation: run, or read where it can't be run here.

Official names open stand-ins from a hub cache: `mini`, and a reranker with random weights. So
pages run offline, and what they print below a block is what `mini` gives.
"""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.make_adapter import make_adapter
from tests.support.pages import Block, PageRunner, blocks_of
from tests.support.rerankers import make_reranker
from tests.support.served import Served

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "qwen3_embed" / "models" / "mini"
SERVER = "http://localhost:8000"
PAGES = {
    path.relative_to(ROOT).as_posix(): blocks_of(path.read_text("utf-8"))
    for path in [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.exists()
}
LANGUAGES = {"python", "sh", "text", "json", "yaml", "ini", "nginx", "caddy"}
COMMANDS_NEED = {"docs/mcp.md": "mcp"}  # as imports of Python's blocks say themselves
# Run by tests of their own, which start servers or check more than what is printed.
ELSEWHERE = {
    "README.md": "sh",  # .ci/run types the two commands as printed
    "README.zh.md": "sh",
    "docs/server.md": "python",  # test_other_clients.py, in the clients' environments
}


def titled(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.is_needy]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("rerankers") / "Qwen3-Reranker-0.6B")


@pytest.fixture(scope="module")
def runner(ranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageRunner]:
    """A process with stand-ins in the hub's cache, `qwen3-embed`, and no network."""
    home = tmp_path_factory.mktemp("home")
    for name, folder in (("Qwen3-Embedding-0.6B", MINI), ("Qwen3-Reranker-0.6B", ranker)):
        cached = home / "hub" / f"models--Qwen--{name}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("1" * 40)
        shutil.copytree(folder, cached / "snapshots" / ("1" * 40), symlinks=True)
    program = home / "bin" / "qwen3-embed"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m qwen3_embed "$@"\n')
    program.chmod(0o755)
    started = PageRunner(
        {
            "HOME": str(home),
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "XDG_CACHE_HOME": str(home / "cache"),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "COLUMNS": "80",
        }
    )
    (home / "notes").mkdir()
    yield started
    started.close()


@pytest.fixture(scope="module")
def server(ranker: Path) -> Iterator[Served]:
    served = Served("--model", "mini", "--reranker", str(ranker))
    yield served
    served.stop()


def prepare(folder: Path) -> None:
    """Files that pages name without making them."""
    for name in ("legal", "adapters/medical"):
        make_adapter(folder / name, MINI)
    lines = [{"query": f"{i}", "positive": f"苹果 {i}", "negatives": ["pear"]} for i in range(30)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    texts = [f"{word} {i}" for i in range(30) for word in ("river", "苹果")]
    (folder / "texts.txt").write_text("\n".join(texts), "utf-8")
    rows = [
        {"id": 1, "text": "git reset takes back a commit"},
        {"id": 2, "text": "删除目录及其中所有文件"},
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


def runs(page: str) -> list[Block]:
    return [b for b in PAGES[page] if b.runs and b.language != ELSEWHERE.get(page)]


def matches(expected: str, printed: str) -> bool:
    """True if it is what the page shows, where "..." stands for anything.

    Instruction sets round sums in bf16 differently: similarities may differ by 0.002, which is
    more than was seen among the sets, and a thirtieth of what separates the pages' documents.
    """
    numbers = re.compile(r"\b(\d\.\d{3,})\b")
    parts = [numbers.split(part) for part in expected.strip().split("...")]
    pattern = ".*".join(
        "".join(r"(\d\.\d+)" if i % 2 else re.escape(text) for i, text in enumerate(part))
        for part in parts
    )
    found = re.fullmatch(pattern, printed.strip(), re.DOTALL)
    if found is None:
        return False
    shown = [text for part in parts for text in part[1::2]]
    return all(
        abs(float(a) - float(b)) <= 0.002 for a, b in zip(shown, found.groups(), strict=True)
    )


def test_matches() -> None:
    assert matches("a 0.445 b\n", "a 0.446 b")
    assert not matches("a 0.445 b", "a 0.448 b")
    assert not matches("a 0.445 b", "a 0.445 c")
    assert matches("0.99... and 1.250", "0.9918 and 1.251")
    assert not matches("version 0.2.0", "version 0.2.1")


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_blocks_run(
    page: str, runner: PageRunner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page in COMMANDS_NEED:
        pytest.importorskip(COMMANDS_NEED[page])
    blocks = runs(page)
    prepare(tmp_path)
    if any(SERVER in block.code for block in blocks):
        pytest.importorskip("uvloop")
        url = request.getfixturevalue("server").url
        for block in blocks:
            block.code = block.code.replace(SERVER, url)
    lacking = []
    for block, result in zip(blocks, runner.run(blocks, tmp_path), strict=True):
        assert "failed" not in result, f"{page}:{block.line}\n{result['failed']}"
        if "lacks" in result:
            lacking.append(result["lacks"])
        elif block.output is not None:
            where = f"{page}:{block.line} printed\n{result['output']}"
            assert matches(block.output, result["output"]), where
    if lacking:
        pytest.skip(f"without {', '.join(lacking)}: run by make test-all")


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_valid(page: str) -> None:
    """Every fence has a known language, and what is not run can be parsed."""
    for block in PAGES[page]:
        where = f"{page}:{block.line}"
        assert block.language in LANGUAGES, where
        if block.language == "python":
            ast.parse(block.code)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string(block.code)
        elif block.language == "yaml":
            pytest.importorskip("yaml").safe_load(block.code)
        elif block.language in {"nginx", "caddy"}:
            assert block.code.count("{") == block.code.count("}"), where
        elif block.language == "text":
            assert block.title, f"{where}: below no block whose output it is, and without a title"


def options() -> dict[str, set[str]]:
    """The options of each command."""
    from qwen3_embed.cli import command_parser

    return {
        name: {option for argument in each.arguments for option in argument.option_strings}
        for name, each in command_parser().commands.items()
    }


def test_commands_have_their_options() -> None:
    known: dict[str, set[str]] = options()
    n_found = 0
    for page, blocks in PAGES.items():
        for block in blocks:
            joined = block.code.replace("\\\n", " ") if block.language == "sh" else ""
            for name, rest in re.findall(r"^\s*qwen3-embed (\w+)(.*)$", joined, re.MULTILINE):
                used = set(re.findall(r" (--?[a-z][a-z-]*)", re.sub(r"\"[^\"]*\"", "", rest)))
                assert used <= known[name], f"{page}:{block.line}"
                n_found += 1
    assert n_found > 20


def test_extras_exist() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        text = path.read_text("utf-8")
        named = re.findall(r"\"(?:\.|qwen3-embed-native)\[([\w,-]+)\]\"|`\[([\w-]+)\]`", text)
        found = {name for pair in named for each in pair for name in each.split(",") if name}
        assert found <= extras, path.name


def test_few_blocks_are_not_run() -> None:
    """Titles that say what is missing stay the exception."""
    code = [b for blocks in PAGES.values() for b in blocks if b.language in {"python", "sh"}]
    assert len(titled(code)) < 0.25 * len(code), [b.title for b in titled(code)]


def test_the_memory_of_agents_is_short() -> None:
    (block,) = (b for b in PAGES["docs/stores.md"] if b.code.count("class AgentMemory"))
    assert len(block.code.split("\n\n\nmemory = ")[0].splitlines()) <= 60
