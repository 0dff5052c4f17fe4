"""The report: a table on the terminal, Markdown, CSV, JSON and plots."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bootstrap import CONFIDENCE, DRAWS
from .comparisons import MIN_QUERIES, Comparison
from .datasets import Dataset
from .metrics import HEADLINE
from .readers import BUILT_IN
from .rows import Row

__all__ = ["Report"]

_OFFICIAL = "Qwen3-Embedding-0.6B"
_MAX_INSTRUCTION = 24  # characters shown
_N_NAMES = 4  # columns that say which system a row is of
_CONFIDENCE = f"{100 * CONFIDENCE:.0f} %"


@dataclass(frozen=True)
class Report:
    """Results of one `evaluate`.

    Attributes
    ----------
    data : Dataset
    rows : list of Row
        One per system.
    comparisons : list of Comparison
        One changed setting each, against the model's baseline.
    """

    data: Dataset
    rows: list[Row]
    comparisons: list[Comparison]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the tables."""
        return list(self.rows[0].values)

    @property
    def conclusions(self) -> list[str]:
        """One sentence per comparison; how many queries they rest on."""
        told = [str(comparison) for comparison in self.comparisons]
        if len(self.data.queries) < MIN_QUERIES:
            told.append(
                f"{len(self.data.queries)} queries are too few: intervals need at least "
                f"{MIN_QUERIES} to mean anything"
            )
        return told

    def __str__(self) -> str:
        """The table for a terminal, the conclusions below it."""
        return self.to_text()

    def to_text(self, n_columns: int | None = None) -> str:
        """The table, and the conclusions below it.

        Parameters
        ----------
        n_columns : int, optional
            A wider table becomes several, one below the other, each with the system's columns.
        """
        cells = [self._header(), *(self._cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines: list[str] = []
        for chosen in _parts(widths, n_columns):
            for line in cells:
                shown = (
                    line[i].ljust(widths[i]) if i < 2 else line[i].rjust(widths[i]) for i in chosen
                )
                lines.append("  ".join(shown).rstrip())
            lines.append("")
        return "\n".join([self._title(), "", *lines, *self.conclusions, *self._hint()]).rstrip()

    def _title(self) -> str:
        among = len(self.data.documents)
        ranked = f"{among} documents"
        if self.data.candidates is not None:
            sizes = sorted({len(own) for own in self.data.candidates})
            counts = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            ranked = f"{counts} candidates each, of {ranked}"
        return (
            f"{self.data.name}: {len(self.data.queries)} queries, {ranked}; "
            f"points with the {_CONFIDENCE} interval of {HEADLINE} over queries"
        )

    def _hint(self) -> list[str]:
        """The command that adds an official model to a built-in set's table."""
        if self.data.name not in BUILT_IN or any("Qwen3-" in row.model for row in self.rows):
            return []
        return [
            "",
            "With an official model:",
            f"  qwen3-embed evaluate {self.data.name} --model mini {_OFFICIAL}",
        ]

    def _header(self) -> list[str]:
        names = ["model", "instruction", "dim", "precision", HEADLINE, "interval"]
        return [*names, *self.metrics[1:], "bytes", "ms/query", "texts/s", "peak MB"]

    def _cells(self, row: Row) -> list[str]:
        low, high = (100 * end for end in row.intervals[HEADLINE])
        return [
            row.name,
            _shortened(row.instruction),
            str(row.dim),
            row.precision,
            f"{row.mean(HEADLINE):.1f}",
            f"{low:.1f}-{high:.1f}",
            *(f"{row.mean(metric):.1f}" for metric in self.metrics[1:]),
            str(row.bytes_per_vector),
            _number(row.query_ms, 1),
            _number(row.texts_per_s, 0),
            _number(row.peak_mb, 0),
        ]

    def to_markdown(self) -> str:
        """The report as Markdown: all intervals, kinds, notes on the data."""
        parts = [f"# Evaluation on {_escaped(self.data.name)}", self._title() + ".", ""]
        parts += _table(self._header(), [self._cells(row) for row in self.rows])
        if self.comparisons:
            parts += ["", "## What a setting changes", ""]
        parts += [f"- {_escaped(told)}." for told in self.conclusions]
        parts += ["", "## Intervals", ""]
        names = [self._name(row) for row in self.rows]
        cells = [
            [name, *(_with_interval(row, metric) for metric in self.metrics)]
            for name, row in zip(names, self.rows, strict=True)
        ]
        parts += _table(["system", *self.metrics], cells)
        kinds = list(dict.fromkeys(self.data.kinds))
        if len(kinds) > 1:
            parts += ["", "## Top-1 by kind", ""]
            masks = [[kind == other for other in self.data.kinds] for kind in kinds]
            cells = [
                [name, *(f"{100 * row.values['Top-1'][mask].mean():.1f}" for mask in masks)]
                for name, row in zip(names, self.rows, strict=True)
            ]
            counts = [
                f"{kind or 'other'} ({sum(mask)})" for kind, mask in zip(kinds, masks, strict=True)
            ]
            parts += _table(["system", *counts], cells)
        if self.data.notes:
            parts += ["", "## The data", "", *(f"- {_escaped(n)}." for n in self.data.notes)]
        parts += [
            "",
            f"Intervals: {_CONFIDENCE}, percentile bootstrap over queries, {DRAWS} draws, paired "
            f"in comparisons, each interval by itself. Equal scores are ordered by a fixed random "
            f"permutation of the documents. ms/query: one warm query, encoded alone. peak MB: of "
            f"this process, without a GPU's memory.",
            "",
        ]
        return "\n".join(parts)

    def _name(self, row: Row) -> str:
        parts = (row.name, _shortened(row.instruction), f"{row.dim}", row.precision)
        return " · ".join(part for part in parts if part)

    def to_csv(self) -> str:
        """One line per system; means and interval ends in points."""
        ends = [f"{metric} {end}" for metric in self.metrics for end in ("", "low", "high")]
        names = ["model", "instruction", "dim", "precision", "reranked", *map(str.strip, ends)]
        names += ["bytes_per_vector", "query_ms", "texts_per_s", "peak_mb"]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in self.rows:
            figures = [
                f"{figure:.4f}"
                for metric in self.metrics
                for figure in (row.mean(metric), *(100 * end for end in row.intervals[metric]))
            ]
            costs = [_number(row.query_ms, 3), _number(row.texts_per_s, 1), _number(row.peak_mb, 1)]
            system = [row.model, row.instruction, row.dim, row.precision, int(row.reranked)]
            writer.writerow([*system, *figures, row.bytes_per_vector, *costs])
        return file.getvalue()

    def to_json(self) -> str:
        """Everything, with the metrics of every query."""
        content: dict[str, Any] = {
            "data": self.data.name,
            "n_queries": len(self.data.queries),
            "n_documents": len(self.data.documents),
            "notes": self.data.notes,
            "conclusions": self.conclusions,
            "systems": [self._record(row) for row in self.rows],
        }
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def _record(self, row: Row) -> dict[str, Any]:
        return {
            "model": row.model,
            "instruction": row.instruction,
            "dim": row.dim,
            "precision": row.precision,
            "reranked": row.reranked,
            "bytes_per_vector": row.bytes_per_vector,
            "query_ms": row.query_ms,
            "texts_per_s": row.texts_per_s,
            "peak_mb": row.peak_mb,
            "metrics": {
                metric: {
                    "mean": float(row.values[metric].mean()),
                    "low": row.intervals[metric][0],
                    "high": row.intervals[metric][1],
                    "per_query": [round(value, 6) for value in row.values[metric].tolist()],
                }
                for metric in self.metrics
            },
        }

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes report.md, report.csv, report.json, quality.png and, where a model has several
        sizes of vectors, size.png.

        Parameters
        ----------
        folder : path-like
            Made if it isn't there; files of the same names are replaced.

        Returns
        -------
        list of Path

        Raises
        ------
        ImportError
            matplotlib is not installed; the texts are written before.
        """
        from .plots import plot_quality, plot_size

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        texts = {".md": self.to_markdown(), ".csv": self.to_csv(), ".json": self.to_json()}
        paths = []
        for suffix, text in texts.items():
            paths.append(target / f"report{suffix}")
            paths[-1].write_text(text, encoding="utf-8")
        paths.append(plot_quality(self.rows, self.data.name, target / "quality.png"))
        sizes = {(row.model, row.bytes_per_vector) for row in self.rows}
        if len(sizes) > len({row.model for row in self.rows}):
            paths.append(plot_size(self.rows, self.data.name, target / "size.png"))
        return paths


def _shortened(instruction: str) -> str:
    if len(instruction) <= _MAX_INSTRUCTION:
        return instruction
    return instruction[: _MAX_INSTRUCTION - 1].rstrip() + "…"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _with_interval(row: Row, metric: str) -> str:
    low, high = (100 * end for end in row.intervals[metric])
    return f"{row.mean(metric):.1f} ({low:.1f}-{high:.1f})"


def _escaped(text: str) -> str:
    """Text that can't end a cell or a line of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = [header, ["---"] * len(header), *lines]
    return ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]


def _parts(widths: list[int], n_columns: int | None) -> list[list[int]]:
    """The columns of each table that fits: the names of the system, then as many as there is room.

    Examples
    --------
    >>> _parts([5, 5, 3, 8, 10, 10, 10], 50)
    [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5], [0, 1, 2, 3, 6]]
    """
    names = list(range(_N_NAMES))
    parts = [names]
    for column in range(_N_NAMES, len(widths)):
        wider = [*parts[-1], column]
        if n_columns is None or sum(widths[i] + 2 for i in wider) - 2 <= n_columns:
            parts[-1] = wider
        elif parts[-1] == names:
            parts[-1] = wider  # not even one fits: the terminal breaks its lines
        else:
            parts.append([*names, column])
    return parts
