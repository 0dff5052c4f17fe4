"""Plots of a report, by matplotlib: quality per system, and quality against bytes per vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .metrics import HEADLINE
from .rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_quality", "plot_size"]

_DPI = 120
_INK, _GRID = "#222222", "#dddddd"
_COLOURS = ("#1f5fa8", "#c8551b", "#2b8a57", "#8a3fa0", "#a88a00", "#5f6b76")
_MAX_LABEL = 40


def plot_quality(rows: Sequence[Row], data: str, path: Path) -> Path:
    """Writes nDCG@10 of every system, in the order of the table, with its interval.

    Parameters
    ----------
    rows : sequence of Row
    data : str
        Name for the title.
    path : Path
        The PNG file.
    """
    figure = _figure(8.0, 1.3 + 0.32 * len(rows))
    axes = figure.subplots()
    models = list(dict.fromkeys(row.model for row in rows))
    for place, row in enumerate(rows):
        mean, errors = _errors(row)
        colour = _COLOURS[models.index(row.model) % len(_COLOURS)]
        axes.errorbar(mean, place, xerr=errors, fmt="o", color=colour, capsize=3, markersize=5)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{HEADLINE}, points, with 95 % intervals over queries")
    axes.set_title(f"Quality on {_cut(Path(data).name)}", loc="left")
    return _write(figure, axes, path)


def plot_size(rows: Sequence[Row], data: str, path: Path) -> Path:
    """Writes nDCG@10 against bytes per vector: a line per model, instruction and precision."""
    figure = _figure(9.5, 4.8)
    axes = figure.subplots()
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.name, row.instruction, row.precision), []).append(row)
    sizes = [row.bytes_per_vector for row in rows]
    apart = (max(sizes) / min(sizes)) ** 0.008  # of the width of the plot
    for number, own in enumerate(lines.values()):
        own = sorted(own, key=lambda row: row.bytes_per_vector)
        found = [_errors(row) for row in own]
        axes.errorbar(
            # Points of equal size are moved apart, or their intervals hide each other.
            [row.bytes_per_vector * apart ** (number - (len(lines) - 1) / 2) for row in own],
            [mean for mean, _ in found],
            yerr=np.concatenate([errors for _, errors in found], axis=1),
            marker="o",
            markersize=5,
            capsize=3,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle="-" if number < len(_COLOURS) else "--",
            label=_label(own[0], with_dim=False),
        )
    axes.set_xscale("log", base=2)
    ticks = sorted(set(sizes))
    # Close sizes share a tick, or their labels overlap.
    spread = [tick for i, tick in enumerate(ticks) if i == 0 or tick >= 1.3 * ticks[i - 1]]
    axes.set_xticks(spread, [f"{tick:,}" for tick in spread])
    axes.minorticks_off()
    axes.set_xlabel("bytes per vector (log scale)")
    axes.set_ylabel(f"{HEADLINE}, points")
    axes.set_title(f"Quality against size on {_cut(Path(data).name)}", loc="left")
    figure.legend(frameon=False, fontsize=9, loc="outside right upper")
    return _write(figure, axes, path)


def _figure(width: float, height: float) -> Figure:
    """A figure of its own: pyplot would keep it, and choose a display."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "plots need matplotlib: pip install 'qwen3-embed-native[evaluate]'"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def _errors(row: Row) -> tuple[float, Any]:
    """The mean in points; (2, 1) distances to the ends of its interval."""
    mean = row.mean(HEADLINE)
    low, high = (100 * end for end in row.intervals[HEADLINE])
    return mean, np.maximum([[mean - low], [high - mean]], 0)


def _label(row: Row, *, with_dim: bool = True) -> str:
    parts = [_cut(row.name), _cut(row.instruction), str(row.dim) * with_dim, row.precision]
    return " · ".join(part for part in parts if part)


def _cut(text: str) -> str:
    """A label; $ would begin a formula, and the font has Latin letters alone."""
    shown = "".join(c if c.isprintable() and c < "\u2000" else "?" for c in text)
    shown = shown.replace("$", r"\$")
    return shown if len(shown) <= _MAX_LABEL else shown[: _MAX_LABEL - 1] + "…"


def _write(figure: Figure, axes: Any, path: Path) -> Path:
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK)
    figure.savefig(path, dpi=_DPI)
    return path
