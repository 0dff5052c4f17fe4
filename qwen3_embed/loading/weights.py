"""Finds the weight files of a folder, and checks that they hold a whole model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, ModelNotFoundError
from .config import read_json
from .foreign import refuse_folder_without_weights, refuse_lfs_pointer
from .tensors import TensorFiles

__all__ = ["INDEX", "SINGLE", "check_tensors", "find_shards", "shard_names"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors")
_MAX_INDEX_BYTES = 64 << 20


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The weight files of a folder, in the order of their names.

    Raises
    ------
    ModelNotFoundError
        No weights, or a shard is missing.
    ModelFileError
        A damaged index, or weights of another format.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        shards: tuple[Path, ...] = (single,)
    elif index.exists():
        shards = tuple(folder / name for name in shard_names(index))
        missing = [shard.name for shard in shards if not shard.exists()]
        if missing:
            raise ModelNotFoundError(
                f"{index} lists {missing[0]} and it is not there ({len(missing)} of "
                f"{len(shards)} files are missing): fetch the model again"
            )
    else:
        refuse_folder_without_weights(folder)
    for shard in shards:
        refuse_lfs_pointer(shard)
    return shards


def shard_names(index: Path) -> list[str]:
    """The files that an index lists, once each, every name checked as text before any use."""
    content = read_json(index, _MAX_INDEX_BYTES)
    weight_map: Any = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: weight_map is expected to map tensors to files")
    names = set(map(str, weight_map.values()))
    for name in sorted(names):
        if not _SHARD_NAME.fullmatch(name) or ".." in name:
            raise ModelFileError(
                f"{index}: the file name {name!r} is refused, expected a plain name that ends "
                f"in .safetensors"
            )
    return sorted(names)


def check_tensors(shards: Iterable[Path], is_tied: bool) -> None:
    """Checks that the engine, which sees names and shapes alone, can't do.

    Parameters
    ----------
    shards : iterable of Path
    is_tied : bool
        tie_word_embeddings: the embedding may then be stored as lm_head.weight.

    Raises
    ------
    ModelFileError
        An adapter that isn't merged, a classifier of several labels, or no embedding.
    """
    tensors = TensorFiles(shards)
    for tensor in tensors:
        if ".base_layer." in tensor.name or ".lora_A." in tensor.name:
            raise ModelFileError(
                f"{tensor.path} holds {tensor.name!r}, of a LoRA adapter that is not merged: save "
                f"the result of PEFT's merge_and_unload(), or the adapter alone"
            )
    score = tensors.by_bare_name().get("score.weight")
    if score is not None and score.shape[:1] != (1,):
        width = score.shape[-1] if score.shape else 0
        raise ModelFileError(
            f"score.weight: shape {score.shape}, expected (1, {width}): a classifier of several "
            f"labels; a reranker has one score, so train it with num_labels=1"
        )
    names = {tensors.bare_name(tensor.name) for tensor in tensors}
    if "embed_tokens.weight" not in names and "lm_head.weight" in names and not is_tied:
        raise ModelFileError(
            "embed_tokens.weight is missing, and lm_head.weight is not it: tie_word_embeddings "
            "is false; fetch the model again"
        )
