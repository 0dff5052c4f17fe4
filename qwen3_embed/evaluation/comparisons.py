"""The effect of each changed setting: paired differences between rows, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .bootstrap import Bootstrap
from .metrics import HEADLINE
from .rows import Row

__all__ = ["MIN_QUERIES", "Comparison", "compare"]

MIN_QUERIES = 20  # with fewer, a bootstrap interval is too narrow to be trusted

Effect = Literal["better", "worse", "no clear effect", "too few queries"]


@dataclass(frozen=True)
class Comparison:
    """A row against its baseline.

    Attributes
    ----------
    subject, baseline : str
        What is compared with what: "instruction legal", "none".
    model : str
    difference, low, high : float
        Of the mean nDCG@10, with its paired 95 % interval, in points (0..100).
    effect : str
        "better" or "worse" if the interval is above or below 0; "no clear effect";
        "too few queries" below 20.
    """

    model: str
    subject: str
    baseline: str
    difference: float
    low: float
    high: float
    effect: Effect

    def __str__(self) -> str:
        is_instruction = self.subject.startswith("instruction")
        verbs = {
            "better": "helps" if is_instruction else "is better",
            "worse": "hurts" if is_instruction else "is worse",
            "no clear effect": "makes no clear difference",
            "too few queries": f"can't be judged with fewer than {MIN_QUERIES} queries",
        }
        head = f"{self.model}: {self.subject} against {self.baseline} {verbs[self.effect]}"
        return (
            f"{head}: {_signed(self.difference)} points of {HEADLINE} "
            f"(95 % interval {_signed(self.low)} to {_signed(self.high)})"
        )


def compare(rows: Sequence[Row], bootstrap: Bootstrap) -> list[Comparison]:
    """Each setting that differs from a model's baseline, alone; then models' baselines.

    The baseline of a model has the instruction "none" if it was measured, else the first; the
    largest dimension; float32 if it was measured.
    """
    found = []
    for subject, row, baseline, other in _pairs(rows):
        differences = row.values[HEADLINE] - other.values[HEADLINE]
        (low,), (high,) = (bootstrap.intervals(differences[:, None]) * 100).tolist()
        effect: Effect = "no clear effect"
        if len(differences) < MIN_QUERIES:
            effect = "too few queries"
        elif low > 0:
            effect = "better"
        elif high < 0:
            effect = "worse"
        mean = float(differences.mean()) * 100
        found.append(Comparison(row.model, subject, baseline, mean, low, high, effect))
    return found


def _signed(points: float) -> str:
    """One decimal with its sign, none for zero."""
    return f"{points:+.1f}" if round(points, 1) else "0.0"


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[str, Row, str, Row]]:
    """(subject, its row, baseline, its row)."""
    bases: list[Row] = []
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        base = min(own, key=_distance_from_base)
        bases.append(base)
        for row in own:
            settings = zip(_settings(row), _settings(base), strict=True)
            changed = [(one, other) for one, other in settings if one != other]
            if len(changed) == 1:
                yield changed[0][0], row, changed[0][1].removeprefix("instruction "), base
    for base in bases[1:]:
        yield _described(base), base, f"{bases[0].model} ({_described(bases[0])})", bases[0]


def _distance_from_base(row: Row) -> tuple[bool, bool, int, bool]:
    return (row.reranked, row.instruction != "none", -row.dim, row.precision != "float32")


def _settings(row: Row) -> tuple[str, ...]:
    return (
        f"instruction {row.instruction}",
        f"{row.dim} dimensions",
        row.precision,
        "reranking" if row.reranked else "the vectors' order",
    )


def _described(row: Row) -> str:
    instruction, dim, *_ = _settings(row)
    return f"{dim}, {instruction}" if row.instruction else dim
