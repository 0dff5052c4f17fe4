"""Writes new model folders: an adapter merged into its base, or an interpolation of models.

Weights are processed in blocks, shard by shard, in float32, and rounded once to the dtype of the
first model. The result has that model's files, names and layout, so it loads wherever that does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from ..loading.config import read_json
from ..loading.files import ModelFiles
from ..loading.head import HEADS
from ..loading.hub_options import HubOptions
from ..loading.tensors import Tensor, TensorFiles, as_dtype, as_floats, write_tensors
from .adapter import Adapter, find_adapter
from .new_folder import copy_small_files, find_float_model, start_folder, write_index

__all__ = ["interpolate_models", "merge_adapter"]

_BLOCK = 1 << 24  # elements: 64 MiB of float32
_PARALLEL = 0.9995  # cosine beyond which SLERP's formula loses precision
_MAX_TOKENIZER_BYTES = 64 << 20

Blocks = Iterator[npt.NDArray[Any]]


def merge_adapter(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: Path,
    hub: HubOptions | None = None,
) -> Adapter:
    """Writes the model folder of a base with a LoRA adapter merged into it.

    Parameters
    ----------
    base : str or path-like
        As `Embedder` or `Reranker` takes it.
    adapter : str or path-like
        A PEFT folder, or "owner/name" on the hub.
    output : Path
        A folder that is new or empty.
    hub : HubOptions, optional

    Returns
    -------
    Adapter
        The merged adapter; `merged` and `replaced` name the modules that it changed.

    Raises
    ------
    ModelNotFoundError, ModelFileError
        As for `Embedder(base, adapter=adapter)`.
    FileExistsError
        The output folder is not empty.

    Examples
    --------
    >>> merge_adapter("Qwen3-Embedding-0.6B", "legal", Path("merged"))     # doctest: +SKIP
    """
    hub = hub or HubOptions()
    files = find_float_model(base, hub)
    found = find_adapter(adapter, hub)
    if files.adapter is not None and files.adapter.resolve() != found.resolve():
        raise ModelFileError(
            f"{files.name} has an adapter of its own: merge that one first, with --adapter "
            f"{str(files.adapter)!r}"
        )
    loaded = Adapter(found, str(adapter), files)
    changed = {f"{module}.weight" for module in (*loaded.merged, *loaded.replaced)}
    tensors = TensorFiles(files.shards)
    own = {tensors.bare_name(tensor.name) for tensor in tensors}
    # An embedder, recognised by its modules.json, has no use for a head.
    tied = "lm_head.weight" not in own and not files.settings.is_listed
    if HEADS & (changed - own) or (tied and "embed_tokens.weight" in changed):
        raise ModelFileError(
            f"{adapter} changes one of embed_tokens and lm_head, which are one tensor in "
            f"{files.name}: merge it with PEFT, which can untie them"
        )

    def blocks_of(tensor: Tensor) -> Blocks:
        name = tensors.bare_name(tensor.name)
        if loaded.changes(name):
            yield as_dtype(loaded.tensor(name), tensor.dtype)
        else:
            yield from tensor.blocks(_BLOCK)

    _write_folder(files, output, blocks_of)
    return loaded


def interpolate_models(
    models: Sequence[str | os.PathLike[str]],
    output: Path,
    t: Sequence[float] | None = None,
    hub: HubOptions | None = None,
) -> None:
    """Writes the model folder of a spherical interpolation (SLERP), tensor by tensor.

    Parameters
    ----------
    models : sequence of str or path-like
        Two or more models of the same shape and vocabulary.
    output : Path
        A folder that is new or empty.
    t : sequence of float, optional
        One number fewer than models: for each model after the first, the position between the
        interpolation so far (0) and that model (1). By default 1/2, 1/3, ..., which gives all
        models equal shares.
    hub : HubOptions, optional

    Raises
    ------
    ValueError
        Fewer than two models, or t with a wrong count or values outside 0..1.
    ModelFileError
        The models differ in shape, vocabulary or a setting that changes results.
    FileExistsError
        The output folder is not empty.

    Examples
    --------
    >>> interpolate_models(["a", "b"], Path("between"), [0.5])             # doctest: +SKIP
    """
    steps = [1 / (i + 2) for i in range(len(models) - 1)] if t is None else list(t)
    if len(models) < 2:
        raise ValueError(f"{len(models)} model(s), expected two or more to interpolate")
    if len(steps) != len(models) - 1 or not all(0 <= step <= 1 for step in steps):
        raise ValueError(f"t={steps}, expected {len(models) - 1} number(s) in 0..1")
    found = [find_float_model(model, hub or HubOptions()) for model in models]
    for files in found:
        if files.adapter is not None:
            raise ModelFileError(f"{files.name} has an adapter of its own: merge it first")
    tables = [TensorFiles(files.shards).by_bare_name() for files in found]
    bare_name = TensorFiles(found[0].shards).bare_name
    for files, table in zip(found[1:], tables[1:], strict=True):
        _check_alike(found[0], tables[0], files, table)

    def blocks_of(tensor: Tensor) -> Blocks:
        return _interpolate([table[bare_name(tensor.name)] for table in tables], steps)

    _write_folder(found[0], output, blocks_of)


def _check_alike(
    first: ModelFiles, first_table: dict[str, Tensor], files: ModelFiles, table: dict[str, Tensor]
) -> None:
    names = f"{first.name} and {files.name}"
    only = sorted(first_table.keys() ^ table.keys())
    if only:
        raise ModelFileError(f"only one of {names} has {only[0]}, expected the same tensors")
    for name, tensor in first_table.items():
        if tensor.shape != table[name].shape:
            raise ModelFileError(
                f"{name} has shape {tensor.shape} and {table[name].shape} in {names}, expected "
                f"models of one shape"
            )
    a, b = (f.config.for_engine(1) for f in (first, files))
    for key in a:
        if not np.array_equal(a[key], b[key]):
            raise ModelFileError(f"{names} differ in {key} of config.json, expected models alike")
    tokenizers = [read_json(f.tokenizer, _MAX_TOKENIZER_BYTES) for f in (first, files)]
    vocabularies = [(t["model"].get("vocab"), t.get("added_tokens")) for t in tokenizers]
    if vocabularies[0] != vocabularies[1]:
        raise ModelFileError(f"{names} have different vocabularies, expected the same one")


def _interpolate(tensors: Sequence[Tensor], steps: Sequence[float]) -> Blocks:
    """Yields the interpolation of the tensors in blocks, in the dtype of the first.

    Every step is r <- a r + b v. The scalars a and b follow from the tensors' inner products: one
    pass computes those and a second one combines, so memory does not grow with the tensors.
    """
    n = len(tensors)
    products = np.zeros((n, n))
    for blocks in zip(*(tensor.blocks(_BLOCK) for tensor in tensors), strict=True):
        values = [as_floats(block).astype(np.float64) for block in blocks]
        for i in range(n):
            for j in range(i, n):
                products[i, j] += np.dot(values[i], values[j])
                products[j, i] = products[i, j]
    parts = _parts_of(products, steps)
    for blocks in zip(*(tensor.blocks(_BLOCK) for tensor in tensors), strict=True):
        result = as_floats(blocks[0])
        for block, (a, b) in zip(blocks[1:], parts, strict=True):
            further = as_floats(block)
            if a is None:
                result += b * (further - result)
            else:
                result = a * result + b * further
        yield as_dtype(result, tensors[0].dtype)


def _parts_of(
    products: npt.NDArray[np.float64], steps: Sequence[float]
) -> list[tuple[np.float32 | None, np.float32]]:
    """(a, b) of each step; a is None for linear r + b (v - r), which is exact for equal tensors."""
    shares = np.zeros(len(products))  # coefficient of each tensor in the result so far
    shares[0] = 1.0
    parts: list[tuple[np.float32 | None, np.float32]] = []
    for i, t in enumerate(steps, start=1):
        length = math.sqrt(shares @ products @ shares) * math.sqrt(products[i, i])
        cosine = float(shares @ products[:, i]) / length if length > 0 else 1.0
        if abs(cosine) > _PARALLEL:
            shares *= 1 - t
            shares[i] += t
            parts.append((None, np.float32(t)))
            continue
        angle = math.acos(cosine)
        a, b = (math.sin(x * angle) / math.sin(angle) for x in (1 - t, t))
        shares *= a
        shares[i] += b
        parts.append((np.float32(a), np.float32(b)))
    return parts


def _write_folder(files: ModelFiles, output: Path, blocks_of: Callable[[Tensor], Blocks]) -> None:
    """Writes a copy of the folder of `files` with new weights; config.json is written last."""
    weights = start_folder(files, output)
    total_bytes = 0
    weight_map: dict[str, str] = {}
    for shard in files.shards:
        tensors = list(TensorFiles([shard]))
        layout = {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors}
        blocks = (block for tensor in tensors for block in blocks_of(tensor))
        write_tensors(weights / shard.name, layout, blocks)
        weight_map |= dict.fromkeys(layout, shard.name)
        total_bytes += sum(tensor.n_bytes for tensor in tensors)
    if len(files.shards) > 1:
        write_index(weights, weight_map, total_bytes)
    copy_small_files(files, output)
