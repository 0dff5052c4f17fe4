"""`qwen3-embed mcp`, asked by the SDK's own client over standard input and output."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp.server.mcpserver")
from mcp import Client, StdioServerParameters

from qwen3_embed import Embedder

ROOT = Path(__file__).resolve().parents[1]
N_PAIRS = 500
OFFICES = ["Kyoto", "Lagos", "Quito", "Oslo", "Perth"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder with a file in it, and around it what must not be found."""
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "git.md").write_text("# Git\n\nTake back the last commit with git reset\n")
    (folder / "sub/eggs.txt").write_text("Boil the eggs for six minutes\n")
    (folder / ".hidden/a.txt").write_text("The secret is hidden\n")
    (tmp_path / "secret.txt").write_text("The secret is outside\n")
    (tmp_path / "notes-too").mkdir()
    (tmp_path / "notes-too/a.txt").write_text("The secret is next door\n")
    os.symlink(tmp_path / "secret.txt", folder / "link.txt")
    os.symlink(tmp_path, folder / "up")
    return folder


def server(tmp_path: Path, *options: str) -> StdioServerParameters:
    command = ["-m", "qwen3_embed", "mcp", "--store", str(tmp_path / "store"), "--threads", "1"]
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    return StdioServerParameters(
        command=sys.executable, args=[*command, *options], env=environment, cwd=str(tmp_path)
    )


def talk(
    parameters: StdioServerParameters, conversation: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    async def connected() -> None:
        async with Client(parameters) as client:
            await conversation(client)

    asyncio.run(asyncio.wait_for(connected(), 120))


async def ask(client: Any, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    content = answer.structured_content
    return content.get("result", content)


async def together(calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The answers, in order, of calls of which fifty at a time are pending."""
    answers = []
    for start in range(0, len(calls), 50):
        answers += await asyncio.gather(*calls[start : start + 50])
    return answers


async def error_of(client: Any, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    return str(answer.content[0].text)


def fact(person: int, what: str, where: str) -> str:
    return f"Employee {person} {what} {where}"


def test_a_thousand_facts(tmp_path: Path, notes: Path) -> None:
    """500 pairs that differ in one word and a place: each question finds its own fact first."""
    facts = []
    for i in range(N_PAIRS):
        facts.append(fact(7000 + i, "has an office in", OFFICES[i % 5]))
        facts.append(fact(7000 + i, "was born in", OFFICES[(i + 2) % 5]))

    questions = [
        f"the place where employee {7000 + i} {what}"
        for i in range(N_PAIRS)
        for what in ("has an office", "was born")
    ]

    async def conversation(client: Any) -> None:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"remember", "recall", "forget", "search_folder"}
        kept = await together([ask(client, "remember", fact=text) for text in facts])
        assert {answer["id"] for answer in kept} == set(range(1, 2 * N_PAIRS + 1))
        answers = await together([ask(client, "recall", query=q, top_k=2) for q in questions])
        wrong = [
            (question, found[0]["text"])
            for question, text, found in zip(questions, facts, answers, strict=True)
            if found[0]["text"] != text
        ]
        assert wrong == []
        calls_s = []
        for question in questions[:40]:
            begin = time.perf_counter()
            await ask(client, "recall", query=question)
            calls_s.append(time.perf_counter() - begin)
        with Embedder("mini", num_threads=1) as model:
            embed_s = []
            for question in questions[:40]:
                begin = time.perf_counter()
                model.encode_query(question)
                embed_s.append(time.perf_counter() - begin)
        # The best of forty: what other tests on the machine take is none of the server's.
        beyond_ms = (min(calls_s) - min(embed_s)) * 1e3
        print(f"a call beyond embedding: {beyond_ms:.1f} ms")
        assert beyond_ms < 20

    talk(server(tmp_path, "--folder", str(notes)), conversation)


def test_updates_recency_and_forgetting(tmp_path: Path) -> None:
    async def conversation(client: Any) -> None:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert "search_folder" not in tools  # no folder was allowed
        old = (await ask(client, "remember", fact="Mara lives in Lyon"))["id"]
        new = (await ask(client, "remember", fact="Mara lives in Porto", replaces=[old]))["id"]
        (found,) = await ask(client, "recall", query="Where does Mara live?")
        assert (found["id"], found["text"]) == (new, "Mara lives in Porto")
        both = await ask(client, "recall", query="Where does Mara live?", with_replaced=True)
        assert {f["id"]: f["replaced_by"] for f in both} == {old: new, new: None}
        assert await ask(client, "recall", query="Mara", since="2999-01-01T00:00:00") == []
        assert len(await ask(client, "recall", query="Mara", since="2020-01-01")) == 1
        assert "no fact 99" in await error_of(client, "remember", fact="x", replaces=[99])
        assert (await ask(client, "forget", ids=[new, 99]))["n_forgotten"] == 2
        assert await ask(client, "recall", query="Mara", with_replaced=True) == []

    talk(server(tmp_path), conversation)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    assert b"Porto" not in kept
    assert b"Lyon" not in kept
    assert (tmp_path / "store/memory.sqlite").stat().st_mode & 0o077 == 0


def child_of(tmp_path: Path) -> int:
    """The server's process: other tests may have left children of their own."""
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    store = str(tmp_path / "store").encode()
    (found,) = (
        child for child in children if store in Path("/proc", child, "cmdline").read_bytes()
    )
    return int(found)


def test_killed(tmp_path: Path) -> None:
    """Every acknowledged fact is there afterwards."""
    acknowledged: list[str] = []

    async def conversation(client: Any) -> None:
        child = child_of(tmp_path)
        for i in range(100_000):
            text = f"Fact number {i}"
            await asyncio.wait_for(ask(client, "remember", fact=text), 30)
            acknowledged.append(text)
            if i == 4:  # within one of the calls after that
                asyncio.get_running_loop().call_later(0.1, os.kill, child, signal.SIGKILL)

    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the SDK makes of it
        talk(server(tmp_path), conversation)
    assert len(acknowledged) > 3

    async def after(client: Any) -> None:
        for text in acknowledged[:: max(1, len(acknowledged) // 20)] + acknowledged[-1:]:
            assert text in [f["text"] for f in await ask(client, "recall", query=text, top_k=3)]

    talk(server(tmp_path), after)


def test_folders(tmp_path: Path, notes: Path) -> None:
    async def conversation(client: Any) -> None:
        found = await ask(client, "search_folder", query="undo a commit")
        files = {str(notes / name) for name in ("git.md", "sub/eggs.txt")}
        assert {hit["file"] for hit in found} == files
        assert found[0] == {
            "file": str(notes / "git.md"),
            "line": 3,
            "last_line": 3,
            "heading": "Git",
            "text": "Take back the last commit with git reset",
            "score": found[0]["score"],
        }
        for folder in ("sub", "sub/", str(notes / "sub"), "sub/eggs.txt", "../notes/sub"):
            (hit,) = await ask(client, "search_folder", query="eggs", folder=folder)
            assert hit["file"] == str(notes / "sub/eggs.txt")
        outside = ("../notes-too", str(tmp_path / "notes-too"), ".hidden", "link.txt")
        for folder in (*outside, "up/notes-too", "/etc", "none", "a\0b", "~", "x" * 4000):
            told = await error_of(client, "search_folder", query="secret", folder=folder)
            assert "has files to search" in told or "null" in told, folder
        for folder in ("..", "/", "up"):  # above an allowed one, which it holds
            found = await ask(client, "search_folder", query="secret", folder=folder)
            assert {hit["file"] for hit in found} == files

    talk(server(tmp_path, "--folder", str(notes)), conversation)


def test_huge_and_wrong_arguments(tmp_path: Path) -> None:
    async def conversation(client: Any) -> None:
        huge = "x" * 10_000_000
        for arguments in (
            {"fact": huge},
            {"fact": ""},
            {"fact": "  "},
            {"fact": "x", "replaces": list(range(1, 3000))},
            {"fact": "x", "replaces": [1 << 70]},
            {"fact": 7},
            {},
        ):
            assert len(await error_of(client, "remember", **arguments)) < 1000
        assert await error_of(client, "recall", query="x", top_k=10**9)
        assert await error_of(client, "recall", query="x", since="yesterday")
        assert await error_of(client, "forget", ids=["1 OR 1=1"])
        assert await ask(client, "recall", query="x") == []

    talk(server(tmp_path), conversation)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    from qwen3_embed.cli import main

    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    monkeypatch.delitem(sys.modules, "qwen3_embed.integrations.mcp", raising=False)
    assert main(["mcp", "--store", str(tmp_path / "store")]) == 1
    assert 'pip install "qwen3-embed-native[mcp]"' in capsys.readouterr().err


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: Any) -> None:
    from qwen3_embed.cli import main

    assert main(["mcp", "--store", str(tmp_path / "s"), "--folder", str(tmp_path / "none")]) == 1
    assert "no folder" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
