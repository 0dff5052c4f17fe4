"""Shrunk, uncentred whitening to a power: fitting the matrices of a DomainMap, and applying them.

With the second moment M of the vectors and C = (1 - s) M + s tr(M) / dim I, the map is C ** -power.
It turns down the directions that all texts of a domain share. (Whitening sentence vectors: Su et
al., 2021, to the power 1/2 and centred, both of which hurt here. Shrinkage: Ledoit and Wolf, 2004.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "N_COMPONENTS",
    "FixedMatrix",
    "Matrix",
    "Moments",
    "Rows",
    "apply_matrix",
    "fit_components",
    "fit_matrix",
]

N_COMPONENTS = 63  # principal components may replace the first dimensions below 64
_SHRINKAGE = 0.1
_BLOCK_ROWS = 1024
_ROW_BITS = 22  # of a row's largest value

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


@dataclass(frozen=True)
class FixedMatrix:
    """A matrix in fixed point, whose products with rows in fixed point are exact.

    Libraries of linear algebra add up the products of a row in an order that depends on the rows
    beside it. Sums of whole numbers up to 2**53 are exact in float64, so here any order gives the
    same bits. What is lost is below the rounding of float32: values are rounded to 2**-22 of their
    row's largest, those of the matrix to 2**-21 of their column's for 1,024 dimensions.

    Attributes
    ----------
    values : ndarray
        (n, dim) float64, whole numbers.
    exponents : ndarray
        (dim,) int: column i is values[:, i] * 2**exponents[i].
    """

    values: Matrix
    exponents: npt.NDArray[np.intc]

    @classmethod
    def of(cls, matrix: npt.NDArray[np.floating[Any]]) -> FixedMatrix:
        """Rounds an (n, dim) matrix."""
        bits = 53 - _ROW_BITS - (len(matrix) - 1).bit_length()
        values, exponents = _fixed_point(matrix.T, bits)
        return cls(np.ascontiguousarray(values.T), exponents)


def _fixed_point(
    rows: npt.NDArray[np.floating[Any]], bits: int
) -> tuple[Matrix, npt.NDArray[np.intc]]:
    """Whole numbers up to 2**bits, and the exponent of each row: rows = numbers * 2**exponents."""
    wide = rows.astype(np.float64)
    exponents = np.frexp(np.abs(wide).max(axis=1))[1] - bits
    return np.rint(np.ldexp(wide, -exponents[:, None])), exponents


def apply_matrix(
    rows: Rows, matrix: FixedMatrix | None, dim: int, *, normalize: bool, out: Rows | None = None
) -> Rows:
    """Maps rows at full width, cuts them to `dim`, then normalises them.

    A row's result has the same bits whatever rows are beside it: see FixedMatrix.

    Parameters
    ----------
    rows : ndarray
        (n, full dim) float32.
    matrix : FixedMatrix or None
        (full dim, at least dim); None: the identity.
    dim : int
    normalize : bool
    out : ndarray, optional
        (n, dim) float32, written and returned.
    """
    result = np.empty((len(rows), dim), np.float32) if out is None else out
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        if matrix is None:
            mapped = block[:, :dim].astype(np.float64)
        else:
            numbers, exponents = _fixed_point(block, _ROW_BITS)
            sums = numbers @ matrix.values[:, :dim]
            mapped = np.ldexp(sums, exponents[:, None] + matrix.exponents[:dim])
        if normalize:
            norms = np.sqrt(np.add.reduce(mapped * mapped, axis=1))
            norms[norms == 0] = 1
            mapped /= norms[:, None]
        result[start : start + len(block)] = mapped
    return result
