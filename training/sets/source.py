"""The source format of the evaluation sets: groups of queries, separated by blank lines.

    ? a query
    = its right answer
    ? a neighbour: another query of the group (optional)
    = its right answer
    - a distractor for every query of the group (several)
    ! a substring: no candidate that contains it is drawn from other groups (optional)

The answers of a group are distractors for its other queries. A line that starts with none of the
marks continues the text above it. Lines that start with `#` are comments. The name of a file is
the kind of its queries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "sources"
SHIPPED = Path(__file__).parents[2] / "qwen3_embed" / "retrieval" / "sets"
SETS = ("hard_zh", "hard_en", "zh_en", "code")


@dataclass(frozen=True)
class Block:
    """A query as it was written, before its other candidates are drawn."""

    kind: str
    group: int
    query: str
    answer: str
    near: tuple[str, ...]
    excluded: tuple[str, ...]

    @property
    def written(self) -> list[str]:
        """The answer first."""
        return [self.answer, *self.near]


@dataclass(frozen=True)
class Item:
    """A line of a shipped set: a query, its answer, and 15 distractors."""

    id: str
    kind: str
    query: str
    positive: str
    negatives: tuple[str, ...]

    @property
    def candidates(self) -> list[str]:
        """The answer first."""
        return [self.positive, *self.negatives]


def read_blocks(path: Path) -> list[Block]:
    """The queries of one source file; an error names the line."""
    blocks: list[Block] = []
    entries: list[list[str]] = []
    for number, line in enumerate([*path.read_text("utf-8").splitlines(), ""], 1):
        mark, _, text = line.partition(" ")
        if line.startswith("#"):
            continue
        if mark in {"?", "=", "-", "!"}:
            entries.append([mark, text])
        elif line.strip() and entries:
            entries[-1][1] += "\n" + line
        elif line.strip():
            raise SystemExit(f"error: {path}:{number}: {line!r} belongs to no query")
        elif entries:
            try:
                blocks += group(path.stem, len(blocks), entries)
            except ValueError as error:
                raise SystemExit(
                    f"error: {path}: the group that ends in line {number - 1} {error}"
                ) from None
            entries = []
    return blocks


def group(kind: str, number: int, entries: Sequence[Sequence[str]]) -> Iterator[Block]:
    """The queries of one group, each with the answers of the others as distractors."""
    marks = "".join(mark for mark, _ in entries)
    if not re.fullmatch(r"(\?=)+-*!*", marks):
        raise ValueError(f"has the marks {marks}, expected ?= (once or more), then - and !")
    texts = [text for _, text in entries]
    pairs = marks.count("?")
    answers = texts[1 : 2 * pairs : 2]
    near = [text for mark, text in entries if mark == "-"]
    excluded = tuple(text for mark, text in entries if mark == "!")
    for i, answer in enumerate(answers):
        others = tuple(answers[:i] + answers[i + 1 :] + near)
        yield Block(kind, number, texts[2 * i], answer, others, excluded)


def read_items(path: Path) -> list[Item]:
    """A shipped set."""
    records = map(json.loads, path.read_text("utf-8").splitlines())
    return [Item(**(r | {"negatives": tuple(r["negatives"])})) for r in records]


def write_items(path: Path, items: Iterable[Item]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
