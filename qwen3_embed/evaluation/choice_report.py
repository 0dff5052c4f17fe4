"""The report of `choose`: what was chosen, the runner-up, and all settings measured."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .bootstrap import CONFIDENCE
from .metrics import HEADLINE
from .rankings import Setting

__all__ = ["COSTS", "Choice", "Cost", "Option", "cost_of"]

Cost = Literal["bytes", "memory"]
COSTS: tuple[Cost, ...] = get_args(Cost)

_CONFIDENCE = f"{100 * CONFIDENCE:.0f} %"


def cost_of(setting: Setting, minimise: Cost) -> tuple[float, ...]:
    """The order of settings, cheapest first: the cost, the other cost, fewer candidates."""
    costs = (setting.bytes_per_vector, setting.memory_per_vector)
    first, second = costs if minimise == "bytes" else costs[::-1]
    return first, second, setting.oversample


@dataclass(frozen=True)
class Option:
    """A setting that was measured.

    Attributes
    ----------
    setting : Setting
    ratio : float
        Of its nDCG@10 to that of full float32 vectors.
    bound : float
        The ratio's lower bound; all bounds hold at once with 95 % confidence.
    """

    setting: Setting
    ratio: float
    bound: float


@dataclass(frozen=True)
class Choice:
    """Result of one `choose`.

    Attributes
    ----------
    data, model : str
    n_queries, n_measured : int
        Queries, and documents they were ranked among.
    notes : list of str
        What of the data was left out; that queries were made of documents.
    quality : float
        nDCG@10 of full float32 vectors, 0..1.
    target : float
    n_documents : int
        For the sizes.
    minimise : {"bytes", "memory"}
    options : list of Option
        The cheapest first.
    """

    data: str
    model: str
    n_queries: int
    n_measured: int
    notes: list[str]
    quality: float
    target: float
    n_documents: int
    minimise: Cost
    options: list[Option]

    @property
    def chosen(self) -> Option:
        """The cheapest option whose bound reaches the target."""
        return next(option for option in self.options if option.bound >= self.target)

    @property
    def runner_up(self) -> Option | None:
        """The best of the cheaper options: the highest bound; None if nothing is cheaper."""
        cheaper = self.options[: self.options.index(self.chosen)]
        return max(cheaper, key=lambda option: option.bound, default=None)

    @property
    def next_option(self) -> Option | None:
        """The next costlier option that reaches the target too."""
        later = self.options[self.options.index(self.chosen) + 1 :]
        return next((option for option in later if option.bound >= self.target), None)

    def __str__(self) -> str:
        """The choice, the runner-up and the cautions, for a terminal."""
        return "\n".join([self._title(), "", *self._lines(), "", *self.cautions()])

    def _title(self) -> str:
        return (
            f"{self.data}: {self.n_queries} queries among {self.n_measured} documents, "
            f"{self.model}; {HEADLINE} of full float32 vectors {100 * self.quality:.1f}"
        )

    def _lines(self) -> list[str]:
        chosen = self.chosen
        lines = [f"chosen: {self._described(chosen)}"]
        if chosen.setting == self._reference:
            lines[0] = f"chosen: {self._sizes(chosen.setting)}: nothing cheaper is certain to do"
        if (other := self.runner_up) is not None:
            lines.append(f"runner-up: {self._described(other)}; {self._shortfall(other)}")
        if (other := self.next_option) is not None and other.setting != self._reference:
            lines.append(f"next that reaches it: {self._described(other)}")
        return lines

    @property
    def _reference(self) -> Setting:
        return Setting(max(option.setting.dim for option in self.options))

    def _described(self, option: Option) -> str:
        return (
            f"{self._sizes(option.setting)}: {100 * option.ratio:.1f} % of the quality, "
            f"at least {100 * option.bound:.1f} %"
        )

    def _sizes(self, setting: Setting) -> str:
        stored, memory = setting.bytes_per_vector, setting.memory_per_vector
        sizes = f"{stored} bytes per vector, {_bytes(stored * self.n_documents)}"
        if memory != stored:
            sizes += f", of which every search reads {_bytes(memory * self.n_documents)}"
        return f"{setting} ({sizes} for {self.n_documents:,} documents)"

    def _shortfall(self, option: Option) -> str:
        """The reason why an option was not chosen."""
        target = f"{100 * self.target:g} %"
        if option.ratio <= self.target:
            return f"it misses {target} on these queries"
        # Widths shrink with the square root of the number of queries.
        factor = (option.ratio - option.bound) / (option.ratio - self.target)
        n_needed = self.n_queries * factor**2
        if n_needed > 100 * self.n_queries:
            return f"it is too near to {target} to be told from it"
        digits = 10 ** max(0, len(str(math.ceil(n_needed))) - 2)
        rounded = math.ceil(n_needed / digits) * digits
        return f"{target} is not certain; about {rounded:,} queries would tell"

    def cautions(self) -> list[str]:
        """Statements on how far the result holds."""
        told = [
            f"Bounds hold with {_CONFIDENCE} confidence for all {len(self.options)} settings at "
            f"once, for queries like these."
        ]
        if self.n_documents > 2 * self.n_measured:
            told.append(
                f"Among {self.n_documents:,} documents more are near an answer than among "
                f"{self.n_measured:,}: low dimensions, bits and few candidates then lose more "
                f"than measured here. Measure again with more documents."
            )
        return [*told, *(f"{note[0].upper()}{note[1:]}." for note in self.notes)]

    def to_markdown(self) -> str:
        """The report as Markdown, with all settings."""
        lines = [f"# The cheapest vectors for {self.data}", "", f"{self._title()}.", ""]
        lines += [f"- {line[0].upper()}{line[1:]}." for line in self._lines()]
        columns = "| setting | bytes per vector | read by every search | ratio | at least | |"
        lines += ["", *self.cautions(), "", "## All settings", "", columns]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for option in self.options:
            setting = option.setting
            mark = "reaches it" if option.bound >= self.target else ""
            lines.append(
                f"| {setting} | {setting.bytes_per_vector} | {setting.memory_per_vector} | "
                f"{100 * option.ratio:.2f} % | {100 * option.bound:.2f} % | "
                f"{'**chosen**' if option is self.chosen else mark} |"
            )
        return "\n".join([*lines, ""])

    def to_json(self) -> str:
        """Everything, as JSON."""
        content: dict[str, Any] = {
            "data": self.data,
            "model": self.model,
            "n_queries": self.n_queries,
            "n_measured": self.n_measured,
            "quality": self.quality,
            "target": self.target,
            "n_documents": self.n_documents,
            "minimise": self.minimise,
            "chosen": _record(self.chosen),
            "runner_up": None if self.runner_up is None else _record(self.runner_up),
            "cautions": self.cautions(),
            "options": [_record(option) for option in self.options],
        }
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes choice.md and choice.json.

        Parameters
        ----------
        folder : path-like
            Made if it isn't there; files of the same names are replaced.

        Returns
        -------
        list of Path
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths = [target / "choice.md", target / "choice.json"]
        for path, text in zip(paths, (self.to_markdown(), self.to_json()), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths


def _record(option: Option) -> dict[str, Any]:
    setting = option.setting
    return {
        "dim": setting.dim,
        "precision": setting.precision,
        "oversample": setting.oversample,
        "bytes_per_vector": setting.bytes_per_vector,
        "memory_per_vector": setting.memory_per_vector,
        "ratio": option.ratio,
        "bound": option.bound,
    }


def _bytes(n: int) -> str:
    """A size in decimal units."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"
