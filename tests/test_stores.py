"""The code of docs/stores.md, run as printed, where its packages are installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "stores.md"
FENCE = re.compile(r"^## ([^\n]*)\n|^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)

NOTES = """\
{"id": 1, "text": "git reset takes back a commit"}
{"id": 2, "text": "删除目录及其中所有文件"}
"""
CHINESE = "删除目录及其中所有文件"


def blocks_of(section: str) -> list[tuple[str, str]]:
    """The language and code of each block below a heading."""
    heading = ""
    found = []
    for title, language, code in FENCE.findall(PAGE.read_text("utf-8")):
        heading = title or heading
        if heading == section and code:
            found.append((language, code))
    return found


def run(section: str, capsys: Any) -> str:
    """The output of the blocks, run in turn in the working directory."""
    for language, code in blocks_of(section):
        if language == "sh":
            command = code.replace("qwen3-embed", f"{sys.executable} -m qwen3_embed")
            root = str(PAGE.parents[1])
            subprocess.run(command, shell=True, check=True, env={"PYTHONPATH": root}, timeout=60)
        else:
            exec(compile(code, str(PAGE), "exec"), {})
    return str(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("section", "package", "printed"),
    [
        ("LanceDB", "lancedb", [f"lancedb: {CHINESE}", "lancedb, after delete: 1"]),
        ("Milvus Lite", "milvus_lite", [f"milvus: {CHINESE}", "milvus, after delete: 1"]),
        ("Qdrant", "qdrant_client", [f"qdrant: {CHINESE}", "qdrant, after delete: 1"]),
        ("Chroma", "chromadb", [f"chroma: {CHINESE}", "chroma, after delete: 1"]),
        ("FAISS", "faiss", [f"faiss: {CHINESE}", "faiss, after delete: 1"]),
        (
            "Two dimensions, chosen by load",
            "qdrant_client",
            [f"{n} waiting: git reset takes back a commit" for n in (0, 100)],
        ),
        ("Moving to another model", "lancedb", [f"moved: {CHINESE}"]),
        (
            "An agent's memory",
            "lancedb",
            [
                "memory: Mara lives in Porto",
                "memory, after forgetting: ['The build runs on Thursdays']",
            ],
        ),
    ],
)
def test_as_printed(
    section: str,
    package: str,
    printed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    Path("notes.jsonl").write_text(NOTES, "utf-8")
    assert run(section, capsys).splitlines()[-len(printed) :] == printed


def test_the_memory_is_sixty_lines() -> None:
    ((_, code),) = blocks_of("An agent's memory")
    assert code.index("\n\n\nmemory = ")
    assert len(code.split("\n\n\nmemory = ")[0].splitlines()) <= 60
