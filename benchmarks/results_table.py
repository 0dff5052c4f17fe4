"""Rows of benchmarks/results, chosen by what they measure, and tables in Markdown made of them.

Of rows that measure the same thing in the same way, the last one counts.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

__all__ = [
    "ROOT",
    "Cell",
    "Row",
    "Table",
    "compact",
    "device_of",
    "error",
    "latest",
    "number",
    "percent",
    "rows_of",
    "times",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Row = Mapping[str, str]
Cell = Callable[[Row], str]


@cache
def rows_of(name: str) -> tuple[Row, ...]:
    """The rows of benchmarks/results/NAME.csv, oldest first."""
    with open(RESULTS / f"{name}.csv", encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def latest(name: str, key: Iterable[str] = (), **wanted: str) -> list[Row]:
    """The last row for each value of the key among those with the wanted values.

    Wanted values are patterns of `fnmatch`. Without a key there must be one row at least,
    and the last is returned alone.
    """
    keys = tuple(key)
    found: dict[tuple[str, ...], Row] = {}
    for row in rows_of(name):
        if all(fnmatchcase(row[column], value) for column, value in wanted.items()):
            found[tuple(row[column] for column in keys)] = row
    if not found:
        raise LookupError(f"{name}.csv has no row with {wanted}")
    return list(found.values())


def compact(value: str | float, digits: int = 3) -> str:
    """A number with at most so many significant digits, and commas between thousands."""
    number = float(value)
    if number == 0:
        return "0"
    if abs(number) >= 10 ** (digits - 1):
        return f"{number:,.0f}"
    if abs(number) < 0.001:
        return f"{number:.2g}"
    return f"{number:#.{digits}g}".removesuffix(".")


def device_of(row: Row) -> str:
    """The machine in a few words."""
    words = row["machine"]
    for mark, name in (
        ("H200", "H200"),
        ("16 cores", "16 cores, AMX"),
        ("2 cores", "2 cores, AVX-512-BF16"),
    ):
        if mark in words:
            return name
    return words


@dataclass(frozen=True)
class Table:
    """Columns, each with a heading and a cell per row; `rows` are those of one CSV file."""

    rows: Callable[[], list[Row]]
    columns: Mapping[str, str | Cell]

    def __str__(self) -> str:
        rows = self.rows()
        lines = [_line(self.columns), _line("---" for _ in self.columns)]
        for row in rows:
            cells = (row[c] if isinstance(c, str) else c(row) for c in self.columns.values())
            lines.append(_line(cells))
        return "\n".join(lines) + "\n\n" + _sources(rows)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sources(rows: list[Row]) -> str:
    """One line per run: when, where and how it was measured."""
    found: dict[tuple[str, str, str], None] = {}
    for row in rows:
        machine = row.get("machine") or row["gpu"]
        found[row["date"], f"{machine}, commit {row['commit'].rstrip('+')}", row["command"]] = None
    lines = [f"- {date}, {where}: `{command}`" for date, where, command in found]
    count = f"{len(lines)} runs" if len(lines) > 1 else "1 run"
    return f'??? note "Measured in {count}"\n\n' + "\n".join(f"    {line}" for line in lines)


def number(column: str, digits: int = 3) -> Cell:
    return lambda row: compact(row[column], digits) if row[column] else ""


def times(column: str) -> Cell:
    return lambda row: f"{float(row[column]):.2f}x" if float(row[column] or 0) else ""


def error(column: str) -> Cell:
    return lambda row: f"{float(row[column]):.1e}"


def percent(column: str) -> Cell:
    return lambda row: f"{100 * float(row[column]):.0f} %"
