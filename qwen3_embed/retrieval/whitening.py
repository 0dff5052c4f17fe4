"""Shrunk, uncentred whitening to a power: fitting the matrices of a DomainMap, and applying them.

With the second moment M of the vectors and C = (1 - s) M + s tr(M) / dim I, the map is C ** -power.
It turns down the directions that all texts of a domain share. (Whitening sentence vectors: Su et
al., 2021, to the power 1/2 and centred, both of which hurt here. Shrinkage: Ledoit and Wolf, 2004.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "N_COMPONENTS",
    "Matrix",
    "Moments",
    "Rows",
    "apply_matrix",
    "fit_components",
    "fit_matrix",
]

N_COMPONENTS = 63  # principal components may replace the first dimensions below 64
_SHRINKAGE = 0.1
_BLOCK_ROWS = 16

Rows = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


@dataclass
class Moments:
    """Sums over the vectors of a domain's texts, which can be added to.

    Attributes
    ----------
    outer : ndarray
        (dim, dim) float64: the sum of x x^T over all texts.
    n_texts : int
    within : ndarray
        (dim, dim) float64: the sum of (q - d) (q - d)^T over pairs of a query and its document.
    n_pairs : int
    """

    outer: Matrix
    n_texts: int
    within: Matrix
    n_pairs: int

    @classmethod
    def zero(cls, dim: int) -> Moments:
        """The moments of no texts."""
        return cls(np.zeros((dim, dim)), 0, np.zeros((dim, dim)), 0)

    def add_texts(self, rows: Rows) -> None:
        """Adds (n, dim) vectors of texts."""
        wide = rows.astype(np.float64)
        self.outer += wide.T @ wide
        self.n_texts += len(rows)

    def add_pairs(self, queries: Rows, documents: Rows, sign: int = 1) -> None:
        """Adds (n, dim) vectors of queries and of their documents; sign -1 takes them away."""
        for rows in (queries, documents):
            wide = rows.astype(np.float64)
            self.outer += sign * (wide.T @ wide)
        apart = queries.astype(np.float64) - documents
        self.within += sign * (apart.T @ apart)
        self.n_texts += sign * 2 * len(queries)
        self.n_pairs += sign * len(queries)

    def copy(self) -> Moments:
        """Independent moments with the same sums."""
        return Moments(self.outer.copy(), self.n_texts, self.within.copy(), self.n_pairs)


def _shrunk_power(moment: Matrix, power: float) -> Matrix:
    dim = len(moment)
    target = np.trace(moment) / dim
    shrunk = (1 - _SHRINKAGE) * moment + _SHRINKAGE * target * np.eye(dim)
    values, vectors = np.linalg.eigh(shrunk / target)
    found: Matrix = (vectors * values**-power) @ vectors.T
    return found


def fit_matrix(moments: Moments, power: float) -> Matrix:
    """The map, (dim, dim) float64, for row vectors on its left.

    With pairs, the covariance within pairs is whitened to `power` first, then all texts to half
    of it: directions in which a query and its document differ tell nothing apart.
    """
    outer = moments.outer / moments.n_texts
    if not moments.n_pairs:
        return _shrunk_power(outer, power)
    within = _shrunk_power(moments.within / moments.n_pairs, power)
    return within @ _shrunk_power(within @ outer @ within, power / 2)


def fit_components(moments: Moments, matrix: Matrix | None) -> Matrix:
    """A map onto the principal components of the mapped vectors, (dim, at most 63) float64.

    Column i leads to component i, by falling eigenvalue of the uncentred second moment; its
    largest element is positive.
    """
    outer = moments.outer / moments.n_texts
    if matrix is not None:
        outer = matrix.T @ outer @ matrix
    vectors: Matrix = np.linalg.eigh(outer)[1][:, ::-1][:, :N_COMPONENTS]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return vectors if matrix is None else matrix @ vectors


def apply_matrix(
    rows: Rows, matrix: Rows | None, dim: int, *, normalize: bool, out: Rows | None = None
) -> Rows:
    """Maps rows at full width, cuts them to `dim`, then normalises them.

    Every product has the same number of rows, padded with zeros, so that a row's result does not
    depend on the rows beside it.

    Parameters
    ----------
    rows : ndarray
        (n, full dim) float32.
    matrix : ndarray or None
        (full dim, at least dim) float32; None: the identity.
    dim : int
    normalize : bool
    out : ndarray, optional
        (n, dim) float32, written and returned.
    """
    result = np.empty((len(rows), dim), np.float32) if out is None else out
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        n = len(block)
        if n < _BLOCK_ROWS:
            block = np.concatenate([block, np.zeros((_BLOCK_ROWS - n, rows.shape[1]), np.float32)])
        mapped = block[:, :dim] if matrix is None else block @ matrix[:, :dim]
        if normalize:
            # In float64 no square of a float32 overflows or vanishes.
            wide = mapped.astype(np.float64)
            norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            norms[norms == 0] = 1
            mapped = mapped / norms.astype(np.float32)[:, None]
        result[start : start + n] = mapped[:n]
    return result
