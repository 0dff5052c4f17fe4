"""Vectors as bytes or bits: the value conventions of sentence-transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

__all__ = ["Precision", "Quantizer", "quantize_binary"]

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]

_FORMAT = 1


def quantize_binary(
    vectors: npt.ArrayLike, precision: Literal["binary", "ubinary"]
) -> npt.NDArray[np.int8] | npt.NDArray[np.uint8]:
    """One bit a dimension, set where the value is positive; eight to a byte, first in the top bit.

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


def _signed(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Each value minus 128, which is its top bit flipped."""
    return (values ^ np.uint8(0x80)).view(np.int8)


class Quantizer:
    """The range of every dimension, fitted once, that int8 and uint8 vectors are cut by.

    Parameters
    ----------
    ranges : array_like
        (2, dim) float32: the smallest and the largest value of each dimension.

    Raises
    ------
    ValueError
        Another shape, a value that isn't finite, or a minimum above its maximum.

    Examples
    --------
    >>> q = Quantizer.fit([[0.0, -1.0], [1.0, 1.0]])
    >>> q.quantize([[0.5, -1.0]], "uint8").tolist()
    [[127, 0]]
    """

    def __init__(self, ranges: npt.ArrayLike) -> None:
        checked = np.array(ranges, dtype=np.float32)
        if checked.ndim != 2 or checked.shape[0] != 2 or checked.shape[1] == 0:
            raise ValueError(f"ranges has shape {checked.shape}, expected (2, dim)")
        if not np.isfinite(checked).all():
            raise ValueError("ranges holds a value that is not finite")
        if (checked[0] > checked[1]).any():
            raise ValueError("ranges holds a minimum above its maximum")
        checked.setflags(write=False)
        self._ranges = checked

    @property
    def ranges(self) -> npt.NDArray[np.float32]:
        """(2, dim) float32, read-only."""
        return self._ranges

    @property
    def dim(self) -> int:
        """Dimensions of the vectors it was fitted on."""
        return int(self._ranges.shape[1])

    def __repr__(self) -> str:
        return f"Quantizer(dim={self.dim})"

    @classmethod
    def fit(cls, vectors: npt.ArrayLike) -> Quantizer:
        """Takes the ranges of vectors like those that will be quantised; a few thousand are enough.

        Parameters
        ----------
        vectors : array_like
            (n, dim) float, n >= 2.

        Returns
        -------
        Quantizer

        Raises
        ------
        ValueError
            Fewer than two vectors, or a value that isn't finite.
        """
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"vectors has shape {rows.shape}, expected (n, dim) with n >= 2")
        return cls(np.stack([rows.min(axis=0), rows.max(axis=0)]))

    def quantize(
        self, vectors: npt.ArrayLike, precision: Precision
    ) -> npt.NDArray[np.int8] | npt.NDArray[np.uint8]:
        """Vectors as bytes.

        Parameters
        ----------
        vectors : array_like
            (n, dim) or (dim,) float, not int: quantising twice is refused.
        precision : {"int8", "uint8", "binary", "ubinary"}
            A dimension's range is cut into 255 steps, counted from 0 (uint8) or -128 (int8);
            values outside the fitted range take its end. binary, ubinary: `quantize_binary`.

        Returns
        -------
        ndarray
            int8 or uint8, the shape of `vectors`, or a last axis of ceil(dim / 8) for bits.

        Raises
        ------
        ValueError
            Another dim than the fitted one, or an unknown precision.
        TypeError
            Vectors that aren't float.
        """
        rows = np.asarray(vectors)
        if rows.dtype.kind != "f":
            raise TypeError(f"vectors has dtype {rows.dtype}, expected a float dtype")
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.dim:
            raise ValueError(
                f"vectors has shape {rows.shape}, expected (n, {self.dim}): "
                f"fit a Quantizer on vectors of the same dim"
            )
        if precision == "binary" or precision == "ubinary":
            return quantize_binary(rows, precision)
        if precision != "int8" and precision != "uint8":
            raise ValueError(
                f"precision={precision!r}, expected 'int8', 'uint8', 'binary' or 'ubinary'"
            )
        lowest = self._ranges[0]
        steps = (self._ranges[1] - lowest) / np.float32(255)
        steps = np.where(steps == 0, np.float32(1), steps)
        levels: npt.NDArray[np.float32] = np.floor((rows.astype(np.float32) - lowest) / steps)
        bytes_ = np.clip(levels, 0, 255).astype(np.uint8)
        return bytes_ if precision == "uint8" else _signed(bytes_)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the ranges to an .npz file.

        Parameters
        ----------
        path : path-like
            The file, replaced in one step if it is there.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                np.savez(file, format=np.int64(_FORMAT), ranges=self._ranges)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Quantizer:
        """Reads a file that `save` wrote.

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
            Not a file of ranges.
        """
        from zipfile import BadZipFile

        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = cast("dict[str, npt.NDArray[Any]]", dict(content))
        except (ValueError, TypeError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path}: not a Quantizer file: {error}") from error
        if set(arrays) != {"format", "ranges"} or arrays["format"] != _FORMAT:
            raise ValueError(f"{path}: not a Quantizer file of format {_FORMAT}")
        return cls(arrays["ranges"])
