"""Cosine similarity of rows, in float32."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["similarity", "similarity_pairwise"]


def _unit_rows(vectors: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    rows = np.asarray(vectors)
    if rows.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {rows.dtype}, expected numbers")
    rows = np.atleast_2d(rows).astype(np.float32)
    if rows.ndim != 2:
        raise ValueError(f"{name} has shape {rows.shape}, expected (n, dim) or (dim,)")
    # In float64 no square of a float32 overflows or vanishes.
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    norms = np.sqrt(squares).astype(np.float32)[:, None]
    # A row of zeros has no direction: its similarity to anything is 0, not NaN.
    norms[norms == 0] = 1
    unit: npt.NDArray[np.float32] = rows / norms
    return unit


def _check_dims(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a has dim {a.shape[1]} and b has dim {b.shape[1]}, expected the same")


def _in_kind(result: npt.NDArray[np.float32], *given: Any) -> npt.NDArray[np.float32]:
    """The result as a PyTorch tensor if one was given, as sentence-transformers' callers expect."""
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(each, torch.Tensor) for each in given):
        tensor: npt.NDArray[np.float32] = torch.from_numpy(result)
        return tensor
    return result


def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Cosine of every row of `a` with every row of `b`.

    Parameters
    ----------
    a, b : array_like
        (n, dim) and (m, dim) numbers; a single vector (dim,) counts as one row.

    Returns
    -------
    ndarray
        (n, m) float32; a PyTorch tensor if one was given.

    Raises
    ------
    ValueError
        The dims differ.

    Examples
    --------
    >>> similarity([[1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0]]).tolist()
    [[1.0, 0.0]]
    """
    left, right = _unit_rows(a, "a"), _unit_rows(b, "b")
    _check_dims(left, right)
    product: npt.NDArray[np.float32] = left @ right.T
    return _in_kind(product, a, b)


def similarity_pairwise(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Cosine of row i of `a` with row i of `b`.

    Parameters
    ----------
    a, b : array_like
        (n, dim) numbers each; a single vector (dim,) counts as one row.

    Returns
    -------
    ndarray
        (n,) float32.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> similarity_pairwise([[1.0, 0.0]], [[3.0, 4.0]]).round(3).tolist()
    [0.6000000238418579]
    """
    left, right = _unit_rows(a, "a"), _unit_rows(b, "b")
    _check_dims(left, right)
    if left.shape != right.shape:
        raise ValueError(f"a has {len(left)} rows and b has {len(right)}, expected as many")
    cosines: npt.NDArray[np.float32] = np.einsum("ij,ij->i", left, right)
    return _in_kind(cosines, a, b)
