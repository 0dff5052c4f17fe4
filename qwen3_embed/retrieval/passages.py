"""A corpus on disk, cut into passages that know their file and lines.

Text and Markdown are cut at blank lines and headings, a text file without blank lines at every
line, JSON lines at every record. What is still too long is cut at line ends, then at the ends
of sentences. So a passage is one thing said, short enough to read in a list of results.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .corpus_files import CODE, MARKDOWN, RECORDS, CorpusFile, is_binary, suffix_of

__all__ = ["CUTTING_VERSION", "Passage", "decode_text", "read_files"]

CUTTING_VERSION = 1
"""Raised with every change of where a file is cut: vectors of passages are remembered by file."""

_MAX_BYTES = 1000  # of a passage in UTF-8, about: 250 tokens of English or of Chinese

_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r"={3,}|-{3,}|~{3,}")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# After a mark that ends a sentence: at once in Chinese, elsewhere before a blank.
_SENTENCE_END = re.compile(r"(?<=[。！？；])|(?<=[.!?;])(?=\s)")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file.

    Attributes
    ----------
    path : str
        As it was asked for; in a folder, the folder's name and the path below it.
    line, last_line : int
        Where it stands, counted from 1.
    heading : str
        The headings above it, "Git > Undo"; a record's title; "" without.
    text : str
        As in the file, line breaks included.
    """

    path: str
    line: int
    last_line: int
    heading: str
    text: str

    @property
    def in_context(self) -> str:
        """The text to embed: the passage below its headings."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def read_files(
    files: Iterable[CorpusFile],
    column: str = "text",
    *,
    encoding: str | None = None,
    leaves_out: bool = False,
) -> Iterator[tuple[CorpusFile, list[Passage]]]:
    """Reads files and cuts them into passages.

    Parameters
    ----------
    files : iterable of CorpusFile
    column : str
        Where a JSON-lines record has its text; a string in place of a record is the text.
    encoding : str, optional
        Of files that are not UTF-8.
    leaves_out : bool
        Leave out a file that cannot be read, with a warning, and code that is binary.

    Yields
    ------
    (CorpusFile, list of Passage)
        In the order of the files and lines; no passages for an empty file.

    Raises
    ------
    OSError
        A file that can't be read.
    ValueError
        A file that isn't text in either encoding, or isn't JSON lines.

    Warns
    -----
    UserWarning
        For each file that is left out.

    Examples
    --------
    >>> files = find_files("notes.txt")                                    # doctest: +SKIP
    >>> [p.line for _, passages in read_files(files) for p in passages]    # doctest: +SKIP
    [1, 4, 9]
    """
    for file in files:
        try:
            content = Path(file.path).read_bytes()
            is_text = not (leaves_out and is_binary(file.path, content))
            passages = list(_cut(file.path, content, column, encoding)) if is_text else []
        except (OSError, ValueError) as error:
            if not leaves_out:
                raise
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        yield file, passages


def decode_text(content: bytes, name: str, encoding: str | None = None) -> str:
    """The text of a file, its lines ending in "\\n".

    Parameters
    ----------
    content : bytes
    name : str
        In errors.
    encoding : str, optional
        If the file isn't UTF-8, as hardly any text in another encoding is by chance. None: the
        caller offers no choice.

    Raises
    ------
    ValueError
        Names a line that is neither.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as not_utf8:
        text = _decode_otherwise(content, name, encoding, not_utf8)
    return text.replace("\r\n", "\n")


def _decode_otherwise(
    content: bytes, name: str, encoding: str | None, error: UnicodeDecodeError
) -> str:
    found, advice = "UTF-8", "convert it with iconv"
    if encoding is not None:
        advice = f"pass its encoding, such as encoding='gb18030', or {advice}"
        if codecs.lookup(encoding).name != "utf-8":
            found = f"UTF-8 or {encoding}"
            try:
                return content.decode(encoding)
            except UnicodeDecodeError as in_encoding:
                error = in_encoding
    line = content.count(b"\n", 0, error.start) + 1
    raise ValueError(f"{name} is not {found} in line {line}; {advice}") from None


def _cut(path: str, content: bytes, column: str, encoding: str | None) -> Iterator[Passage]:
    text = decode_text(content, path, encoding)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path} is not a text file: it has a NUL in line {line}")
    lines = text.split("\n")
    if suffix_of(path) in RECORDS:
        whole = _records(path, lines, column)
    elif suffix_of(path) in MARKDOWN:
        whole = _Blocks(path, markdown=True).cut(lines)
    elif suffix_of(path) in CODE:
        whole = _code(path, lines)
    elif "" in (line.strip() for line in text.strip().split("\n")):
        whole = _Blocks(path, markdown=False).cut(lines)
    else:
        whole = (Passage(path, i, i, "", line) for i, line in enumerate(lines, 1))
    for passage in whole:
        if _has_words(passage.text):
            yield from _pieces(passage)


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _records(path: str, lines: list[str], column: str) -> Iterator[Passage]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        title: object = ""
        if isinstance(record, dict):
            names = ", ".join(record)
            title, record = record.get("title"), record.get(column)
            if not isinstance(record, str):
                raise ValueError(
                    f"{path}, line {number}: no text under {column!r}, found the names {names}; "
                    f"choose one with --column"
                )
        elif not isinstance(record, str):
            raise ValueError(
                f"{path}, line {number}: {type(record).__name__}, expected an object or a string"
            )
        title = title if isinstance(title, str) else ""
        if _SURROGATE.search(title + record):
            raise ValueError(f"{path}, line {number}: a \\u escape is half of a surrogate pair")
        yield Passage(path, number, number, title, record)


def _code(path: str, lines: list[str]) -> Iterator[Passage]:
    """Cuts code at blank lines, but joins what belongs together while it is short enough.

    A block below a blank line continues the passage above if it is indented more deeply than
    that passage's first line: the next lines of a function, or a class's first method.
    """
    open_: Passage | None = None
    for block in _Blocks(path, markdown=False, headings=False).cut(lines):
        if open_ is not None:
            gap = "\n" * (block.line - open_.last_line)
            joined = replace(open_, last_line=block.last_line, text=open_.text + gap + block.text)
            deeper = _indentation(block.text) > _indentation(open_.text)
            if deeper and len(joined.text.encode()) <= _MAX_BYTES:
                open_ = joined
                continue
            yield open_
        open_ = block
    if open_ is not None:
        yield open_


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip())


class _Blocks:
    """Cuts the lines of one file at blank lines and headings.

    A block that ends in a colon goes on behind the blank line, so that a list or an example
    stays with the sentence that introduces it.
    """

    def __init__(self, path: str, *, markdown: bool, headings: bool = True) -> None:
        self._path = path
        self._may_have_headings = headings
        self._markdown = markdown
        self._headings: list[tuple[int, str]] = []  # (level, title), outermost first
        self._heading_line = 0  # of the innermost while no block has stood below it, else 0
        self._first = 0  # the line on which the block begins
        self._block: list[str] = []

    def cut(self, lines: list[str]) -> Iterator[Passage]:
        """The passages of a file, in order."""
        fence = ""
        for number, line in enumerate(lines, 1):
            found = _FENCE.match(line) if self._markdown else None
            if fence:
                self._add(number, line)
                if found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
                    fence = ""
            elif found:
                fence = found[1]
                self._add(number, line)
            elif not line.strip():
                ends_in_colon = "".join(self._block).rstrip().endswith((":", "："))
                if not (ends_in_colon and self._may_have_headings):
                    yield from self._end_block()
                elif self._block:
                    self._block.append(line)
            elif self._markdown and (heading := _HEADING.fullmatch(line)):
                yield from self._end_block()
                yield from self._begin_section(number, len(heading[1]), heading[2])
            elif self._is_title() and _UNDERLINE.fullmatch(line.rstrip()):
                title = self._block.pop()
                yield from self._begin_section(number - 1, 1 + (line[0] != "="), title.strip())
            else:
                self._add(number, line)
        yield from self._end_block()
        yield from self._bare_heading(0)

    def _add(self, number: int, line: str) -> None:
        if not self._block:
            self._first = number
        self._block.append(line)

    def _is_title(self) -> bool:
        return self._may_have_headings and len(self._block) == 1 and _has_words(self._block[0])

    def _end_block(self) -> Iterator[Passage]:
        while self._block and not self._block[-1].strip():
            self._block.pop()
        if _has_words("".join(self._block)):
            trail = " > ".join(title for _, title in self._headings if title)
            last = self._first + len(self._block) - 1
            yield Passage(self._path, self._first, last, trail, "\n".join(self._block))
            self._heading_line = 0
        self._block = []

    def _begin_section(self, number: int, level: int, title: str) -> Iterator[Passage]:
        yield from self._bare_heading(level)
        while self._headings and self._headings[-1][0] >= level:
            self._headings.pop()
        self._headings.append((level, title))
        self._heading_line = number

    def _bare_heading(self, next_level: int) -> Iterator[Passage]:
        """A heading with nothing below it is a passage, or it could not be found."""
        if self._heading_line and self._headings[-1][0] >= next_level:
            *above, (_, title) = self._headings
            trail = " > ".join(title for _, title in above if title)
            yield Passage(self._path, self._heading_line, self._heading_line, trail, title)


def _pieces(passage: Passage) -> Iterator[Passage]:
    """A passage in pieces of about equal size, cut where a reader would cut."""
    size_bytes = len(passage.text.encode())
    if size_bytes <= _MAX_BYTES:
        yield passage
        return
    n_pieces = math.ceil(size_bytes / _MAX_BYTES)
    pieces: list[list[tuple[int, str]]] = [[] for _ in range(n_pieces)]
    begin_bytes = 0
    for number, part in _parts(passage):
        part_bytes = len(part.encode())
        # Where the middle of the part lies says which piece it goes to.
        middle = begin_bytes + part_bytes / 2
        pieces[int(middle * n_pieces / size_bytes)].append((number, part))
        begin_bytes += part_bytes
    for piece in filter(None, pieces):
        text = "".join(part for _, part in piece).strip()
        yield replace(passage, line=piece[0][0], last_line=piece[-1][0], text=text)


def _parts(passage: Passage) -> Iterator[tuple[int, str]]:
    """(line, text) of a passage's lines, long ones in sentences; together the whole text."""
    in_one_line = passage.line == passage.last_line
    for i, line in enumerate(passage.text.splitlines(keepends=True)):
        number = passage.line + (0 if in_one_line else i)
        if len(line.encode()) <= _MAX_BYTES // 2:
            yield number, line
            continue
        for sentence in _SENTENCE_END.split(line):
            # What has no sentences either is cut anywhere.
            n_cuts = math.ceil(len(sentence.encode()) / _MAX_BYTES)
            step = math.ceil(len(sentence) / max(1, n_cuts))
            for start in range(0, len(sentence), max(1, step)):
                yield number, sentence[start : start + step]
