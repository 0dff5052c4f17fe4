"""Search in two stages: bits find candidates, int8 codes order them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .quantizer import quantize_binary

__all__ = ["staged_search"]


class _BitIndex(Protocol):
    """An index of bits by row number, such as `usearch.index.Index(metric="hamming")`."""

    def __len__(self) -> int: ...

    def search(self, vectors: Any, count: int, /) -> Any: ...


def staged_search(
    queries: npt.ArrayLike,
    bits: npt.NDArray[np.uint8] | npt.NDArray[np.int8] | _BitIndex,
    codes: npt.NDArray[Any],
    top_k: int = 10,
    oversample: float = 10,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The best rows for each query: Hamming distance over all, dot products over the nearest.

    The first stage reads one bit per dimension of every row and keeps `oversample * top_k`
    rows; the second reads their codes alone. What the bits miss is lost, so the recall depends
    on the model, the dimension and the data: compare some queries with an exact search.

    Parameters
    ----------
    queries : array_like
        (m, dim) or (dim,) float, unit vectors.
    bits : ndarray or usearch index
        (n, ceil(dim / 8)) uint8 or int8, precision "ubinary" or "binary"; or an index of the
        "ubinary" rows whose keys are the row numbers, `usearch.index.Index(ndim=dim,
        dtype="b1", metric="hamming")`.
    codes : ndarray
        (n, dim) int8 of a symmetric `Quantizer`, or floats; a memory-mapped file works, of
        which only candidates are read.
    top_k : int
        Rows per query.
    oversample : float
        Candidates per row of the result, at least 1.

    Returns
    -------
    scores : ndarray
        (m, k) float32 dot products of query and codes, best first; times the quantizer's
        scale they are cosines. k is top_k, or n if that is less; (k,) for one query.
    rows : ndarray
        int64 row numbers, the same shape.

    Raises
    ------
    TypeError
        Queries that aren't float, codes that are uint8 (their offset spoils dot products), or
        another dtype of bits.
    ValueError
        Shapes that don't fit, or `top_k` or `oversample` below 1.

    Examples
    --------
    >>> vectors = np.float32([[0.6, 0.8], [-0.6, 0.8], [1.0, 0.0]])
    >>> bits, codes = quantize_binary(vectors, "ubinary"), np.int8(vectors * 100)
    >>> scores, rows = staged_search(vectors[0], bits, codes, top_k=1)
    >>> rows.tolist()
    [0]
    """
    vectors = np.asarray(queries)
    if vectors.dtype.kind != "f":
        raise TypeError(f"queries has dtype {vectors.dtype}, expected a float dtype")
    if codes.dtype.kind != "f" and codes.dtype != np.int8:
        raise TypeError(f"codes has dtype {codes.dtype}, expected int8 or a float dtype")
    if vectors.ndim not in (1, 2) or codes.ndim != 2 or vectors.shape[-1] != codes.shape[1]:
        raise ValueError(
            f"queries has shape {vectors.shape} and codes {codes.shape}, expected (m, dim) or "
            f"(dim,), and (n, dim)"
        )
    if type(top_k) is not int or top_k < 1:
        raise ValueError(f"top_k={top_k!r}, expected a positive int")
    if not 1 <= oversample < np.inf:
        raise ValueError(f"oversample={oversample!r}, expected a number of 1 or more")
    if len(bits) != len(codes):
        raise ValueError(f"bits has {len(bits)} rows and codes has {len(codes)}, expected as many")
    rows = np.atleast_2d(vectors).astype(np.float32)
    n_candidates = min(len(codes), int(np.ceil(top_k * oversample)))
    k = min(top_k, n_candidates)
    scores = np.empty((len(rows), k), np.float32)
    found = np.empty((len(rows), k), np.int64)
    nearest = _nearest_by(bits, codes.shape[1])
    for i, row in enumerate(rows if k else ()):
        candidates = nearest(row, n_candidates)
        products = codes[candidates].astype(np.float32) @ row
        best = np.argsort(-products, kind="stable")[:k]
        scores[i], found[i] = products[best], candidates[best]
    return (scores, found) if vectors.ndim == 2 else (scores[0], found[0])


def _nearest_by(bits: Any, dim: int) -> Any:
    """A function (query (dim,) float32, count) -> (count,) int64 rows in increasing order."""
    if not isinstance(bits, np.ndarray):

        def in_index(row: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
            matches = bits.search(quantize_binary(row, "ubinary"), count)
            return np.sort(np.asarray(matches.keys).astype(np.int64))

        return in_index
    if bits.dtype == np.int8:
        bits = bits.view(np.uint8) ^ np.uint8(0x80)
    if bits.dtype != np.uint8:
        raise TypeError(f"bits has dtype {bits.dtype}, expected uint8 or int8")
    if bits.ndim != 2 or bits.shape[1] != -(-dim // 8):
        raise ValueError(f"bits has shape {bits.shape}, expected (n, {-(-dim // 8)})")

    def in_array(row: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
        differing = np.bitwise_count(bits ^ quantize_binary(row, "ubinary"))
        distances = differing.sum(axis=1, dtype=np.int32)
        # Ties at the border go to the first rows, so that the result is the same anywhere.
        limit = np.partition(distances, count - 1)[count - 1]
        below = np.flatnonzero(distances < limit)
        ties = np.flatnonzero(distances == limit)[: count - len(below)]
        return np.sort(np.concatenate([below, ties]))

    return in_array
