"""Finds the files of a model, given its name or its folder.

Short official names and "owner/name" are resolved by `huggingface_hub`, which is imported only
then, with its cache, environment variables and offline mode. config.json is checked before any
weights are fetched. Only files named here, in a checked modules.json or in a checked shard index
are ever requested or opened.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from ..version import __version__
from .config import Kind, ModelConfig, parse_config, read_json, read_object
from .equalisation import EQUALISATION
from .foreign import refuse_file, refuse_lfs_pointer, refuse_other_format
from .gguf import CLASSIFIER, Place, read_gguf
from .gguf_model import check_tokenizer, config_of, find_gguf
from .modules import Modules, ModuleSettings, read_module_settings, read_modules
from .weights import INDEX, SINGLE, check_tensors, find_shards, shard_names

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

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_OF_THE_TRANSFORMER = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "sentence_bert_config.json",
    _ADAPTER_CONFIG,
    INDEX,
)
_SMALL_FILES = (
    *_OF_THE_TRANSFORMER,
    "config_sentence_transformers.json",
    "modules.json",
    "1_Pooling/config.json",
    "1_LogitScore/config.json",
)
_HUB_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")


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
    config_file : Path
        The config.json.
    tokenizer : Path
        The tokenizer.json, not yet opened.
    adapter : Path or None
        The folder of a LoRA adapter that belongs to the model.
    stored : str or None
        The dtype of quantised weights, "int8"; None: they are floats.
    equalisation : Path or None
        The scales by which `quantize` has equalised the weights.
    places : dict or None
        Of a GGUF file, the only shard: where its tensors lie.
    """

    name: str
    revision: str | None
    folder: Path
    config: ModelConfig
    settings: ModuleSettings
    shards: tuple[Path, ...]
    config_file: Path
    tokenizer: Path
    adapter: Path | None = None
    stored: str | None = None
    equalisation: Path | None = None
    places: dict[str, Place] | None = None

    def choose_adapter(
        self, adapter: str | os.PathLike[str] | None
    ) -> str | os.PathLike[str] | None:
        """The adapter to open the model with: the caller's or the folder's own.

        Raises
        ------
        ModelFileError
            There are both.
        """
        if adapter is not None and self.adapter is not None:
            raise ModelFileError(
                f"{self.name} has an adapter of its own, and adapter={str(adapter)!r} would be a "
                f"second one: merge the first with `qwen3-embed merge`"
            )
        return self.adapter if adapter is None else adapter

    def warn_of_kind(self, kind: Kind, adds_end: bool) -> None:
        """Warns where no file says which kind of model this is, and the tokenizer contradicts.

        Parameters
        ----------
        kind : Kind
            The class that opens the model.
        adds_end : bool
            The tokenizer appends an end token to every text, as those of embedding models do.
        """
        is_embedder = kind == "embedder"
        if self.settings.is_listed or adds_end == is_embedder:
            return
        adds, other = ("no", "a reranker") if is_embedder else ("an", "an embedding model")
        warnings.warn(
            f"{self.name} may be {other}: it has no modules.json to say so, and its tokenizer.json "
            f"appends {adds} end token; it is opened as {kind}",
            UserWarning,
            stacklevel=4 - is_embedder,
        )


def find_model(
    model: str | os.PathLike[str], options: HubOptions, kind: Kind = "embedder"
) -> ModelFiles:
    """Finds a model's files, and fetches missing ones from the hub.

    Parameters
    ----------
    model : str or path-like
        A folder, an official short name, "owner/name" on the hub, or "mini". An existing folder
        takes precedence over a name; "mini" is always the embedded model.
    options : HubOptions
    kind : Kind
        The class that opens it: a model of the other kind is refused.

    Returns
    -------
    ModelFiles

    Raises
    ------
    ModelNotFoundError
        No model of that name, a missing or unreadable file, or no connection to the hub.
    ModelFileError
        A file is damaged or describes a model that this engine doesn't compute.
    ValueError
        A revision of a folder.
    """
    return _find(model, options, kind)


def _find(
    model: str | os.PathLike[str], options: HubOptions, kind: Kind, *, as_base: bool = False
) -> ModelFiles:
    if (gguf := find_gguf(Path(model).expanduser())) is not None:
        return _of_gguf(str(model), gguf, options, kind)
    place = _locate(model, options, kind)
    with place.named():
        modules = read_modules(place.folder, kind)
    place.fetch_files_of(modules)
    folder = place.folder / modules.transformer
    with place.named():
        has_adapter = (folder / _ADAPTER_CONFIG).exists()
        if has_adapter and as_base:
            raise ModelFileError(
                f"{place.name} is the base of an adapter and holds an adapter of its own: merge "
                f"that one first"
            )
        if has_adapter and not (folder / "config.json").exists():
            return _of_adapter_alone(place, folder, modules, options, kind)
        config, is_tied, stored = _read_config(folder, kind)
        _check_tokenizer_file(folder)
        settings = read_module_settings(place.folder, modules, folder, kind)
    place.fetch_weights(folder)
    with place.named():
        shards = find_shards(folder)
        check_tensors(shards, is_tied)
    return ModelFiles(
        place.name,
        place.revision,
        place.folder,
        config,
        settings,
        shards,
        folder / "config.json",
        folder / "tokenizer.json",
        folder if has_adapter else None,
        stored,
        folder / EQUALISATION if stored and (folder / EQUALISATION).exists() else None,
    )


def _of_gguf(name: str, path: Path, options: HubOptions, kind: Kind) -> ModelFiles:
    """The files of a model in a GGUF file, with the small files beside it."""
    if options.revision is not None:
        raise ValueError(f"revision={options.revision!r}: a file has none, models on the hub do")
    gguf = read_gguf(path)
    config = parse_config(config_of(gguf, kind), str(path), kind)
    folder = path.parent
    tokenizer = folder / "tokenizer.json" if (folder / "tokenizer.json").exists() else path
    if tokenizer != path:
        check_tokenizer(gguf, tokenizer)
    modules = read_modules(folder, kind)
    settings = read_module_settings(folder, modules, folder, kind)
    if "qwen3.pooling_type" in gguf.metadata:
        settings = replace(settings, is_listed=True)
    places = {name: place for name, place in gguf.places.items() if name != CLASSIFIER}
    named = (name, None, folder, config, settings, (path,), path, tokenizer)
    return ModelFiles(*named, stored="int8", places=places)


def _of_adapter_alone(
    place: _Place, folder: Path, modules: Modules, options: HubOptions, kind: Kind
) -> ModelFiles:
    """The base named by an adapter's folder, with the adapter and the folder's other files."""
    content = read_object(folder / _ADAPTER_CONFIG)
    name, revision = (content.get(key) for key in ("base_model_name_or_path", "revision"))
    if not isinstance(name, str) or not name:
        raise ModelFileError(
            f"{folder / _ADAPTER_CONFIG}: base_model_name_or_path is {name!r}, expected the base's "
            f"name: open the base, with adapter={str(folder)!r}"
        )
    pinned = replace(options, revision=revision if isinstance(revision, str) else None)
    if Path(name).is_dir():
        pinned = replace(pinned, revision=None)
    try:
        base = _find(name, pinned, kind, as_base=True)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{str(folder)!r} holds a LoRA adapter without its base {name!r}: {error}; open the "
            f"base from where it is, with adapter={str(folder)!r}"
        ) from error
    place.fetch_weights(folder)
    settings, tokenizer = base.settings, base.tokenizer
    if modules.is_listed:
        settings = read_module_settings(place.folder, modules, folder, kind)
    if (folder / "tokenizer.json").exists():
        tokenizer = folder / "tokenizer.json"
        if not modules.is_listed:  # the base's settings, but for what lies beside a tokenizer
            modules = read_modules(base.folder, kind)
            settings = read_module_settings(base.folder, modules, folder, kind)
    return replace(
        base,
        name=place.name,
        revision=place.revision,
        folder=place.folder,
        settings=settings,
        tokenizer=tokenizer,
        adapter=folder,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """The folder of a model's files, and the way to fetch further ones.

    Attributes
    ----------
    hub : HubOptions or None
        With the commit as revision; None for a local folder, which is complete.
    """

    name: str
    revision: str | None
    folder: Path
    hub: HubOptions | None = None

    @contextmanager
    def named(self) -> Iterator[None]:
        """Adds the repository to errors about missing files."""
        try:
            yield
        except ModelNotFoundError as error:
            if self.hub is None:
                raise
            raise ModelNotFoundError(
                f"{self.name} on the hub lacks a file: {error} (pickled weights are never fetched)"
            ) from error

    def fetch_files_of(self, modules: Modules) -> None:
        """Fetches the small files of modules that lie in unusual folders."""
        wanted = modules.config_files
        if modules.transformer:
            wanted += [f"{modules.transformer}/{name}" for name in _OF_THE_TRANSFORMER]
        self._fetch([name for name in wanted if name not in _SMALL_FILES])

    def fetch_weights(self, folder: Path) -> None:
        """Fetches the weights of the commit whose config was read, even if the branch moves on."""
        names = []
        if (folder / _ADAPTER_CONFIG).exists():
            names.append(_ADAPTER_WEIGHTS)
        if (folder / "config.json").exists() and not (folder / SINGLE).exists():
            names += shard_names(folder / INDEX) if (folder / INDEX).exists() else [SINGLE]
            names.append(EQUALISATION)
        self._fetch([str((folder / name).relative_to(self.folder)) for name in names])

    def _fetch(self, names: list[str]) -> None:
        if self.hub is not None and names:
            fetch_files(self.name, self.hub, names)


def _locate(model: str | os.PathLike[str], options: HubOptions, kind: Kind) -> _Place:
    """The folder of a name, with its small files."""
    official = _OFFICIAL[kind]
    other, what_it_is = _OF_THE_OTHER_KIND[kind]
    if other.lower() in Path(model).name.lower():
        raise ModelFileError(f"{model} is {what_it_is} such as {official[0]}")
    if not isinstance(model, str):
        return _in_folder(str(model), Path(model), options)
    path = Path(model).expanduser()
    if model == _EMBEDDED or (model.lower() == _EMBEDDED and not path.is_dir()):
        folder = _EMBEDDED if kind == "embedder" else f"{_EMBEDDED}-{kind}"
        embedded = Path(__file__).parents[1] / "models" / folder
        if not embedded.is_dir():
            raise ModelNotFoundError(
                f"this installation holds no built-in {kind} {_EMBEDDED!r}; "
                f"expected a folder, or a name such as {official[0]}"
            )
        return _in_folder(_EMBEDDED, embedded, options)
    if model and path.is_dir():
        return _in_folder(model, path, options)
    refuse_file(model)
    if name := _official_name(model, official):
        return _on_hub(f"{_OWNER}/{name}", options)
    if is_hub_name(model):
        return _on_hub(model, options)
    names = [*official, *([_EMBEDDED] if kind == "embedder" else [])]
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(model.lower(), lower, 1)
    guess = f"did you mean {lower[near[0]]!r}? Or " if near else ""
    raise ModelNotFoundError(
        f"no folder {model!r}, and no model of that name: {guess}"
        f"expected a folder, 'owner/name' on the hub, or one of: {', '.join(names)}"
    )


def _official_name(model: str, official: Sequence[str]) -> str | None:
    """The official model that is meant, in any case and with or without its owner."""
    name = model.lower().removeprefix(f"{_OWNER.lower()}/")
    return next((each for each in official if each.lower() == name), None)


def is_hub_name(name: str) -> bool:
    """True if the name can be an "owner/name" on the hub."""
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name


def _in_folder(name: str, folder: Path, options: HubOptions) -> _Place:
    folder = folder.expanduser()
    if not folder.is_dir():
        refuse_file(str(folder))
        raise ModelNotFoundError(f"no folder {str(folder)!r} for the model {name!r}")
    if options.revision is not None:
        raise ValueError(
            f"revision={options.revision!r} is for a model on the hub, and {name!r} is a folder, "
            f"which has none"
        )
    try:
        os.listdir(folder)
    except OSError as error:
        raise ModelNotFoundError(
            f"the folder {str(folder)!r} can't be read: {error.strerror}; check its permissions"
        ) from error
    return _Place(name, None, folder)


def _on_hub(name: str, options: HubOptions) -> _Place:
    folder = fetch_files(name, options, _SMALL_FILES)
    commit = folder.name
    return _Place(name, commit, folder, replace(options, revision=commit))


def _read_config(folder: Path, kind: Kind) -> tuple[ModelConfig, bool, str | None]:
    """The checked config.json, whether it ties the head to the embedding, and `stored`."""
    path = folder / "config.json"
    _check_there(path)
    content = read_json(path)
    config = parse_config(content, str(path), kind)
    is_tied = content.get("tie_word_embeddings", False) is True
    return config, is_tied, None if content.get("quantization_config") is None else "int8"


def _check_tokenizer_file(folder: Path) -> None:
    path = folder / "tokenizer.json"
    _check_there(path)
    refuse_lfs_pointer(path)


def _check_there(path: Path) -> None:
    if path.exists():
        return
    folder = path.parent
    if path.name == "config.json" and folder.is_dir():
        refuse_other_format(folder)
    raise ModelNotFoundError(
        f"{path.name} is missing in {str(folder)!r}; a model folder holds config.json, "
        f"tokenizer.json and {SINGLE} (or an index and its shards)"
    )


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
    """The HTTP status in an error or its causes; None: there was none."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None
