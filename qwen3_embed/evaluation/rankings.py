"""Rankings from vectors.

Documents of equal score are ordered by a fixed random permutation of the documents, the same for
every system. So neither the place in the file nor relevance decides a tie, and a run can be
repeated. Binary vectors tie often, and so do models on repeated documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..retrieval.quantizer import default_quantizer

__all__ = [
    "OVERSAMPLE",
    "PRECISIONS",
    "Index",
    "Precision",
    "Setting",
    "order_by_score",
    "rank",
    "rank_candidates",
    "tie_places",
]

Precision = Literal["float32", "int8", "binary", "binary+int8", "binary+float32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

OVERSAMPLE = 10.0
_TOP_K = 10  # documents that a search returns: the depth of most metrics
_TIE_SEED = 18
_SCORES_PER_BLOCK = 1 << 24  # 64 MB

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """One way to store and compare vectors.

    Attributes
    ----------
    dim : int
        Leading dimensions kept.
    precision : {"float32", "int8", "binary", "binary+int8", "binary+float32"}
        float32: cosine. int8: dot product of the codes that `encode` gives for documents and
        queries. binary: Hamming distance. The last two: `oversample` times ten candidates by
        Hamming distance, ordered by their int8 codes or their vectors, as `staged_search` does.
    oversample : float
        Of the last two, at least 1; 1 for the others.

    Examples
    --------
    >>> Setting(256, "binary+int8", 4).bytes_per_vector
    288
    """

    dim: int
    precision: Precision = "float32"
    oversample: float = 1.0

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes: bits, codes and floats, whichever the search reads."""
        sizes = {"float32": 4 * self.dim, "int8": self.dim, "binary": -(-self.dim // 8)}
        return sum(sizes[part] for part in self.precision.split("+"))

    @property
    def memory_per_vector(self) -> int:
        """Bytes that every search reads; codes of candidates may stay on the disk."""
        first = self.precision.partition("+")[0]
        return self.bytes_per_vector if first != "binary" else -(-self.dim // 8)

    def __str__(self) -> str:
        rescored = f" x{self.oversample:g}" if "+" in self.precision else ""
        return f"{self.dim} dims, {self.precision}{rescored}"


class Index:
    """The documents of one model in one setting.

    Parameters
    ----------
    documents : ndarray
        (n, full dim) float32.
    setting : Setting
    model_name : str
        Chooses the scale of int8, as `Embedder.quantizer` does; "" for unknown models.
    candidates : sequence of sequences of int, optional
        Per query, the documents that it is ranked with; by default all.

    Examples
    --------
    >>> rows = np.eye(8, dtype=np.float32)
    >>> Index(rows, Setting(8, "int8")).rank(rows[[3]], depth=1)[0].tolist()
    [3]
    """

    def __init__(
        self,
        documents: Rows,
        setting: Setting,
        model_name: str = "",
        candidates: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._setting = setting
        self._model_name = model_name
        self._candidates = candidates
        parts = setting.precision.split("+")
        self._stages = [self._comparable(documents, part) for part in parts]

    def rank(self, queries: Rows, depth: int) -> list[npt.NDArray[np.int64]]:
        """The `depth` best documents of each query, best first; all of its candidates, if any.

        Parameters
        ----------
        queries : ndarray
            (m, full dim) float32.
        depth : int
        """
        first, *second = self._setting.precision.split("+")
        n_rescored = math.ceil(self._setting.oversample * _TOP_K) if second else 0
        rows = self._comparable(queries, first)
        if self._candidates is None:
            rankings = rank(rows, self._stages[0], max(depth, n_rescored))
        else:
            rankings = rank_candidates(rows, self._stages[0], self._candidates)
        if not second:
            return rankings
        # Like staged_search, queries stay floats in the second stage.
        documents, rows = self._stages[1], self._comparable(queries, "float32")
        places = tie_places(len(documents))
        rescored = []
        for row, ranking in zip(rows, rankings, strict=True):
            head = ranking[:n_rescored]
            best = order_by_score(head, documents[head] @ row, places)
            rescored.append(np.concatenate([best, ranking[n_rescored:]]))
        return rescored

    def _comparable(self, rows: Rows, precision: str) -> Rows:
        """(n, dim) float32 whose dot products order documents as the precision does."""
        cut = rows[:, : self._setting.dim]
        if precision == "binary":
            # The dot product is dim - 2 * Hamming distance, exactly.
            return np.where(cut > 0, np.float32(1), np.float32(-1))
        norms = np.sqrt(np.einsum("ij,ij->i", cut, cut, dtype=np.float64)).astype(np.float32)
        norms[norms == 0] = 1  # a row of zeros has no direction; its score is 0
        unit: Rows = cut / norms[:, None]
        if precision == "float32":
            return unit
        quantizer = default_quantizer(self._model_name, self._setting.dim)
        return quantizer.quantize(unit, "int8").astype(np.float32)


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
    numbers: Sequence[int] | npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Document numbers by falling score; ties by `tie_places`."""
    own = np.asarray(numbers, np.int64)
    return own[np.lexsort((places[own], -scores))]
