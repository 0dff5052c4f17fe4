"""Files are cut into passages, and every passage knows its lines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_embed.retrieval.corpus_files import find_files
from qwen3_embed.retrieval.passages import Passage, read_files

MARKDOWN = """\
Before any heading.

# Git

## Undo

To take back the last commit:

```sh
git reset --soft HEAD~1

# not a heading
```

Another way is `git revert`,
which adds a commit.

Setext title
------------
Below it.
## Nothing below this
# End ##
"""


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_passages(corpus: Path, column: str = "text") -> list[Passage]:
    files = find_files(corpus)
    read = read_files(files, column, leaves_out=corpus.is_dir())
    return [passage for _, passages in read for passage in passages]


def places(passages: list[Passage]) -> list[tuple[int, int, str]]:
    return [(p.line, p.last_line, p.heading) for p in passages]


def test_markdown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md", MARKDOWN)
    passages = read_passages(path)
    assert places(passages) == [
        (1, 1, ""),
        (7, 13, "Git > Undo"),
        (15, 16, "Git > Undo"),
        (20, 20, "Git > Setext title"),
        (21, 21, "Git"),
        (22, 22, ""),
    ]
    lines = MARKDOWN.splitlines()
    assert passages[1].text == "\n".join(lines[6:13])
    assert passages[1].in_context == "Git > Undo\n" + passages[1].text
    assert [p.text for p in passages[4:]] == ["Nothing below this", "End"]
    assert {p.path for p in passages} == {str(path)}


def test_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n# a comment\r\ntwo\n \n\t\nthree:\n\n- four\n\n***\n")
    passages = read_passages(path)
    assert places(passages) == [(2, 3, ""), (6, 8, "")]
    assert [p.text for p in passages] == ["# a comment\ntwo", "three:\n\n- four"]


def test_text_without_blank_lines_is_one_passage_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "notes", "\ufeff\nfirst\n重力\n----\nlast  \n\n")
    assert [(p.line, p.text) for p in read_passages(path)] == [
        (2, "first"),
        (3, "重力"),
        (5, "last  "),
    ]


def test_json_lines(tmp_path: Path) -> None:
    records = [{"text": "one", "id": 3}, "two", {"title": "T", "text": "three\nlines"}]
    content = "\n\n".join(json.dumps(record) for record in records)
    passages = read_passages(write(tmp_path / "a.jsonl", content))
    assert places(passages) == [(1, 1, ""), (3, 3, ""), (5, 5, "T")]
    assert [p.text for p in passages] == ["one", "two", "three\nlines"]
    other = write(tmp_path / "b.ndjson", '{"body": "x"}')
    assert read_passages(other, column="body")[0].text == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\n\xff", "a.txt is not UTF-8 in line 2"),
        ("a.bin", b"ok\n\0", "a.bin is not a text file: it has a NUL in line 2"),
        ("a.jsonl", b'{"text": "x"}\n{', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[1]", "line 1: list, expected an object or a string"),
        ("a.jsonl", b'{"id": 1, "body": "x"}', "no text under 'text', found the names id, body"),
        ("a.jsonl", b'{"text": null}', "no text under 'text'"),
        ("a.jsonl", b'"x"\n"\\ud800"', "line 2: a .u escape is half of a surrogate pair"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_passages(path)


def test_folder(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", "a/y.jsonl", "a/x.rst", ".git/c.md", "a/.d.txt", "e.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, '"x"')
    os.symlink("nowhere", tmp_path / "broken.txt")
    passages = read_passages(tmp_path)
    assert [os.path.relpath(p.path, tmp_path) for p in passages] == [
        "a/x.rst",
        "a/y.jsonl",
        "a/z.txt",
        "b.md",
    ]
    write(tmp_path / "a/z.txt", b"\xff")
    with pytest.warns(UserWarning, match=r"left out: .*z\.txt is not UTF-8"):
        assert len(read_passages(tmp_path)) == 3


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_passages(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no \.txt"):
        read_passages(tmp_path)
    assert read_passages(write(tmp_path / "empty.txt", "")) == []


def test_long_passages_are_cut_where_a_reader_would_cut(tmp_path: Path) -> None:
    sentence = "It rained on the second day too, and nobody went out. "
    chinese = "第二天也下雨，没有人出门。"
    path = write(tmp_path / "a.md", f"# H\n\n{sentence * 60}\n\n{chinese * 90}\n\n{'x' * 5000}\n")
    passages = read_passages(path)
    by_line = {line: [p for p in passages if p.line == line] for line in (3, 5, 7)}
    assert sum(map(len, by_line.values())) == len(passages)
    assert {p.heading for p in passages} == {"H"}
    assert {p.text[-1] for p in by_line[3]} == {"."}
    assert {p.text[-1] for p in by_line[5]} == {"。"}
    for line in by_line.values():
        sizes = [len(p.text.encode()) for p in line]
        assert len(sizes) > 2
        assert max(sizes) < 1100
        assert max(sizes) < 2 * min(sizes)
    assert " ".join(p.text for p in by_line[3]) == (sentence * 60).strip()
    assert "".join(p.text for p in by_line[5]) == chinese * 90
    assert "".join(p.text for p in by_line[7]) == "x" * 5000


BLOCKS = st.lists(
    st.sampled_from(
        ["", " ", "a: ", "b", "# h", "### k", "```", "~~~", "===", "---", "* c", "重" * 500]
    ),
    max_size=25,
)


@given(lines=BLOCKS, suffix=st.sampled_from([".md", ".txt"]))
def test_every_passage_stands_where_it_says(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], suffix: str
) -> None:
    """Nothing is lost but headings and lines without a letter, and the order is the file's."""
    path = write(tmp_path_factory.mktemp("p") / f"a{suffix}", "\n".join(lines))
    passages = read_passages(path)
    covered = set()
    last = 0
    for p in passages:
        assert last <= p.line <= p.last_line <= len(lines)
        last = p.last_line
        covered |= set(range(p.line, p.last_line + 1))
        here = "\n".join(lines[p.line - 1 : p.last_line])
        assert p.text in here
        assert p.text.strip()
    headings = " ".join(p.heading for p in passages)
    for number, line in enumerate(lines, 1):
        if any(c.isalnum() for c in line) and number not in covered:
            assert line.strip("# ") in headings


CODE = """\
import os


class Reader:
    \"\"\"Reads.\"\"\"

    def open(self):
        a = 1

        return a

    def close(self):
        pass


def free(x):
    for y in x:

        print(y)
"""


def test_code_is_cut_where_definitions_begin(tmp_path: Path) -> None:
    """Blank lines inside a function do not end a passage, nor does a colon or a line of dashes."""
    passages = read_passages(write(tmp_path / "a.py", CODE))
    assert places(passages) == [(1, 1, ""), (4, 13, ""), (16, 19, "")]
    assert passages[1].text == "\n".join(CODE.splitlines()[3:13])
    long = "def f():\n" + "\n".join(f"    call({i})\n" for i in range(200))
    passages = read_passages(write(tmp_path / "b.go", long))
    assert max(len(p.text.encode()) for p in passages) <= 1000
    assert [line for p in passages for line in p.text.split("\n") if line.strip()] == [
        line for line in long.split("\n") if line.strip()
    ]
    assert places(read_passages(write(tmp_path / "c.c", "title\n-----\nint x;\n"))) == [(1, 3, "")]
    assert len(read_passages(write(tmp_path / "d.sh", "a\nb\nc\n"))) == 1


def found_below(folder: Path) -> list[str]:
    return [os.path.relpath(p.path, folder) for p in read_passages(folder)]


def test_folder_with_code(tmp_path: Path) -> None:
    for name in ("a.py", "b.TS", "c.cu", "d.rs", "p.egg-info/SOURCES.txt", "q.dist-info/t.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "word")
    write(tmp_path / "film.ts", b"G\0\x11")
    assert found_below(tmp_path) == ["a.py", "b.TS", "c.cu", "d.rs"]


IGNORED = {
    ".gitignore": "*.log.txt\n/build/\n!keep.log.txt\ndocs/*.md\n",
    "a.txt": "x",
    "a.log.txt": "x",
    "keep.log.txt": "x",
    "build/b.py": "x",
    "docs/c.md": "x",
    "docs/d.txt": "x",
    "sub/build/e.py": "x",
    "sub/.gitignore": "f.py\n!g.log.txt\n",
    "sub/f.py": "x",
    "sub/g.log.txt": "x",
}


def make_ignoring(folder: Path) -> None:
    for name, content in IGNORED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, content)


def test_gitignore(tmp_path: Path) -> None:
    pytest.importorskip("pathspec")
    make_ignoring(tmp_path)
    kept = ["a.txt", "docs/d.txt", "keep.log.txt", "sub/build/e.py", "sub/g.log.txt"]
    assert found_below(tmp_path) == kept
    # Below a repository's root its rules hold too; without a repository they do not.
    write(tmp_path / "docs/h.py", "x")
    assert found_below(tmp_path / "docs") == ["c.md", "d.txt", "h.py"]
    (tmp_path / ".git").mkdir()
    assert found_below(tmp_path / "docs") == ["d.txt", "h.py"]


def test_gitignore_without_pathspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pathspec", None)
    make_ignoring(tmp_path)
    with pytest.warns(UserWarning, match=r"gitignore is not read.*native\[search\]") as caught:
        assert len(found_below(tmp_path)) == 9
    assert len(caught) == 1
