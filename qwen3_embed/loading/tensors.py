"""Single tensors of safetensors files, as NumPy arrays.

The engine binds a model's weights itself. This module is for Python code that reads a few
tensors, or streams through all of them: a reranker's head, adapters, `merge`. Headers are parsed
by the engine's own strict parser; bf16 is held as uint16, because NumPy has no such type.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._core import tensor_places
from ..errors import ModelFileError
from .gguf import BLOCK, BLOCK_BYTES, read_gguf

__all__ = ["Tensor", "TensorFiles", "as_bf16", "as_dtype", "as_floats", "write_tensors"]

# Every model has this tensor, so the prefix of its name is that of all names.
_ANCHOR = "layers.0.input_layernorm.weight"
_DTYPES: dict[str, Any] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_WRITTEN: dict[str, Any] = _DTYPES | {"I8": np.int8}


@dataclass(frozen=True, slots=True)
class Tensor:
    """The location of one tensor in its file.

    Attributes
    ----------
    name : str
    dtype : str
        As safetensors spells it: "BF16", "F16", "F32" or another.
    shape : tuple of int
    path : Path
    offset, n_bytes : int
        Where its data lies in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int

    def stored(self) -> npt.NDArray[Any]:
        """The tensor as stored, memory-mapped and read-only; bf16 as uint16.

        Raises
        ------
        ModelFileError
            A dtype other than BF16, F16 and F32.
        """
        return self._mapped(self._stored_dtype())

    def int8(self) -> npt.NDArray[np.int8]:
        """The integers of a tensor of dtype I8, memory-mapped and read-only.

        Raises
        ------
        ModelFileError
            Another dtype.
        """
        if self.dtype != "I8":
            raise ModelFileError(f"{self.name}: dtype {self.dtype}, expected I8 (in {self.path})")
        return self._mapped(np.int8)

    def _mapped(self, dtype: Any) -> npt.NDArray[Any]:
        if self.n_bytes == 0:
            return np.empty(self.shape, dtype)
        mapped = np.memmap(self.path, np.uint8, "r", self.offset, (self.n_bytes,))
        stored: npt.NDArray[Any] = mapped.view(np.ndarray).view(dtype)
        return stored.reshape(self.shape)

    def rows(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Some rows of a matrix in float32, exactly.

        Raises
        ------
        ModelFileError
            A dtype other than BF16, F16, F32 and Q8_0.
        """
        if self.dtype != "Q8_0":
            return as_floats(self.stored()[list(ids)])
        n_bytes = self.shape[1] // BLOCK * BLOCK_BYTES
        stored = np.memmap(self.path, np.uint8, "r", self.offset, (self.shape[0], n_bytes))
        blocks = np.array(stored[list(ids)]).reshape(len(ids), -1, BLOCK_BYTES)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
        values = np.ascontiguousarray(blocks[..., 2:]).view(np.int8) * scales
        return values.reshape(len(ids), -1)

    def blocks(self, n_elements: int) -> Iterator[npt.NDArray[Any]]:
        """The tensor as stored, read in order in flat blocks of at most `n_elements`.

        Raises
        ------
        ModelFileError
            A dtype other than BF16, F16 and F32.
        """
        dtype = np.dtype(self._stored_dtype())
        total = math.prod(self.shape)
        for start in range(0, total, n_elements):
            count = min(n_elements, total - start)
            yield np.fromfile(self.path, dtype, count, offset=self.offset + start * dtype.itemsize)

    def _stored_dtype(self) -> Any:
        if self.dtype not in _DTYPES:
            raise ModelFileError(
                f"{self.name}: dtype {self.dtype}, expected BF16, F16 or F32 (in {self.path})"
            )
        return _DTYPES[self.dtype]

    def floats(self) -> npt.NDArray[np.float32]:
        """The tensor in float32, exactly; a new array."""
        return self.rows(range(self.shape[0])) if self.dtype == "Q8_0" else as_floats(self.stored())


class TensorFiles:
    """The tensors of one model or adapter, by name.

    Parameters
    ----------
    paths : iterable of Path
        Its safetensors files, or its GGUF file.

    Raises
    ------
    ModelFileError
        A damaged file, or a name that is in two of the files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._tensors: dict[str, Tensor] = {}
        for path in paths:
            is_gguf = path.suffix.lower() == ".gguf"
            places = read_gguf(path).places if is_gguf else tensor_places(str(path))
            for name, (dtype, shape, offset, n_bytes) in places.items():
                if name in self._tensors:
                    raise ModelFileError(
                        f"{name}: found in both {self._tensors[name].path} and {path}, expected "
                        f"once"
                    )
                self._tensors[name] = Tensor(name, dtype, shape, path, offset, n_bytes)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors.values())

    def __len__(self) -> int:
        return len(self._tensors)

    def bare_name(self, name: str) -> str:
        """A tensor's name without the prefix of all names, such as "model." or "module.model.".

        A head is named beside "model.": with "module.model.", it is "module.lm_head.weight".
        """
        prefix = self._prefix
        if name.startswith(prefix):
            return name.removeprefix(prefix)
        return name.removeprefix(prefix.removesuffix("model."))

    @cached_property
    def _prefix(self) -> str:
        for name in self._tensors:
            if name.endswith(_ANCHOR):
                return name.removesuffix(_ANCHOR)
        return "model." if any(name.startswith("model.") for name in self._tensors) else ""

    def by_bare_name(self) -> dict[str, Tensor]:
        """The tensors by `bare_name`, in the order of the files."""
        return {self.bare_name(tensor.name): tensor for tensor in self}


def as_floats(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 of bf16 bits (uint16), float16 or float32: exact, and a new array."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def as_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The nearest bf16 of each float32, ties to even; a NaN stays a NaN."""
    bits = values.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = (bits[nan] >> 16).astype(np.uint16) | np.uint16(0x40)
    return rounded


def as_dtype(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """float32 values as a tensor of this dtype stores them, rounded once.

    Raises
    ------
    OverflowError
        A value past the largest of float16.
    """
    if dtype == "BF16":
        return as_bf16(values)
    if dtype == "F16" and values.size and np.abs(values).max() > np.finfo(np.float16).max:
        raise OverflowError(f"{np.abs(values).max():g} is too large for F16: use a BF16 model")
    return values.astype(_DTYPES[dtype])


def write_tensors(
    path: Path,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    values: Iterable[npt.NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file as a stream; the file appears only once it is whole.

    Parameters
    ----------
    path : Path
    layout : mapping of str to (str, tuple of int)
        dtype and shape by name, in the order of the file.
    values : iterable of ndarray
        The tensors as stored, in the same order, whole or in blocks; each is released before
        the next is requested.
    metadata : mapping of str to str, optional
        By default that of PyTorch's files.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, (dtype, shape) in layout.items():
        begin, end = end, end + math.prod(shape) * np.dtype(_WRITTEN[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in values:
                file.write(np.ascontiguousarray(array).data)
            n_bytes = file.tell() - 8 - len(text)
        if n_bytes != end:
            raise ValueError(f"{path}: {n_bytes} bytes of tensors, expected {end}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
