"""Handbooks, help pages, manual pages and dictionaries -> blocks of plain text.

The one idea: a page is a list of (tag, text) blocks; two pages of a translation are paired
where their tags agree, so no sentence aligner is needed.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path

_BLOCKS = frozenset(
    [
        "p",
        "title",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "li",
        "dt",
        "dd",
        "td",
        "th",
        "para",
        "desc",
        "cmd",
        "item",
        "pre",
    ]
)
_HEADINGS = frozenset(["title", "h1", "h2", "h3", "h4", "h5", "h6", "dt"])
_SKIPPED = frozenset(
    ["script", "style", "nav", "info", "credit", "screen", "programlisting", "code-block"]
)
Block = tuple[str, str]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._tag = ""
        self._text: list[str] = []
        self._skip = 0

    def _flush(self) -> None:
        text = re.sub(r"\s+", " ", "".join(self._text)).strip()
        if text and self._tag:
            self.blocks.append((self._tag, text))
        self._text = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _SKIPPED:
            self._skip += 1
        elif tag in _BLOCKS:
            self._flush()
            self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skip = max(0, self._skip - 1)
        elif tag in _BLOCKS or tag in ("div", "body", "table"):
            self._flush()
            self._tag = ""

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self._text.append(data)


def page_blocks(markup: str) -> list[Block]:
    """Return the (tag, text) blocks of an HTML, Mallard or DocBook page."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return reader.blocks


def read_page(path: Path) -> list[Block]:
    """Read a page (gzip or plain) into blocks; a page that cannot be read has none."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except OSError:
        return []
    return page_blocks(data.decode("utf-8", "replace"))


def aligned(left: list[Block], right: list[Block]) -> Iterator[tuple[str, str]]:
    """Yield (left, right) texts of the blocks where two translations have the same tags."""
    matcher = SequenceMatcher(None, [t for t, _ in left], [t for t, _ in right], False)
    for i, j, n in matcher.get_matching_blocks():
        if n < 3 and n < min(len(left), len(right)):
            continue
        for k in range(n):
            yield left[i + k][1], right[j + k][1]


def sections(blocks: list[Block], max_chars: int) -> Iterator[tuple[str, str]]:
    """Yield (heading, following text cut at `max_chars`) of one page."""
    heading, text = "", ""
    for tag, block in [*blocks, ("title", "")]:
        if tag in _HEADINGS:
            if heading and len(text) > 60:
                yield heading, text[:max_chars]
            heading, text = block, ""
        elif len(text) < max_chars:
            text = f"{text} {block}".strip()


def manual_page(path: Path) -> tuple[str, str]:
    """Return (one-line description, text) of a manual page; both empty when it has none."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError):
        return "", ""
    source = data.decode("utf-8", "replace")
    lines = []
    for line in source.splitlines():
        if line.startswith(('.\\"', "'\\\"")):
            continue
        if line.startswith((".SH", ".Sh")):
            line = "\n\n#" + line[3:].strip(' "')
        elif line.startswith((".", "'")):
            macro, _, rest = line.partition(" ")
            line = rest if macro in (".B", ".I", ".BR", ".IR", ".SS", ".Nm", ".Nd") else ""
        line = re.sub(r"\\f[A-Z(]|\\f\[[^\]]*\]|\\[&,/|^]", "", line).replace("\\-", "-")
        lines.append(re.sub(r"\\\((lq|rq|aq|dq|cq)", '"', line).replace("\\(em", "-"))
    text = re.sub(r"[ \t]+", " ", "\n".join(lines))
    parts = re.split(r"\n+#", text)
    summary, body = "", []
    for part in parts[1:]:
        title, _, rest = part.partition("\n")
        rest = re.sub(r"\s+", " ", rest).strip()
        if not summary and title.strip() in ("NAME", "Name", "名称", "名字", "NAME 名称", "命令名"):
            summary = rest.split(" - ", 1)[-1] if " - " in rest else ""
        elif title.strip().upper() not in (
            "SYNOPSIS",
            "SEE ALSO",
            "COPYRIGHT",
            "AUTHOR",
            "AUTHORS",
        ):
            body.append(rest)
    return summary[:300], " ".join(body)


def _number(text: str) -> int:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    value = 0
    for char in text:
        value = value * 64 + digits.index(char)
    return value


def dictionary(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (headword, entry) of the dictd databases below `folder`."""
    for index in sorted(folder.rglob("*.index")):
        data = index.with_suffix(".dict.dz")
        if not data.exists():
            continue
        text = gzip.decompress(data.read_bytes())
        for line in index.read_text("utf-8", "replace").splitlines():
            word, start, length = line.split("\t")[:3]
            if word.startswith("00-database") or word.startswith("00database"):
                continue
            at = _number(start)
            entry = text[at : at + _number(length)].decode("utf-8", "replace")
            yield word, re.sub(r"\s+", " ", entry).strip()
