"""Vectors as bytes or bits.

int8 is symmetric by default: one scale for all dimensions and no offset, so that a dot product, a
cosine or a distance between codes ranks as it does between the vectors. The codes of
sentence-transformers, with a range per dimension, are `kind="ranges"`.
"""

from __future__ import annotations

import operator
import os
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from .npz import load_arrays, save_arrays

__all__ = ["Kind", "Precision", "Quantizer", "default_quantizer", "quantize_binary"]

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]

Kind = Literal["scale", "ranges"]

_RANGES_FORMAT = 1  # arrays format and ranges: every file before there were scales
_SCALE_FORMAT = 2  # arrays format, scale and dim

# Half of the byte's range: codes are symmetric, so that -128 is never used.
_MAX_CODE = 127
# Of the absolute values, the share that is not clipped. The maximum itself depends on one
# outlier, which makes all other codes coarser.
_QUANTILE = 0.9999
# Limits of coordinates without a fit; benchmarks/vectors.py measures both.
_MEASURED_LIMITS = {"mini": 0.65}
_LIMIT_TIMES_SQRT_DIM = 10.0


def quantize_binary(
    vectors: npt.ArrayLike, precision: Literal["binary", "ubinary"]
) -> npt.NDArray[np.int8] | npt.NDArray[np.uint8]:
    """One bit per dimension, set where the value is positive; eight per byte, first in the top bit.

    Parameters
    ----------
    vectors : array_like
        (n, dim) or (dim,) float.
    precision : {"binary", "ubinary"}
        int8, the packed byte minus 128; or uint8, the packed byte.

    Returns
    -------
    ndarray
        (n, ceil(dim / 8)) or (ceil(dim / 8),), int8 or uint8.

    Examples
    --------
    >>> quantize_binary([[1.0, -1.0, 1.0, 0.0, -1.0, -1.0, -1.0, 2.0]], "ubinary").tolist()
    [[161]]
    """
    packed = np.packbits(np.asarray(vectors) > 0, axis=-1)
    if precision == "ubinary":
        return packed
    return _signed(packed)


def _unsigned(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Each value plus 128, which flips its top bit."""
    return values.view(np.uint8) ^ np.uint8(0x80)


def _signed(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Each value minus 128, which flips its top bit."""
    return (values ^ np.uint8(0x80)).view(np.int8)


class Quantizer:
    """Turns float vectors into int8 or uint8 codes, and back.

    Parameters
    ----------
    ranges : array_like, optional
        (2, dim) float32: the smallest and the largest value of each dimension, for the codes of
        sentence-transformers.
    scale : float, optional
        The value of one step, for all dimensions: vector = code * scale. Exactly one of
        `ranges` and `scale` is given.
    dim : int, optional
        Dimensions of the vectors; needed with `scale`.

    Raises
    ------
    TypeError
        Both or neither of `ranges` and `scale`, or `scale` without `dim`.
    ValueError
        A wrong shape, a value that isn't finite, a scale that isn't positive, or a minimum
        above its maximum.

    Examples
    --------
    >>> q = Quantizer(scale=0.01, dim=2)
    >>> q.quantize([[0.5, -1.0]], "int8").tolist()
    [[50, -100]]
    """

    # No other names: a mistyped setting is an AttributeError.
    __slots__ = ("_dim", "_ranges", "_scale")

    def __init__(
        self,
        ranges: npt.ArrayLike | None = None,
        *,
        scale: float | None = None,
        dim: int | None = None,
    ) -> None:
        if (ranges is None) == (scale is None) or (scale is None) != (dim is None):
            raise TypeError("a Quantizer takes either ranges, or scale= and dim=")
        self._ranges: npt.NDArray[np.float32] | None = None
        self._scale: float | None = None
        if scale is not None and dim is not None:
            self._dim = operator.index(dim)
            self._scale = float(np.float32(scale))
            if self._dim < 1:
                raise ValueError(f"dim={dim}, expected a positive int")
            if not 0 < self._scale < np.inf:
                raise ValueError(f"scale={scale}, expected a positive finite number")
        else:
            self._ranges = _checked_ranges(cast("npt.ArrayLike", ranges))
            self._dim = int(self._ranges.shape[1])

    @property
    def kind(self) -> Kind:
        """ "scale" (one symmetric scale) or "ranges" (sentence-transformers' codes)."""
        return "ranges" if self._scale is None else "scale"

    @property
    def scale(self) -> float | None:
        """The value of one step; None for ranges. Values beyond 127 steps are clipped."""
        return self._scale

    @property
    def ranges(self) -> npt.NDArray[np.float32] | None:
        """(2, dim) float32, read-only; None for a scale."""
        return self._ranges

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return self._dim

    def __repr__(self) -> str:
        if self._scale is None:
            return f"Quantizer(kind='ranges', dim={self._dim})"
        return f"Quantizer(scale={self._scale:.6g}, dim={self._dim})"

    @classmethod
    def fit(cls, vectors: npt.ArrayLike, kind: Kind = "scale") -> Quantizer:
        """Fits a quantizer on vectors like those that will be quantised; a few thousand suffice.

        Parameters
        ----------
        vectors : array_like
            (n, dim) float, n >= 2.
        kind : {"scale", "ranges"}
            "scale": 127 steps reach the 0.9999 quantile of the absolute values. "ranges": the
            smallest and the largest value of each dimension, as sentence-transformers does;
            dot products, cosines and distances between such codes do not rank as those of
            the vectors do.

        Returns
        -------
        Quantizer

        Raises
        ------
        ValueError
            Fewer than two vectors, a value that isn't finite, or only zeros.

        Examples
        --------
        >>> Quantizer.fit([[0.0, -1.27], [1.27, 1.27]])
        Quantizer(scale=0.01, dim=2)
        """
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] == 0:
            raise ValueError(f"vectors has shape {rows.shape}, expected (n, dim) with n >= 2")
        if kind == "ranges":
            return cls(np.stack([rows.min(axis=0), rows.max(axis=0)]))
        if kind != "scale":
            raise ValueError(f"kind={kind!r}, expected 'scale' or 'ranges'")
        if not np.isfinite(rows).all():
            raise ValueError("vectors holds a value that is not finite")
        limit = float(np.quantile(np.abs(rows), _QUANTILE))
        if limit == 0:
            raise ValueError("vectors holds only zeros (to 0.9999 of its values): nothing to fit")
        return cls(scale=limit / _MAX_CODE, dim=rows.shape[1])

    def quantize(
        self, vectors: npt.ArrayLike, precision: Precision
    ) -> npt.NDArray[np.int8] | npt.NDArray[np.uint8]:
        """Codes of vectors.

        Parameters
        ----------
        vectors : array_like
            (n, dim) or (dim,) float, not int: quantising twice is refused.
        precision : {"int8", "uint8", "binary", "ubinary"}
            With a scale, int8 is clip(rint(vector / scale), -127, 127), and uint8 is that plus
            128: distances between uint8 codes rank as before, dot products and cosines do not.
            With ranges, each dimension's range is cut into 255 steps, counted from 0 (uint8) or
            -128 (int8). Values out of range take its end. binary, ubinary: `quantize_binary`.

        Returns
        -------
        ndarray
            int8 or uint8, the shape of `vectors`, or a last axis of ceil(dim / 8) for bits.

        Raises
        ------
        ValueError
            Another dim than the quantizer's, or an unknown precision.
        TypeError
            Vectors that aren't float.
        """
        rows = np.asarray(vectors)
        if rows.dtype.kind != "f":
            raise TypeError(f"vectors has dtype {rows.dtype}, expected a float dtype")
        self._check_shape("vectors", rows)
        if precision == "binary" or precision == "ubinary":
            return quantize_binary(rows, precision)
        if precision != "int8" and precision != "uint8":
            raise ValueError(
                f"precision={precision!r}, expected 'int8', 'uint8', 'binary' or 'ubinary'"
            )
        values = rows.astype(np.float32)
        if self._scale is not None:
            steps = np.rint(values / np.float32(self._scale))
            codes = np.clip(steps, -_MAX_CODE, _MAX_CODE).astype(np.int8)
            return codes if precision == "int8" else _unsigned(codes)
        lowest, steps = self._lowest_and_steps()
        levels: npt.NDArray[np.float32] = np.floor((values - lowest) / steps)
        bytes_ = np.clip(levels, 0, 255).astype(np.uint8)
        return bytes_ if precision == "uint8" else _signed(bytes_)

    def dequantize(self, codes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Vectors of codes: each value is the middle of its step.

        Parameters
        ----------
        codes : array_like
            (n, dim) or (dim,) int8 or uint8, as `quantize` made them.

        Returns
        -------
        ndarray
            float32, the shape of `codes`.

        Raises
        ------
        TypeError
            Another dtype than int8 or uint8.
        ValueError
            Another dim than the quantizer's.

        Examples
        --------
        >>> q = Quantizer(scale=0.5, dim=2)
        >>> q.dequantize(q.quantize([1.1, -2.0], "int8")).tolist()
        [1.0, -2.0]
        """
        rows = np.asarray(codes)
        if rows.dtype not in (np.int8, np.uint8):
            raise TypeError(f"codes has dtype {rows.dtype}, expected int8 or uint8")
        self._check_shape("codes", rows)
        offset = 0 if rows.dtype == np.int8 else 128
        if self._scale is not None:
            return (rows.astype(np.float32) - np.float32(offset)) * np.float32(self._scale)
        lowest, steps = self._lowest_and_steps()
        levels = rows.astype(np.float32) + np.float32(128 - offset)
        values: npt.NDArray[np.float32] = lowest + (levels + np.float32(0.5)) * steps
        return values

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the quantizer to an .npz file.

        Parameters
        ----------
        path : path-like
            The file, replaced in one step if it exists.
        """
        if self._scale is None:
            save_arrays(path, format=_RANGES_FORMAT, ranges=cast("npt.ArrayLike", self._ranges))
        else:
            save_arrays(path, format=_SCALE_FORMAT, scale=np.float32(self._scale), dim=self._dim)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Quantizer:
        """Reads a file that `save` wrote, of any version; `kind` says which codes it makes.

        Parameters
        ----------
        path : path-like
            The .npz file. Pickled content is never read.

        Returns
        -------
        Quantizer

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a Quantizer file.
        """
        arrays = load_arrays(path, "Quantizer")
        names = set(arrays)
        number = arrays["format"].tolist() if "format" in names else None
        if names == {"format", "ranges"} and number == _RANGES_FORMAT:
            return cls(arrays["ranges"])
        if names == {"format", "scale", "dim"} and number == _SCALE_FORMAT:
            try:
                return cls(scale=float(arrays["scale"]), dim=int(arrays["dim"]))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: not a Quantizer file: {error}") from error
        raise ValueError(
            f"{path}: not a Quantizer file of format {_RANGES_FORMAT} or {_SCALE_FORMAT}"
        )

    def _check_shape(self, name: str, rows: npt.NDArray[Any]) -> None:
        if rows.ndim not in (1, 2) or rows.shape[-1] != self._dim:
            raise ValueError(
                f"{name} has shape {rows.shape}, expected (n, {self._dim}) or ({self._dim},), "
                f"the dim of the quantizer"
            )

    def _lowest_and_steps(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        ranges = cast("npt.NDArray[np.float32]", self._ranges)
        steps = (ranges[1] - ranges[0]) / np.float32(255)
        return ranges[0], np.where(steps == 0, np.float32(1), steps)


def _checked_ranges(ranges: npt.ArrayLike) -> npt.NDArray[np.float32]:
    checked = np.array(ranges, dtype=np.float32)
    if checked.ndim != 2 or checked.shape[0] != 2 or checked.shape[1] == 0:
        raise ValueError(f"ranges has shape {checked.shape}, expected (2, dim)")
    if not np.isfinite(checked).all():
        raise ValueError("ranges holds a value that is not finite")
    if (checked[0] > checked[1]).any():
        raise ValueError("ranges holds a minimum above its maximum")
    checked.setflags(write=False)
    return checked


def default_quantizer(model_name: str, dim: int) -> Quantizer:
    """The quantizer of a model's unit vectors where none was fitted.

    A limit that is too small clips the few large coordinates that trained models have; one that
    is too large makes the steps coarser. Coarse steps cost less. Rounding two unit vectors with
    limit c gives their dot product an error of standard deviation sqrt(2 / 12) * c / 127, about
    0.003 * c, for every dim. Clipping has no such bound. So the limit leaves room: uniform unit
    vectors have coordinates of standard deviation 1 / sqrt(dim), four of which hold all but 1 in
    16,000; trained models reach 4 to 10 (measured), hence min(1, 10 / sqrt(dim)).

    Parameters
    ----------
    model_name : str
        "mini" has a measured limit, 0.65; other models have the formula's.
    dim : int
        Dimensions of the unit vectors.

    Returns
    -------
    Quantizer
        Of kind "scale".
    """
    limit = _MEASURED_LIMITS.get(model_name, min(1.0, _LIMIT_TIMES_SQRT_DIM / dim**0.5))
    return Quantizer(scale=limit / _MAX_CODE, dim=dim)
