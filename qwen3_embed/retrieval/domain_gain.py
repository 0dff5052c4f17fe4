"""The gain of a domain map: nDCG@10 on pairs that take no part in the fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..evaluation.bootstrap import Bootstrap
from .whitening import (
    N_COMPONENTS,
    FixedMatrix,
    Matrix,
    Moments,
    Rows,
    apply_matrix,
    fit_components,
    fit_matrix,
)

__all__ = ["Found", "measure"]

_FOLDS = 5
_CONFIDENCE = 0.99  # more than 95 %: every update measures again
_MIN_PAIRS = 20  # with fewer, a bootstrap interval is too narrow to be trusted
_SMALL_DIM = 32  # where principal components are compared with the first dimensions
_MANY_PAIRS = 1000
_LORA = "python -m training.lora.train pairs.jsonl -o adapter --evaluate held_out.jsonl"


class Found(NamedTuple):
    """Matrices that help, and what was measured.

    Attributes
    ----------
    matrix : ndarray or None
        (dim, dim) float64.
    components : ndarray or None
        (dim, 63) float64.
    report : str
    """

    matrix: Matrix | None
    components: Matrix | None
    report: str


class _Gain(NamedTuple):
    """Means in points, and the 99 % interval of their difference."""

    before: float
    after: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        return self.low > 0

    def __str__(self) -> str:
        return (
            f"{self.before:.1f} without and {self.after:.1f} with: {self.after - self.before:+.1f} "
            f"points ({100 * _CONFIDENCE:.0f} % interval {self.low:+.1f} to {self.high:+.1f})"
        )


def measure(
    moments: Moments, queries: Rows, documents: Rows, power: float, *, held_out: bool
) -> Found:
    """Fits the matrices and keeps those whose gain is clear.

    Parameters
    ----------
    moments : Moments
    queries, documents : ndarray
        (n, dim) float32: document i is right for query i; equal documents are one.
    power : float
    held_out : bool
        False: the pairs are among the examples, and each is measured with a map that was fitted
        without its fifth, all pairs of one document being in the same.

    Returns
    -------
    Found
    """
    if len(queries) < _MIN_PAIRS:
        return Found(
            None,
            None,
            f"declined: not measured. Of pairs of a query and its document there are "
            f"{len(queries)}, and at least {_MIN_PAIRS} are needed: pass held_out=. Queries made "
            f"of the texts themselves can't judge a map.",
        )
    distinct, answers = np.unique(documents, axis=0, return_inverse=True)
    answers = answers.reshape(-1)
    folds = [np.ones(len(queries), bool)]
    if not held_out:
        folds = [answers % _FOLDS == fold for fold in range(_FOLDS)]
    parts = list(_fitted_without(moments, queries, documents, folds, power, held_out=held_out))
    dim = queries.shape[1]
    pairs = _Pairs(queries, distinct, answers)
    gain = pairs.gain(folds, [None] * len(folds), [matrix for matrix, _ in parts], dim)
    told = [
        f"{'kept' if gain.is_clear else 'declined'}: nDCG@10 on {len(queries)} pairs {gain}; "
        f"fitted on {moments.n_texts} texts with power {power:g}."
    ]
    matrix = fit_matrix(moments, power) if gain.is_clear else None
    components = None
    if dim > N_COMPONENTS:
        bases = [own if gain.is_clear else None for own, _ in parts]
        small = [fit_components(sums, base) for base, (_, sums) in zip(bases, parts, strict=True)]
        small_gain = pairs.gain(folds, bases, small, _SMALL_DIM)
        verdict = "kept for dims below 64" if small_gain.is_clear else "declined"
        told.append(f"Principal components {verdict}: at {_SMALL_DIM} dims {small_gain}.")
        components = fit_components(moments, matrix) if small_gain.is_clear else None
    if moments.n_pairs >= _MANY_PAIRS or not gain.is_clear:
        told.append(f"With 1,000 pairs or more a LoRA adapter learns more than a map: {_LORA}")
    return Found(matrix, components, " ".join(told))


def _fitted_without(
    moments: Moments,
    queries: Rows,
    documents: Rows,
    folds: list[npt.NDArray[np.bool_]],
    power: float,
    *,
    held_out: bool,
) -> Iterator[tuple[Matrix, Moments]]:
    """Per fold the map that was fitted without it, and the moments that it was fitted on."""
    for fold in folds:
        sums = moments.copy()
        if not held_out:
            sums.add_pairs(queries[fold], documents[fold], sign=-1)
        yield fit_matrix(sums, power), sums


class _Pairs(NamedTuple):
    """Queries, distinct documents, and the number of each query's document."""

    queries: Rows
    documents: Rows
    answers: npt.NDArray[np.int64]

    def gain(
        self,
        folds: list[npt.NDArray[np.bool_]],
        before: list[Matrix | None],
        after: list[Matrix],
        dim: int,
    ) -> _Gain:
        """nDCG@10 at `dim` with each fold's matrices before and after."""
        values = np.zeros((len(self.queries), 2))
        for fold, *matrices in zip(folds, before, after, strict=True):
            for column, matrix in enumerate(matrices):
                values[fold, column] = self._ndcg(fold, matrix, dim)
        differences = values[:, 1:] - values[:, :1]
        ends = Bootstrap(len(values)).intervals(differences, _CONFIDENCE)
        (low,), (high,) = ends.tolist()
        means = values.mean(axis=0)
        return _Gain(100 * means[0], 100 * means[1], 100 * low, 100 * high)

    def _ndcg(
        self, fold: npt.NDArray[np.bool_], matrix: Matrix | None, dim: int
    ) -> npt.NDArray[np.float64]:
        """Of the fold's queries among all documents; ties count against the right one."""
        narrow = None if matrix is None else FixedMatrix.of(matrix)
        queries = apply_matrix(self.queries[fold], narrow, dim, normalize=True)
        documents = apply_matrix(self.documents, narrow, dim, normalize=True)
        scores = queries @ documents.T
        right = np.take_along_axis(scores, self.answers[fold][:, None], axis=1)
        ranks = (scores >= right).sum(axis=1)
        return np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
