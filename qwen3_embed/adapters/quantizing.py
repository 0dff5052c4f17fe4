"""Writes a model folder with int8 weights, as compressed-tensors' "int-quantized" W8A8.

The weights are those that `dtype="int8"` makes at open, to the bit. They are made layer by layer
and written as a stream, so memory holds one layer, whatever the model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._core import equalise_begin, quantize_layer
from ..errors import ModelFileError
from ..loading.cores import usable_cores
from ..loading.equalisation import EQUALISATION, Equalisation
from ..loading.files import ModelFiles
from ..loading.head import HEADS
from ..loading.hub_options import HubOptions
from ..loading.schemes import INT8_CONFIG
from ..loading.tensors import Tensor, TensorFiles, as_bf16, as_floats, write_tensors
from ..loading.weights import SINGLE
from .new_folder import copy_small_files, find_float_model, start_folder, write_index

__all__ = ["quantize_model"]

_MAX_SHARD_BYTES = 5_000_000_000
_BLOCK = 1 << 22  # elements of an embedding that are converted at a time
_ITEM_BYTES = {"I8": 1, "BF16": 2, "F32": 4}
_LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_EQUALISED = ("attention_input", "value", "output", "mlp_input", "activation")

Array = npt.NDArray[Any]


class _Plan(NamedTuple):
    """One file: dtype and shape of its tensors by name, in order."""

    name: str
    layout: dict[str, tuple[str, tuple[int, ...]]]


def quantize_model(
    model: str | os.PathLike[str],
    output: Path,
    hub: HubOptions | None = None,
    *,
    num_threads: int | None = None,
) -> int:
    """Writes the model folder of a model with its layers' matrices in int8.

    Its vectors are those of the original opened with `dtype="int8"`. Embedding and norms are
    bf16; norms that are not exact in bf16 stay float32.

    Parameters
    ----------
    model : str or path-like
        As `Embedder` or `Reranker` takes it.
    output : Path
        A folder that is new or empty.
    hub : HubOptions, optional
    num_threads : int, optional
        None: the usable cores.

    Returns
    -------
    int
        The bytes of all weights written.

    Raises
    ------
    ModelNotFoundError, ModelFileError
        No such model, or one that is quantised or has an adapter of its own.
    FileExistsError
        The output folder is not empty.

    Examples
    --------
    >>> quantize_model("Qwen3-Embedding-0.6B", Path("int8"))               # doctest: +SKIP
    """
    files = find_float_model(model, hub or HubOptions())
    if files.adapter is not None:
        raise ModelFileError(f"{files.name} has an adapter of its own: merge it first")
    source = _Source(files, usable_cores().n if num_threads is None else num_threads)
    plans = source.plans()
    weights = start_folder(files, output)
    arrays = source.arrays()
    for plan in plans:
        write_tensors(weights / plan.name, plan.layout, _take(arrays, plan))
    Equalisation.write(weights / EQUALISATION, source.scales, files.config)
    total = sum(_n_bytes(*tensor) for plan in plans for tensor in plan.layout.values())
    # Tools that would take every safetensors file of a folder keep to those of an index.
    write_index(weights, {name: plan.name for plan in plans for name in plan.layout}, total)
    copy_small_files(files, output, {"quantization_config": INT8_CONFIG, "torch_dtype": "bfloat16"})
    return total


class _Source:
    """The tensors of the new folder, in order, made from those of the model.

    Attributes
    ----------
    scales : list of dict
        What each layer was equalised by, once `arrays` is through.
    """

    def __init__(self, files: ModelFiles, num_threads: int) -> None:
        self.scales: list[dict[str, npt.NDArray[np.float32]]] = []
        self._config = files.config
        self._num_threads = num_threads
        self._own = TensorFiles(files.shards).by_bare_name()
        embed = "embed_tokens.weight"
        self._embed = self._own.get(embed) or self._own["lm_head.weight"]
        self._heads = sorted(HEADS & self._own.keys() - {self._embed.name})
        norm = self._tensor("norm.weight")
        self._prefix = norm.name.removesuffix("norm.weight")

    def _tensor(self, name: str) -> Tensor:
        if name not in self._own:
            raise ModelFileError(f"{name}: missing; fetch the model again")
        return self._own[name]

    def plans(self) -> list[_Plan]:
        """The new files: whole layers, about 5 GB each at most."""
        groups = [{f"{self._prefix}embed_tokens.weight": ("BF16", self._embed.shape)}]
        groups += [self._layer_layout(layer) for layer in range(self._config.n_layers)]
        last = {f"{self._prefix}norm.weight": self._norm_entry("norm.weight")}
        for name in self._heads:
            head = self._own[name]
            last[head.name] = ("BF16" if name == "lm_head.weight" else "F32", head.shape)
        layouts: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
        size = 0
        for group in [*groups, last]:
            n_bytes = sum(_n_bytes(*entry) for entry in group.values())
            if layouts[-1] and size + n_bytes > _MAX_SHARD_BYTES:
                layouts.append({})
                size = 0
            layouts[-1] |= group
            size += n_bytes
        n = len(layouts)
        names = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)] if n > 1 else [SINGLE]
        return [_Plan(name, layout) for name, layout in zip(names, layouts, strict=True)]

    def _layer_layout(self, layer: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        layout: dict[str, tuple[str, tuple[int, ...]]] = {}
        for part in (*_LAYER_NORMS, *_HEAD_NORMS):
            name = f"layers.{layer}.{part}.weight"
            layout[self._prefix + name] = self._norm_entry(name)
        for part in _matrices():
            name = f"layers.{layer}.{part}.weight"
            shape = self._tensor(name).shape
            layout[self._prefix + name] = ("I8", shape)
            layout[f"{self._prefix}{name}_scale"] = ("F32", (shape[0], 1))
        return layout

    def _norm_entry(self, name: str) -> tuple[str, tuple[int, ...]]:
        tensor = self._tensor(name)
        values = tensor.floats()
        exact = np.array_equal(as_floats(as_bf16(values)), values)
        return ("BF16" if exact else "F32", tensor.shape)

    def arrays(self) -> Iterator[tuple[str, Iterator[Array]]]:
        """Each new tensor's name and its values, in blocks."""
        yield f"{self._prefix}embed_tokens.weight", _as_bf16_blocks(self._embed)
        config = self._config.for_engine(1)
        embed = self._matrix(self._embed)
        stream = equalise_begin(config, embed)
        del embed
        for layer in range(self._config.n_layers):
            start = f"layers.{layer}."
            names = [f"{part}.weight" for part in (*_LAYER_NORMS, *_HEAD_NORMS)]
            inputs: dict[str, Array] = {name: self._tensor(start + name).floats() for name in names}
            inputs |= {
                f"{part}.weight": self._matrix(self._tensor(f"{start}{part}.weight"))
                for part in _matrices()
            }
            made = quantize_layer(config, inputs, stream, self._num_threads)
            self.scales.append({name: made.pop(name) for name in _EQUALISED})
            for name in names:
                yield self._prefix + start + name, iter([made.get(name, inputs[name])])
            for part in _matrices():
                for name in (f"{part}.weight", f"{part}.weight_scale"):
                    yield self._prefix + start + name, iter([made.pop(name)])
        yield f"{self._prefix}norm.weight", iter([self._own["norm.weight"].floats()])
        for name in self._heads:
            head = self._own[name]
            blocks = _as_bf16_blocks(head) if name == "lm_head.weight" else iter([head.floats()])
            yield head.name, blocks

    @staticmethod
    def _matrix(tensor: Tensor) -> npt.NDArray[np.uint16]:
        """In bf16, mapped or rounded as the engine rounds."""
        stored = tensor.stored()
        return stored if stored.dtype == np.uint16 else as_bf16(as_floats(stored))


def _matrices() -> tuple[str, ...]:
    attention = tuple(f"self_attn.{name}_proj" for name in "qkvo")
    return (*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down")))


def _as_bf16_blocks(tensor: Tensor) -> Iterator[Array]:
    for block in tensor.blocks(_BLOCK):
        yield block if block.dtype == np.uint16 else as_bf16(as_floats(block))


def _take(arrays: Iterator[tuple[str, Iterator[Array]]], plan: _Plan) -> Iterator[Array]:
    """The values of one file's tensors, as it stores them."""
    for expected, (dtype, _) in plan.layout.items():
        name, blocks = next(arrays)
        assert name == expected, (name, expected)
        for block in blocks:
            yield as_bf16(block) if dtype == "BF16" and block.dtype == np.float32 else block


def _n_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return _ITEM_BYTES[dtype] * math.prod(shape)
