"""Finds the files of a model, given its name or its folder.

Short official names and "owner/name" are looked up on a hub (hub.py). config.json is checked
before any weights are fetched. Only files named here, in a checked modules.json or in a checked
shard index are ever requested or opened.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError
from .config import Kind, ModelConfig, parse_config, read_json, read_object
from .equalisation import EQUALISATION
from .foreign import refuse_file, refuse_lfs_pointer, refuse_other_format
from .gguf import CLASSIFIER, Place, read_gguf
from .gguf_model import check_tokenizer, config_of, find_gguf
from .hub import Snapshot, open_snapshot
from .hub_options import HubOptions, is_hub_name
from .modules import Modules, ModuleSettings, read_module_settings, read_modules
from .weights import INDEX, SINGLE, check_tensors, find_shards, shard_names

__all__ = ["ModelFiles", "find_model"]

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


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The checked files of one model.

    Attributes
    ----------
    name : str
        The hub's "owner/name", the folder as given, or "mini".
    revision : str or None
        That of a hub's `Snapshot`.
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

    @property
    def is_folder(self) -> bool:
        """True for a folder that the caller named."""
        return self.revision is None and self.name != _EMBEDDED

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
    snapshot : Snapshot or None
        None for a local folder, which is complete.
    """

    name: str
    folder: Path
    snapshot: Snapshot | None = None

    @property
    def revision(self) -> str | None:
        return None if self.snapshot is None else self.snapshot.revision

    @contextmanager
    def named(self) -> Iterator[None]:
        """Adds the repository to errors about missing files."""
        try:
            yield
        except ModelNotFoundError as error:
            if self.snapshot is None:
                raise
            raise ModelNotFoundError(
                f"{self.name} {self.snapshot.place} lacks a file: {error} (pickled weights are "
                f"never fetched)"
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
        if self.snapshot is not None and names:
            self.snapshot.fetch(names)


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
            found = f"this installation holds no built-in {kind} {_EMBEDDED!r}"
            if kind != "embedder":
                found = f"{_EMBEDDED!r} is an embedding model, and there is no built-in {kind}"
            raise ModelNotFoundError(f"{found}; expected a folder, or a name such as {official[0]}")
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
    return _Place(name, folder)


def _on_hub(name: str, options: HubOptions) -> _Place:
    snapshot = open_snapshot(name, options, _SMALL_FILES)
    return _Place(name, snapshot.folder, snapshot)


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
