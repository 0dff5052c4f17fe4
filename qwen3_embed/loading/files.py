"""A model's name or folder, to the files of which it is made.

Short official names and "owner/name" go through `huggingface_hub`, imported only then: its
cache, its environment variables, its offline mode. config.json is checked before any weights
are fetched. Only files named here, or by a checked shard index, are ever asked for or opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, ModelNotFoundError
from ..version import __version__
from .config import Kind, ModelConfig, parse_config, read_json
from .modules import ModuleSettings, read_module_settings

__all__ = ["HubOptions", "ModelFiles", "fetch_files", "find_model", "is_hub_name"]

_OWNER = "Qwen"
_SIZES = ("0.6B", "4B", "8B")
_OFFICIAL: dict[Kind, tuple[str, ...]] = {
    "embedder": tuple(f"Qwen3-Embedding-{size}" for size in _SIZES),
    "reranker": tuple(f"Qwen3-Reranker-{size}" for size in _SIZES),
}
_OF_THE_OTHER_KIND: dict[Kind, tuple[str, str]] = {
    "embedder": ("Qwen3-Reranker", "a reranker, expected an embedding model"),
    "reranker": ("Qwen3-Embedding", "an embedding model, expected a reranker"),
}
_EMBEDDED = "mini"

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "1_Pooling/config.json",
    "1_LogitScore/config.json",
    "sentence_bert_config.json",
    _INDEX,
)
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors")
_HUB_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_MAX_INDEX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Options for requests to the hub, as in `huggingface_hub`."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The checked files of one model.

    Attributes
    ----------
    name : str
        The hub's "owner/name", the folder as given, or "mini".
    revision : str or None
        The commit, for a model of the hub.
    folder : Path
    config : ModelConfig
    settings : ModuleSettings
    shards : tuple of Path
        The safetensors files, in the order of their names.
    """

    name: str
    revision: str | None
    folder: Path
    config: ModelConfig
    settings: ModuleSettings
    shards: tuple[Path, ...]

    @property
    def tokenizer(self) -> Path:
        """tokenizer.json, not yet opened."""
        return self.folder / "tokenizer.json"


def find_model(
    model: str | os.PathLike[str], options: HubOptions, kind: Kind = "embedder"
) -> ModelFiles:
    """Finds a model's files, fetching from the hub what isn't here yet.

    Parameters
    ----------
    model : str or path-like
        A folder, an official short name, "owner/name" on the hub, or "mini". A folder that
        exists comes before a name; "mini" is always the embedded model.
    options : HubOptions
    kind : Kind
        What it is opened as: a model of the other kind is refused.

    Returns
    -------
    ModelFiles

    Raises
    ------
    ModelNotFoundError
        Nothing of that name, a file is missing or unreadable, or the hub can't be reached.
    ModelFileError
        A file is damaged or describes a model that this engine doesn't compute.
    ValueError
        A revision of a folder.
    """
    official = _OFFICIAL[kind]
    other, what_it_is = _OF_THE_OTHER_KIND[kind]
    if other in Path(model).name:
        raise ModelFileError(f"{model} is {what_it_is} such as {official[0]}")
    if not isinstance(model, str):
        return _from_folder(str(model), Path(model), options, kind)
    if model == _EMBEDDED:
        folder = _EMBEDDED if kind == "embedder" else f"{_EMBEDDED}-{kind}"
        embedded = Path(__file__).parents[1] / "models" / folder
        if not embedded.is_dir():
            raise ModelNotFoundError(
                f"this installation holds no built-in {kind} {_EMBEDDED!r}; "
                f"expected a folder, or a name such as {official[0]}"
            )
        return _from_folder(_EMBEDDED, embedded, options, kind)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return _from_folder(model, path, options, kind)
    if model in official:
        return _from_hub(f"{_OWNER}/{model}", options, kind)
    if is_hub_name(model):
        return _from_hub(model, options, kind)
    raise ModelNotFoundError(
        f"no folder {model!r}, and it is no model's name either; "
        f"expected a folder, 'owner/name' on the hub, or one of: {', '.join(official)}"
    )


def is_hub_name(name: str) -> bool:
    """True if the name can be an "owner/name" on the hub."""
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name


def _from_folder(name: str, folder: Path, options: HubOptions, kind: Kind) -> ModelFiles:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ModelNotFoundError(f"no folder {str(folder)!r} for the model {name!r}")
    if options.revision is not None:
        raise ValueError(
            f"revision={options.revision!r} is for a model on the hub, and {name!r} is a folder, "
            f"which has none"
        )
    config, settings = _read_settings(folder, kind)
    return ModelFiles(name, None, folder, config, settings, _find_shards(folder))


def _read_settings(folder: Path, kind: Kind) -> tuple[ModelConfig, ModuleSettings]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ModelNotFoundError(
            f"the folder {str(folder)!r} can't be read: {error.strerror}; check its permissions"
        ) from error
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise ModelNotFoundError(
                f"{needed} is missing in {str(folder)!r}; a model folder holds config.json, "
                f"tokenizer.json and model.safetensors (or an index and its shards)"
            )
    path = folder / "config.json"
    return parse_config(read_json(path), str(path), kind), read_module_settings(folder, kind)


def _find_shards(folder: Path) -> tuple[Path, ...]:
    if (folder / _SINGLE).exists():
        return (folder / _SINGLE,)
    index = folder / _INDEX
    if index.exists():
        shards = tuple(folder / name for name in _shard_names(index))
        missing = [shard.name for shard in shards if not shard.exists()]
        if missing:
            raise ModelNotFoundError(
                f"{index} lists {missing[0]} and it is not there ({len(missing)} of "
                f"{len(shards)} files are missing): fetch the model again"
            )
        return shards
    pickled = sorted(name for name in os.listdir(folder) if name.endswith(_PICKLED))
    if pickled:
        raise ModelFileError(
            f"{str(folder)!r} holds its weights as {pickled[0]}, a pickle, which can run code: "
            f"expected {_SINGLE}; convert it with the `safetensors` package"
        )
    raise ModelNotFoundError(
        f"no weights in {str(folder)!r}; expected {_SINGLE}, or {_INDEX} and its shards"
    )


def _shard_names(index: Path) -> list[str]:
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


def _from_hub(name: str, options: HubOptions, kind: Kind) -> ModelFiles:
    folder = fetch_files(name, options, _SMALL_FILES)
    commit = folder.name
    with _named(name):
        config, settings = _read_settings(folder, kind)
    # The weights of the commit whose config was read, whatever the branch does meanwhile.
    pinned = HubOptions(commit, options.cache_dir, options.token, options.local_files_only)
    if not (folder / _SINGLE).exists():
        index = folder / _INDEX
        fetch_files(name, pinned, _shard_names(index) if index.exists() else (_SINGLE,))
    with _named(name):
        shards = _find_shards(folder)
    return ModelFiles(name, commit, folder, config, settings, shards)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Tells which repository a missing file belongs to, and that others may have been there."""
    try:
        yield
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{name} on the hub lacks a file: {error} (pickled weights are never fetched)"
        ) from error


def fetch_files(name: str, options: HubOptions, files: tuple[str, ...] | list[str]) -> Path:
    """The snapshot folder of the hub's cache, holding those of `files` that the model has."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=options.revision,
            cache_dir=None if options.cache_dir is None else Path(options.cache_dir),
            token=options.token,
            local_files_only=options.local_files_only,
            allow_patterns=list(files),
            library_name="qwen3-embed-native",
            library_version=__version__,
        )
    except Exception as error:
        raise ModelNotFoundError(_what_to_do(name, options, error)) from error
    return Path(folder)


def _what_to_do(name: str, options: HubOptions, error: Exception) -> str:
    from huggingface_hub import constants, errors

    revision = options.revision or "main"
    status = _http_status(error)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then pass token= "
            f"or run `hf auth login`"
        )
    if status == 401 and options.token is not None:
        return f"the hub refused the token for {name}: check token= and what it may read"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"no repository {name} on the hub, or it is private: check the spelling; for a "
            f"private one pass token= or run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}: expected a branch, a tag or a commit"
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} is not a hub name ({error}); expected 'owner/name'"
    if isinstance(error, errors.LocalEntryNotFoundError) and status is None:
        here = f"{name} (revision {revision}) is not, or not whole, in the cache, and "
        if options.local_files_only or constants.HF_HUB_OFFLINE:
            return (
                f"{here}the network may not be used: allow it once (local_files_only=False, no "
                f"HF_HUB_OFFLINE), or pass a folder"
            )
        return (
            f"{here}{constants.ENDPOINT} can't be reached: connect, set HF_ENDPOINT, or pass a "
            f"folder ({error})"
        )
    return (
        f"fetching {name} (revision {revision}) failed: {type(error).__name__}: {error}; "
        f"try again, what has arrived is kept"
    )


def _http_status(error: BaseException | None) -> int | None:
    """The hub's answer in an error or in what caused it; None: there was none."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None
