"""Text in a terminal's columns: how wide it stands, where a line breaks.

Chinese characters take two columns, marks that combine none; lines break at blanks and
beside Chinese characters, but not before a mark that closes or after one that opens.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterator

__all__ = ["cut_to_width", "display_width", "fitted", "printable", "terminal_columns", "wrap"]

_NEVER_FIRST = frozenset("，。、！？：；）」』】》〉〕”’…—～·％,.!?:;)]}%")
_NEVER_LAST = frozenset("（「『【《〈〔“‘([{")
_REVERSING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(line: str) -> str:
    """A line that can't move the cursor or reorder what stands around it; tabs as blanks."""
    line = line.expandtabs(4)
    if line.isprintable():
        return line
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in _REVERSING else c for c in line
    )


def display_width(text: str) -> int:
    """Columns that a printable text takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1


def cut_to_width(text: str, n_columns: int) -> str:
    """The text, or its beginning and an ellipsis, in at most `n_columns`."""
    if display_width(text) <= n_columns:
        return text
    return text[: _fitting(text, n_columns - 1)].rstrip() + "…"


def wrap(line: str, n_columns: int) -> Iterator[str]:
    """One printable line in lines of at most `n_columns`; blanks at a break are dropped."""
    while display_width(line) > n_columns:
        n_fitting = max(1, _fitting(line, n_columns))
        stop = next((i for i in range(n_fitting, 0, -1) if _may_break(line, i)), n_fitting)
        yield line[:stop].rstrip()
        line = line[stop:].lstrip()
    yield line


def terminal_columns() -> int | None:
    """The width of standard output; None if it is no terminal but a file or a program."""
    return max(shutil.get_terminal_size().columns, 20) if sys.stdout.isatty() else None


def fitted(text: str, indent: int = 2) -> str:
    """The text with its long lines broken for a terminal, and as it is for anything else."""
    n_columns = terminal_columns()
    if n_columns is None:
        return text
    lines = []
    for line in text.split("\n"):
        first = next(wrap(line, n_columns))
        rest = line[len(first) :].lstrip()
        lines.append(first)
        if rest:
            lines += [" " * indent + part for part in wrap(rest, max(n_columns - indent, 10))]
    return "\n".join(lines)


def _fitting(text: str, n_columns: int) -> int:
    """The number of characters that fit, with the marks that combine with the last one."""
    for i, character in enumerate(text):
        n_columns -= _width(character)
        if n_columns < 0:
            return i
    return len(text)


def _may_break(line: str, i: int) -> bool:
    """True if a new line may begin with line[i]."""
    before, after = line[i - 1], line[i]
    if before.isspace() or after.isspace():
        return bool(line[:i].strip())  # not within the indentation
    if before in _NEVER_LAST or after in _NEVER_FIRST:
        return False
    return _width(before) == 2 or _width(after) == 2
