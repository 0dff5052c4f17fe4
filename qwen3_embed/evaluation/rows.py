"""A row of the report: one system, its quality and its cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .rankings import Setting

__all__ = ["Row"]


@dataclass
class Row:
    """One system.

    Attributes
    ----------
    model, instruction : str
        The instruction is "" where none can be given.
    setting : Setting
        Dimension, precision, and what they cost.
    reranked : bool
    query_ms, texts_per_s, peak_mb : float or None
        Of the model at full dimension; None where they were not measured.
    values : dict of str to ndarray
        Per metric, (n_queries,) float64 in 0..1.
    intervals : dict of str to (float, float)
        Per metric, the 95 % interval of the mean.
    """

    model: str
    instruction: str
    setting: Setting
    reranked: bool = False
    query_ms: float | None = None
    texts_per_s: float | None = None
    peak_mb: float | None = None
    values: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Dimensions compared."""
        return self.setting.dim

    @property
    def precision(self) -> str:
        """With the oversampling, where candidates are rescored: "binary+int8 x10"."""
        return str(self.setting).partition(", ")[2]

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes."""
        return self.setting.bytes_per_vector

    @property
    def name(self) -> str:
        """The model, with its reranking."""
        return f"{self.model} + reranker" if self.reranked else self.model

    def mean(self, metric: str) -> float:
        """Over the queries, in points: 0..100."""
        return float(self.values[metric].mean()) * 100
