"""class Model: the files, tokenizer and engines of one model, opened and closed together."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from .adapters.weights import Weights
from .encoding.options import Request
from .errors import DeviceError, DeviceMemoryError, ModelFileError
from .loading.config import Kind, ModelConfig
from .loading.device import resolve_device
from .loading.engines import Engines, open_engines
from .loading.files import ModelFiles, find_model
from .loading.fingerprint import fingerprint_of
from .loading.head import HEADS
from .loading.hub_options import HubOptions
from .loading.schemes import DTYPES, choose_dtype
from .loading.tokenizer import Surroundings, Tokenizer
from .sentence_transformers_names import SentenceTransformersNames, chosen_cache_dir
from .templates import resolve_prompt

if TYPE_CHECKING:
    from ._core import Job
    from .adapters.adapter import Adapter
    from .cache import VectorCache
    from .retrieval.domain_map import DomainMap

__all__ = ["Model"]

_MAX_INT = 2**31 - 1  # of the engine's numbers

_FIRST_ADAPTER = "default"  # the name of the one that the constructor is given

_logger = logging.getLogger("qwen3_embed")


class Model(SentenceTransformersNames):
    """The base class of `Embedder`, which documents the parameters and errors, and `Reranker`."""

    _KIND: ClassVar[Kind] = "embedder"
    _projection: DomainMap | None = None

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | Sequence[str] | None = "auto",
        split: str | None = None,
        dtype: str = "auto",
        embedding: str = "auto",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        num_threads: int | None = None,
        adapter: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        hub: str | None = None,
        special_tokens_in_text: bool = True,
        cache: str | os.PathLike[str] | VectorCache | None = None,
        projection: str | os.PathLike[str] | DomainMap | None = None,
        **others: Any,
    ) -> None:
        cache_dir = chosen_cache_dir(others, cache_dir)
        devices = resolve_device(device, split)
        if dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype={dtype!r}, expected 'auto' or {', '.join(map(repr, DTYPES))}")
        for name, value in (("batch_tokens", batch_tokens), ("num_threads", num_threads)):
            if value is not None and (type(value) is not int or not 1 <= value <= _MAX_INT):
                raise ValueError(f"{name}={value!r}, expected 1..{_MAX_INT} or None")
        self._hub = HubOptions(revision, cache_dir, token, local_files_only, hub)
        self._files = find_model(model, self._hub, self._KIND)
        self._dtype = choose_dtype(dtype, self._files.stored)
        first_adapter = self._files.choose_adapter(adapter)
        self._max_length = _choose_max_length(max_length, self._files)
        self._special_tokens_in_text = bool(special_tokens_in_text)
        # Each of the two may take a third of a second, so they run in parallel.
        with ThreadPoolExecutor(1, thread_name_prefix="qwen3_embed tokenizer") as reader:
            reading = reader.submit(
                Tokenizer,
                self._files.tokenizer,
                vocab_size=self._files.config.vocab_size,
                max_length=self._max_length,
                special_tokens_in_text=self._special_tokens_in_text,
                around=self._around(),
            )
            self._engines = self._open_engines(
                devices,
                may_fall_back=device in (None, "auto") and split is None,
                embedding=embedding,
                num_threads=num_threads,
                batch_tokens=batch_tokens or 0,
            )
        self._tokenizer = reading.result()
        self._files.warn_of_kind(self._KIND, self._tokenizer.adds_end)
        self._cache, self._adding = _open_cache(cache), threading.Lock()
        self._adapters: dict[str, Weights] = {}
        self._fingerprints: dict[str | None, str] = {}
        try:
            self._adapt(first_adapter, projection)
        except BaseException:
            self.close()
            raise
        own = self._files.settings
        self._default_prompt = own.prompts.get(own.default_prompt_name or "document", "")
        self._arguments: dict[str, Any] = {
            "model": str(self._files.folder.absolute()) if self._files.is_folder else model,
            "device": device,
            "split": split,
            "dtype": dtype,
            "embedding": embedding,
            "max_length": max_length,
            "batch_tokens": batch_tokens,
            "num_threads": num_threads,
            "adapter": None if adapter is None else self._weights.location,
            **self._hub.without_token(),
            "special_tokens_in_text": special_tokens_in_text,
            "cache": self._cache,
            "projection": self._projection,
        }

    def _adapt(self, adapter: Any, projection: Any) -> None:
        """Chooses weights, then the map that was fitted for them."""
        self._weights = self._own_weights = Weights(0, None, None, None, self._head({}))
        if adapter is not None:
            self.add_adapter(_FIRST_ADAPTER, adapter)
            self.set_adapter(_FIRST_ADAPTER)
        if projection is not None:
            self._projection = self._engines.project(projection, self.fingerprint, self.name)
            self._fingerprints.clear()

    def _around(self) -> Surroundings | None:
        """Texts to put around every text; None: those that the tokenizer's file specifies."""
        return None

    def _open_engines(self, devices: Sequence[str], may_fall_back: bool, **options: Any) -> Engines:
        """Opens the engines; "auto" falls back to the CPU if a GPU has no kernels for the model."""
        open_on = partial(
            open_engines,
            [str(shard) for shard in self._files.shards],
            self._files.config.for_engine(self._max_length),
            dtype=self._dtype,
            places=self._files.places,
            **options,
        )
        try:
            return open_on(devices=devices)
        except DeviceMemoryError:
            raise
        except DeviceError as error:
            if not may_fall_back or devices == ("cpu",):
                raise
            _logger.warning("%s; using the CPU", error)
            return open_on(devices=("cpu",))

    @property
    def dim(self) -> int:
        """Floats in a full vector."""
        return self._files.config.hidden_size

    @property
    def device(self) -> str:
        """The device that computes: "cpu", "cuda:0", or "cuda:0,cuda:1"."""
        return str(self._engines.info["device"])

    @property
    def dtype(self) -> str:
        """The dtype in the engine: "bfloat16", "float8", "int8" or "int8-weights"."""
        return self._dtype

    @property
    def name(self) -> str:
        """The hub's "owner/name", the folder as given, or "mini"."""
        return self._files.name

    @property
    def revision(self) -> str | None:
        """The commit of a model from a hub (on ModelScope a branch, too); otherwise None."""
        return self._files.revision

    @property
    def folder(self) -> Path:
        """The folder of the model's files."""
        return self._files.folder

    @property
    def config(self) -> ModelConfig:
        """The model's shape: hidden_size, n_layers, vocab_size, ..."""
        return self._files.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which turns texts into token ids."""
        return self._tokenizer

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's own prompts by name: literal prefixes, read-only."""
        return self._files.settings.prompts

    @property
    def special_tokens_in_text(self) -> bool:
        """True if text that looks like a control token becomes one."""
        return self._special_tokens_in_text

    @property
    def cache(self) -> VectorCache | None:
        """The cache of vectors, if the model was opened with one."""
        return self._cache

    @property
    def projection(self) -> DomainMap | None:
        """The domain map that the model was opened with."""
        return self._projection

    def prefix_of(
        self,
        kind: Literal["query", "document"] | None = None,
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> str:
        """The prefix that `encode` puts before each text.

        Parameters
        ----------
        kind : {"query", "document", None}
            Whose default applies if no other argument is given: that of `encode_query`,
            `encode_document` or `encode`.
        instruction, prompt, prompt_name : str, optional
            As in `encode`.

        Raises
        ------
        TypeError
            More than one of instruction, prompt and prompt_name, or one that isn't a str.
        ValueError
            No prompt of that name.
        """
        return resolve_prompt(
            self.prompts,
            self._default_prompt if kind is None else self.prompts.get(kind, ""),
            instruction=instruction,
            prompt=prompt,
            prompt_name=prompt_name,
        )

    @property
    def info(self) -> dict[str, Any]:
        """Of the engine: kernels, num_threads, batch_tokens, mapped_bytes, note (a warning), ..."""
        return self._engines.info

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The loaded adapters by name; each says what it changes in `merged`, `replaced`."""
        return MappingProxyType({n: w.adapter for n, w in self._adapters.items() if w.adapter})

    @property
    def adapter(self) -> str | None:
        """The name of the adapter in use; None: the model's own weights."""
        return self._weights.name

    def add_adapter(self, name: str, adapter: str | os.PathLike[str]) -> None:
        """Loads a LoRA adapter and merges it, beside the model's own weights; does not activate it.

        Parameters
        ----------
        name : str
            Name to pass to `set_adapter`.
        adapter : str or path-like
            A PEFT folder, or "owner/name" on the hub.

        Raises
        ------
        ValueError
            The name is taken, the model is closed, or it has a projection.
        ModelNotFoundError, ModelFileError
            No such adapter, or one that is damaged, not LoRA, or of another base.
        DeviceMemoryError
            The device has no memory for the weights that the adapter changes.

        Examples
        --------
        >>> model.add_adapter("legal", "adapters/legal")                   # doctest: +SKIP
        >>> model.adapters["legal"].merged                                 # doctest: +SKIP
        ('layers.0.self_attn.q_proj', ...)
        """
        from .adapters.adapter import Adapter, find_adapter

        self._check_no_projection()
        if not isinstance(name, str):
            raise TypeError(f"name is {type(name).__name__}, expected str")
        folder = find_adapter(adapter, self._hub)
        location = str(folder.absolute()) if Path(adapter).is_dir() else str(adapter)
        loaded = Adapter(folder, str(adapter), self._files)
        with self._adding:
            if name in self._adapters:
                raise ValueError(
                    f"an adapter named {name!r} is loaded already, expected a new name"
                )
            tensors = loaded.tensors()
            head = self._head(tensors)
            number = self._engines.add_adapter(tensors, loaded.tensors)
            self._adapters[name] = Weights(number, name, loaded, location, head)

    def set_adapter(self, name: str | None) -> None:
        """Activates a loaded adapter for calls that begin from now on; None: no adapter.

        Running calls keep the adapter they began with, so threads never mix adapters.

        Raises
        ------
        ValueError
            No adapter of that name, or the model has a projection.
        """
        if name is not None and name not in self._adapters:
            known = ", ".join(map(repr, self._adapters)) or "none"
            raise ValueError(f"no adapter {name!r} is loaded, expected None or one of: {known}")
        if name != self.adapter:
            self._check_no_projection()
        self._weights = self._own_weights if name is None else self._adapters[name]

    def _check_no_projection(self) -> None:
        if self._projection is not None:
            raise ValueError("a projection fits one adapter: open the model with adapter= and it")

    def submit_tokens(
        self,
        tokens: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        dim: int | None = None,
        *,
        normalize: bool = True,
        waits: bool = False,
    ) -> tuple[npt.NDArray[np.float32], Job]:
        """Submits token ids without waiting for their vectors, for servers.

        Parameters
        ----------
        tokens, cu_seqlens, dim, normalize
            As in `Embedder.encode_tokens`.
        waits : bool, default False
            The caller calls `job.wait()` next, so a short job may be computed there, on the
            caller's own thread.

        Returns
        -------
        rows : ndarray
            (n, dim) float32, written once the job is done.
        job : Job
            Has `wait()`, `done()` and `cancel()`.
        """
        buffers = []
        for name, value in (("tokens", tokens), ("cu_seqlens", cu_seqlens)):
            array = np.asarray(value)
            if array.dtype != np.int32 or array.ndim != 1:
                raise TypeError(
                    f"{name} is {array.dtype} of shape {array.shape}, expected int32 (n,)"
                )
            buffers.append(np.ascontiguousarray(array))
        if len(buffers[1]) == 0:
            raise ValueError("cu_seqlens has 0 items, expected n + 1")
        request = Request.of(
            {"dim": dim, "normalize": normalize},
            self.dim,
            stacklevel=3,
            adapter=self._weights.number,
        )
        rows = self._engines.rows(len(buffers[1]) - 1, request.dim)
        job = self._engines.submit(
            buffers[0], buffers[1], rows, 0, request.normalize, request.adapter, waits
        )
        return rows, job

    def counts(self) -> dict[str, float]:
        """Counters of the engines' work since they were opened, for metrics.

        Returns
        -------
        dict
            "batches", their "texts", the "tokens" computed for them (what texts share counts
            once), "forward_s" in seconds, and "pending_tokens", which wait or are computed now.
        """
        return {**self._engines.counts(), "pending_tokens": self._engines.pending_tokens()}

    def measure_ceiling(self) -> tuple[float, float]:
        """Measures the peak rates of all devices together: (FLOP/s, bytes/s).

        The first is the rate of a matrix product, in bf16 or int8, the second of reading memory.
        """
        return self._engines.measure()

    @property
    def engines(self) -> Engines:
        """The engines, for servers: descriptors to wait on, and `unload` and `reload`."""
        return self._engines

    def _head(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64] | None:
        """The output head of a reranker, with an adapter's tensors; None for an embedder."""
        for name in HEADS & tensors.keys():
            raise ModelFileError(f"the adapter changes {name}, which an embedding model lacks")
        return None

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex: Embedders with equal ones give equal vectors on the same device.

        Others can give equal vectors, too, such as an adapter and what it was merged into. It
        covers the active adapter. The first use reads the weight files once, unless the hub's
        cache names their hashes.
        """
        return self._fingerprint_with(self._weights)

    def _fingerprint_with(self, weights: Weights) -> str:
        if weights.name not in self._fingerprints:
            self._fingerprints[weights.name] = fingerprint_of(
                self._files,
                dtype=self.dtype,
                max_length=self._max_length,
                special_tokens_in_text=self._special_tokens_in_text,
                others=self._others_in_fingerprint(weights),
            )
        return self._fingerprints[weights.name]

    def _others_in_fingerprint(self, weights: Weights) -> list[str]:
        others = [] if weights.adapter is None else [f"adapter {weights.adapter.sha256}"]
        if self._projection is not None and self._projection.is_kept:
            others.append(f"projection {self._projection.sha256}")
        return others

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, dim={self.dim}, device={self.device!r}, "
            f"dtype={self.dtype!r}, max_length={self.max_length})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        added = {name: weights.location for name, weights in self._adapters.items()}
        if self._arguments["adapter"] is not None or self._files.adapter is not None:
            added.pop(_FIRST_ADAPTER, None)
        return partial(type(self), **self._arguments), (), (added, self.adapter)

    def __setstate__(self, state: tuple[dict[str, str], str | None]) -> None:
        added, in_use = state
        for name, location in added.items():
            self.add_adapter(name, location)
        self.set_adapter(in_use)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the engine; arrays it has returned stay valid. Idempotent."""
        self._engines.close()
        if self._cache is not None:
            self._cache.close()


def _choose_max_length(max_length: int | None, files: ModelFiles) -> int:
    limit = files.config.max_length
    if max_length is None:
        return min(limit, files.settings.max_length or limit)
    if type(max_length) is not int or not 1 <= max_length <= limit:
        raise ValueError(
            f"max_length={max_length!r}, expected 1..{limit}, the positions of {files.name}"
        )
    return max_length


def _open_cache(cache: str | os.PathLike[str] | VectorCache | None) -> VectorCache | None:
    if cache is None:
        return None
    from .cache import VectorCache

    return cache if isinstance(cache, VectorCache) else VectorCache(cache)
