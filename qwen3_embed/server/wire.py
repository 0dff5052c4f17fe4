"""Vectors as JSON values: floats or codes, as numbers or in base64."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ..embedder import Embedder
from ..retrieval.quantizer import Quantizer, quantize_binary
from .problems import Problem

__all__ = ["OutputDtype", "codes_of", "json_values", "quantizer_for"]

OutputDtype = Literal["float", "float16", "int8", "uint8", "binary", "ubinary"]


def quantizer_for(model: Embedder, dim: int | None, fitted: Quantizer | None) -> Quantizer:
    """The quantizer of int8 and uint8 codes: the fitted one, or the model's own for `dim`.

    Raises
    ------
    Problem
        400: the fitted quantizer is for vectors of another dimension.
    """
    if fitted is None:
        return model.quantizer(dim)
    if fitted.dim != (dim or model.dim):
        raise Problem(
            400,
            f"this server's int8 scale was fitted for {fitted.dim} dimensions, found "
            f"{dim or model.dim}: ask for dimensions={fitted.dim}, or for another dtype",
            param="dimensions",
        )
    return fitted


def codes_of(
    rows: npt.NDArray[np.float32], dtype: OutputDtype, quantizer: Quantizer | None = None
) -> npt.NDArray[Any]:
    """Vectors in the dtype that a client asks for.

    Parameters
    ----------
    rows : ndarray
        (n, dim) float32.
    dtype : {"float", "float16", "int8", "uint8", "binary", "ubinary"}
        As the `precision` of `Embedder.encode`; "float" is float32.
    quantizer : Quantizer, optional
        Required for int8 and uint8.

    Returns
    -------
    ndarray
        (n, dim) little-endian float32 or float16, int8 or uint8; for binary (int8) and
        ubinary (uint8) (n, ceil(dim / 8)).
    """
    if dtype == "float":
        return rows.astype("<f4", copy=False)
    if dtype == "float16":
        return rows.astype("<f2")
    if dtype == "binary" or dtype == "ubinary":
        return quantize_binary(rows, dtype)
    assert quantizer is not None
    return quantizer.quantize(rows, dtype)


def json_values(codes: npt.NDArray[Any], *, base64: bool) -> list[bytes]:
    """One JSON value per row: an array of numbers, or a string with its bytes in base64.

    Examples
    --------
    >>> json_values(np.array([[1, -2]], np.int8), base64=False)
    [b'[1,-2]']
    >>> json_values(np.array([[1, -2]], np.int8), base64=True)
    [b'"Af4="']
    """
    if base64:
        return [b'"%b"' % b2a_base64(row, newline=False) for row in codes]
    # Row by row: a call over all of them would keep other threads from running for as long.
    return [msgspec.json.encode(row.tolist()) for row in codes]
