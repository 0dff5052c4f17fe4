"""Rankings from vectors.

Documents of equal score are ordered by a fixed random permutation of the documents, the same for
every system. So neither the place in the file nor relevance decides a tie, and a run can be
repeated. Binary vectors tie often, and so do models on repeated documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "PRECISIONS",
    "Precision",
    "bytes_per_vector",
    "comparable",
    "order_by_score",
    "rank",
    "rank_candidates",
    "tie_places",
]

Precision = Literal["float32", "binary"]
PRECISIONS: tuple[Precision, ...] = ("float32", "binary")

_TIE_SEED = 18
_SCORES_PER_BLOCK = 1 << 24  # 64 MB

Rows = npt.NDArray[np.float32]


def bytes_per_vector(dim: int, precision: Precision) -> int:
    """Size of one stored vector."""
    return 4 * dim if precision == "float32" else (dim + 7) // 8


def comparable(rows: Rows, dim: int, precision: Precision) -> Rows:
    """Rows whose dot product orders documents as vectors of `dim` and `precision` do.

    Parameters
    ----------
    rows : ndarray
        (n, full dim) float32.
    dim : int
        Leading dimensions to keep.
    precision : {"float32", "binary"}
        float32: cosine. binary: +1 where the value is positive, else -1, whose dot product is
        dim - 2 * Hamming distance, exactly.

    Returns
    -------
    ndarray
        (n, dim) float32.
    """
    cut = rows[:, :dim]
    if precision == "binary":
        return np.where(cut > 0, np.float32(1), np.float32(-1))
    norms = np.sqrt(np.einsum("ij,ij->i", cut, cut, dtype=np.float64)).astype(np.float32)
    norms[norms == 0] = 1  # a row of zeros has no direction; its score is 0
    unit: Rows = cut / norms[:, None]
    return unit


def _tie_order(n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(_TIE_SEED).permutation(n)


def rank(queries: Rows, documents: Rows, depth: int) -> list[npt.NDArray[np.int64]]:
    """The `depth` best documents of every query among all, best first.

    Parameters
    ----------
    queries, documents : ndarray
        (n, dim) and (m, dim) float32.
    depth : int

    Returns
    -------
    list of n int64 arrays
        Document numbers.

    Examples
    --------
    >>> rows = np.eye(3, dtype=np.float32)
    >>> rank(rows[:1], rows[[1, 0, 2]], 1)[0].tolist()
    [1]
    """
    order = _tie_order(len(documents))
    shuffled = documents[order]
    depth = min(depth, len(documents))
    found = []
    step = max(1, _SCORES_PER_BLOCK // len(documents))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ shuffled.T
        lowest = np.partition(scores, -depth, axis=1)[:, -depth]
        for row, limit in zip(scores, lowest, strict=True):
            best = np.flatnonzero(row >= limit)
            found.append(order[best[np.argsort(-row[best], kind="stable")][:depth]])
    return found


def rank_candidates(
    queries: Rows, documents: Rows, candidates: Sequence[Sequence[int]]
) -> list[npt.NDArray[np.int64]]:
    """The candidates of every query, best first.

    Parameters
    ----------
    queries, documents : ndarray
        (n, dim) and (m, dim) float32.
    candidates : sequence of n sequences of int
        Document numbers.
    """
    places = tie_places(len(documents))
    return [
        order_by_score(own, documents[list(own)] @ query, places)
        for query, own in zip(queries, candidates, strict=True)
    ]


def tie_places(n_documents: int) -> npt.NDArray[np.int64]:
    """Place of each document in the permutation that orders equal scores: (n_documents,)."""
    return np.argsort(_tie_order(n_documents))


def order_by_score(
    numbers: Sequence[int], scores: npt.NDArray[np.float32], places: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Document numbers by falling score; ties by `tie_places`."""
    own = np.asarray(numbers, np.int64)
    return own[np.lexsort((places[own], -scores))]
