"""The frame of a new model folder: what `merge` and `quantize` write besides weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..loading.config import read_object
from ..loading.files import ModelFiles, find_model
from ..loading.hub_options import HubOptions
from ..loading.weights import INDEX

__all__ = ["copy_small_files", "find_float_model", "start_folder", "write_index"]

_COPIED = (".json", ".txt", ".jinja")
# Valid only for the base, rewritten, or merged.
_NOT_COPIED = ("verify.json", INDEX, "adapter_config.json")


def find_float_model(model: str | os.PathLike[str], hub: HubOptions) -> ModelFiles:
    """Finds the files of an embedder or, failing that, of a reranker.

    Raises
    ------
    ModelNotFoundError, ModelFileError
        As `find_model`; the weights are quantised already.
    """
    try:
        files = find_model(model, hub)
    except ModelFileError as as_embedder:
        try:
            files = find_model(model, hub, "reranker")
        except ModelFileError:
            raise as_embedder from None
    if files.stored is not None:
        raise ModelFileError(
            f"{files.name} holds {files.stored} weights, expected floats: take the original "
            f"model, and quantize the result"
        )
    return files


def start_folder(files: ModelFiles, output: Path) -> Path:
    """Makes an empty folder like that of `files`; returns the one for weights in it.

    Raises
    ------
    FileExistsError
        The output folder is not empty.
    ModelFileError
        `files` are an adapter's.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty, expected a new folder")
    inner = files.config_file.parent
    if not inner.is_relative_to(files.folder):
        raise ModelFileError(
            f"{files.name} is an adapter without weights of its own: name its base instead, "
            f"{str(inner)!r}"
        )
    weights = output / inner.relative_to(files.folder)
    weights.mkdir(exist_ok=True)
    return weights


def write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    """Writes the index of a folder's weight files: tensor to file name."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(weight_map)}
    (folder / INDEX).write_text(json.dumps(index, indent=2))


def copy_small_files(
    files: ModelFiles, output: Path, config: Mapping[str, Any] | None = None
) -> None:
    """Copies all but weights, config.json last and with the keys of `config` replaced."""
    copied = [p for p in files.folder.iterdir() if p.is_file()]
    copied += [p for f in files.folder.iterdir() if f.is_dir() for p in f.iterdir() if p.is_file()]
    for path in sorted(copied, key=lambda p: p == files.config_file):
        if path.suffix not in _COPIED or path.name in _NOT_COPIED:
            continue
        target = output / path.relative_to(files.folder)
        target.parent.mkdir(exist_ok=True)
        if path == files.config_file and config is not None:
            content = {**read_object(path), **config}
            target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        else:
            shutil.copyfile(path, target)
