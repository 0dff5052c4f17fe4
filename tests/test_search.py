"""`qwen3-embed search`: what a person sees, what a program reads, and every error by name."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_embed import Embedder, Reranker
from qwen3_embed.cli import main
from qwen3_embed.cli.columns import cut_to_width, display_width, printable, wrap
from tests.support.rerankers import make_reranker

Capture = pytest.CaptureFixture[str]

NOTES = """\
git reset --soft HEAD~1 takes back the last commit and keeps the changes
Boil the eggs for six minutes, then put them into cold water
ls -lS sorts files by their size, the largest first
冰箱里的牛奶后天过期，请尽快喝完，不然就要倒掉了，家里每个人都应该知道这件事情
Renew the passport before the trip in May
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    Path("notes.txt").write_text(NOTES, "utf-8")
    return "notes.txt"


def found(capsys: Capture, *arguments: str) -> str:
    assert main(["search", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def records(capsys: Capture, *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in found(capsys, *arguments, "--json").splitlines()]


def test_what_a_person_sees(notes: str, capsys: Capture) -> None:
    output = found(capsys, notes, "how do I undo a commit", "--top-k", "1")
    assert re.sub(r"0\.\d{3}", "0.500", output) == (
        " 1  0.500  notes.txt:1\n"
        "    git reset --soft HEAD~1 takes back the last commit and\n"
        "    keeps the changes\n"
    )


def test_rank_and_score(notes: str, capsys: Capture) -> None:
    """Scores are the cosines of the two vectors, best first."""
    query = "牛奶什么时候过期"
    hits = records(capsys, notes, query, "--dim", "64")
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert hits[0]["line"] == hits[0]["last_line"] == 4
    with Embedder("mini") as model:
        rows = model.encode_document(NOTES.splitlines(), dim=64)
        cosines = model.similarity(model.encode_query(query, dim=64), rows)[0]
    assert [hit["score"] for hit in hits] == [round(float(c), 4) for c in sorted(cosines)[::-1]]
    assert hits[0] == {
        "rank": 1,
        "score": hits[0]["score"],
        "file": notes,
        "line": 4,
        "last_line": 4,
        "heading": "",
        "text": NOTES.splitlines()[3],
    }


def test_encoding(notes: str, capsys: Capture) -> None:
    """Files in UTF-8 are read as such beside those in the other encoding."""
    query = ["牛奶什么时候过期", "--top-k", "1"]
    expected = records(capsys, notes, *query)[0]
    Path("folder").mkdir()
    Path("folder/old.txt").write_text(NOTES, "gb18030")
    Path("folder/new.txt").write_text("报纸和杂志\n")
    hit = records(capsys, "folder", *query, "--encoding", "gb18030")[0]
    assert hit == expected | {"file": "folder/old.txt"}
    hits = records(capsys, "folder", "报纸", "--top-k", "1", "--encoding", "GB18030")
    assert hits[0]["text"] == "报纸和杂志"
    Path("folder/old.txt").write_bytes(b"a\n\xff\xff\n")
    assert main(["search", "folder/old.txt", "a", "--encoding", "gb18030"]) == 1
    assert "old.txt is not UTF-8 or gb18030 in line 2" in capsys.readouterr().err


def test_instruction_changes_the_scores(notes: str, capsys: Capture) -> None:
    first = records(capsys, notes, "eggs")
    assert records(capsys, notes, "eggs", "--instruction", "Find a recipe") != first
    assert records(capsys, notes, "eggs", "--prompt-name", "query") == first


def test_rerank(notes: str, tmp_path: Path, capsys: Capture) -> None:
    """Scores and order are the reranker's, over the passages that were found first."""
    folder = str(make_reranker(tmp_path / "reranker"))
    hits = records(capsys, notes, "eggs", "--rerank", folder, "--top-k", "3")
    with Reranker(folder) as ranker:
        pairs = [("eggs", line) for line in NOTES.splitlines()]
        expected = dict(zip(NOTES.splitlines(), ranker.predict(pairs), strict=True))
    best = sorted(expected, key=lambda text: -expected[text])[:3]
    assert [hit["text"] for hit in hits] == best
    assert [hit["score"] for hit in hits] == [round(float(expected[text]), 4) for text in best]


def test_rerank_on_the_same_terms(notes: str, capsys: Capture, monkeypatch: Any) -> None:
    """The reranker gets the device, dtype, threads and network of the command line."""
    given: dict[str, Any] = {}

    def refuse(model: str, **options: Any) -> None:
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("qwen3_embed.reranker.Reranker", refuse)
    terms = ["--device", "cpu", "--dtype", "bfloat16", "--threads", "1", "--offline"]
    assert main(["search", notes, "eggs", "--rerank", "r", *terms]) == 1
    assert given == {
        "device": "cpu",
        "split": None,
        "dtype": "bfloat16",
        "embedding": "auto",
        "num_threads": 1,
        "batch_tokens": None,
        "local_files_only": True,
        "hub": None,
    }


def test_folder_with_headings(notes: str, capsys: Capture) -> None:
    Path("docs").mkdir()
    title = "A heading that is far too long to fit beside its place in a line of sixty columns"
    Path("docs/a.md").write_text(f"# {title}\n\n```py\nif hungry:\n    cook(pasta)\n```\n")
    output = found(capsys, "docs", "cook pasta")
    lines = output.splitlines()
    assert lines[0].endswith("  docs/a.md:3  A heading that is far too long to f…")
    assert lines[1:] == ["    ```py", "    if hungry:", "        cook(pasta)", "    ```"]
    assert max(map(display_width, lines)) <= 60


def test_long_passage_ends_with_an_ellipsis(notes: str, capsys: Capture) -> None:
    Path("long.md").write_text("word " * 190)
    lines = found(capsys, "long.md", "word").splitlines()
    assert len(lines) == 7
    assert lines[-1].endswith("word …")


def test_lines_of_a_paragraph_are_filled_where_they_must_break(notes: str, capsys: Capture) -> None:
    Path("wide.md").write_text("one two three four five " * 3 + "\nsix\nseven\n- eight\n")
    lines = found(capsys, "wide.md", "six").splitlines()
    assert lines[2:] == ["    three four five six seven", "    - eight"]


def test_control_characters_do_not_reach_the_terminal(notes: str, capsys: Capture) -> None:
    Path("evil.txt").write_text("red \033[31m alert\u202e and \x9b bell\a\tend")
    output = found(capsys, "evil.txt", "alert")
    assert not set("\033\x9b\a\t\u202e") & set(output)
    assert "red \ufffd[31m alert\ufffd and" in output


def in_terminal(*arguments: str, **environment: str) -> str:
    """Standard output of the command on a terminal."""
    main_end, child_end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "qwen3_embed", "search", *arguments],
        stdout=child_end,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        timeout=60,
    )
    os.close(child_end)
    assert (done.returncode, done.stderr) == (0, b"")
    output = os.read(main_end, 1 << 16).decode()
    os.close(main_end)
    return output.replace("\r\n", "\n")


def test_colours_only_on_a_terminal(notes: str, capsys: Capture) -> None:
    plain = found(capsys, notes, "eggs")
    coloured = in_terminal(notes, "eggs")
    assert "\033[" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == plain
    assert in_terminal(notes, "eggs", NO_COLOR="1") == plain
    assert in_terminal(notes, "eggs", TERM="dumb") == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.txt", "x"], "error: no file or folder 'none.txt'\n"),
        (["empty.txt", "x"], "error: empty.txt holds no text\n"),
        (["notes.txt", "x", "--dim", "999"], "--dim 999"),
        (["notes.txt", "x", "--model", "./none"], "no folder './none'"),
        (["notes.txt", "x", "--prompt-name", "none"], "none"),
        (["folder", "x"], "the folder 'folder' holds no .txt"),
    ],
)
def test_failures(notes: str, capsys: Capture, arguments: list[str], message: str) -> None:
    Path("empty.txt").touch()
    Path("folder").mkdir()
    assert main(["search", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["notes.txt"],
        ["notes.txt", "  "],
        ["notes.txt", "x", "--top-k", "0"],
        ["notes.txt", "x", "--instruction", "a", "--prompt-name", "b"],
    ],
)
def test_wrong_command_lines(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: qwen3-embed search")


def test_files_left_out_are_named_on_stderr(notes: str, capsys: Capture) -> None:
    Path("bad.txt").write_bytes(b"\xff")
    assert main(["search", ".", "eggs", "--top-k", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "warning: left out: ./bad.txt is not UTF-8 in line 1; pass its encoding, such as "
        "--encoding 'gb18030', or convert it with iconv\n"
    )
    assert "./notes.txt:2" in captured.out


class TestColumns:
    def test_widths(self) -> None:
        assert display_width("abc") == 3
        assert display_width("重力，é") == 7
        assert display_width("e\u0301\u200d") == 1

    def test_wrap(self) -> None:
        assert list(wrap("one two  three", 8)) == ["one two", "three"]
        assert list(wrap("    indented text", 10)) == ["    indent", "ed text"]
        assert list(wrap("abcdefghij", 4)) == ["abcd", "efgh", "ij"]
        # A line neither begins with a closing mark nor ends with an opening one.
        assert list(wrap("今天下雨，他说", 8)) == ["今天下", "雨，他说"]
        assert list(wrap("今天说（好）", 8)) == ["今天说", "（好）"]
        assert list(wrap("", 8)) == [""]

    def test_cut(self) -> None:
        assert cut_to_width("重力场", 6) == "重力场"
        assert cut_to_width("重力场", 5) == "重力…"
        assert cut_to_width("重力场", 4) == "重…"

    @given(
        line=st.text(st.sampled_from("ab ，。（重力e\u0301-🦊\t\n\x07")), width=st.integers(2, 12)
    )
    def test_nothing_is_lost_or_too_wide(self, line: str, width: int) -> None:
        line = printable(line)
        parts = list(wrap(line, width))
        assert all(display_width(part) <= width for part in parts)
        assert "".join("".join(parts).split()) == "".join(line.split())
        assert display_width(cut_to_width(line, width)) <= width
