"""class Embedder(Model): a model, opened once, that turns texts into vectors.

The path of a call: texts.py lists and checks, templates.py gives the prefix, tokenizer.py makes
ids, pipeline.py feeds the engine chunk by chunk; the rows come back as the engine's own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import numpy as np
import numpy.typing as npt

from .adapters.weights import Weights
from .encoding.options import EncodeOptions, PromptOptions, Request, SentenceTransformersOptions
from .encoding.pipeline import Pipeline, chunk_bounds
from .encoding.progress import progress
from .encoding.texts import Texts, check_texts, iterate_texts, list_texts, surrogate_error
from .encoding.truncation import LengthReport
from .model import Model
from .retrieval import similarity as _similarity
from .retrieval.quantizer import Precision, Quantizer

if TYPE_CHECKING:
    from .encoding.cached_pipeline import CachedPipeline, CachedRows

__all__ = ["Embedder"]

_Kind = Literal["query", "document"] | None


class Embedder(Model):
    """A Qwen3 embedding model, ready to encode.

    Any number of threads may share one; their texts are computed together. It pickles as its
    arguments (without the token) and opens again where it is unpickled.

    Parameters
    ----------
    model : str or path-like
        A folder, an official short name ("Qwen3-Embedding-0.6B"), "owner/name" on the hub, or
        "mini", the model in this package.
    device : str or sequence of str
        "auto" (the first usable GPU, else the CPU), "cpu", "cuda", "cuda:1", "cuda:all", or a
        list of GPUs. Several share the texts of every call or, with `split`, the model.
    split : {None, "layers"}
        "layers": each GPU holds consecutive layers, in proportion to its free memory.
    dtype : str
        "auto" or "bfloat16", which are the same. Less exact, in half the memory: "int8", on CPUs;
        "int8-weights", on GPUs; "float8", on GPUs of capability 9. The first and last are faster.
    embedding : {"auto", "device", "host"}
        Memory of the token embeddings: a GPU's, or pinned host memory if "auto" finds no room.
    max_length : int, optional
        Tokens of the longest text, end token included; by default what the model's files say.
    batch_tokens : int, optional
        Token budget of one forward pass; by default chosen for the device.
    num_threads : int, optional
        Threads of the CPU engine; by default one per core of its affinity mask and CPU quota.
    adapter : str or path-like, optional
        A PEFT LoRA folder or its name on the hub, merged at load as "default": `add_adapter`.
    revision : str, optional
        Branch, tag or commit on the hub; a folder has none.
    cache_dir : path-like, optional
        The hub's cache; by default that of its client.
    token : str or bool, optional
        For private models.
    local_files_only : bool
        Never use the network.
    hub : {"huggingface", "modelscope"}, optional
        Where names are looked up; by default as QWEN3_EMBED_HUB says, else on Hugging Face.
    special_tokens_in_text : bool
        Whether text that looks like a control token (``<|im_end|>``) becomes one.
    cache : path-like or VectorCache, optional
        A file that keeps vectors; models and processes may share it. A `VectorCache` has a limit.
    projection : path-like or DomainMap, optional
        A map of `fit_domain` for this very model: full vectors are mapped, cut, normalised.

    Raises
    ------
    ModelNotFoundError
        No such model, a missing or unreadable file, or no network.
    ModelFileError
        A damaged file, or a model that this engine would compute wrongly.
    DeviceError
        The device isn't there, or can't compute this model or dtype.
    DeviceMemoryError
        The model doesn't fit the GPU's free memory; the message gives both figures.
    ValueError
        An argument out of range.

    Examples
    --------
    >>> with Embedder("mini") as model:
    ...     model.encode(["Hello", "world"], dim=64).shape
    (2, 64)
    """

    def encode(
        self,
        texts: str | Texts,
        *,
        dim: int | None = None,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        precision: Precision = "float32",
        quantizer: Quantizer | None = None,
        show_progress_bar: bool | None = None,
        on_long: Literal["warn", "error"] = "warn",
        out: npt.NDArray[np.float32] | None = None,
        **others: Unpack[SentenceTransformersOptions],
    ) -> npt.NDArray[Any]:
        """Vectors of texts, by default as documents: without an instruction.

        Parameters
        ----------
        texts : str or iterable of str
            One text or n of them; the empty text is valid.
        dim : int, optional
            The first `dim` of the model's dimensions, 1..model.dim, normalised after the cut.
        instruction : str, optional
            Each text becomes ``Instruct: {instruction}\\nQuery:{text}``.
        prompt : str, optional
            A literal prefix.
        prompt_name : str, optional
            One of the model's own prompts, or of `qwen3_embed.INSTRUCTIONS`. At most one of
            instruction, prompt and prompt_name.
        normalize : bool, optional
            L2-normalise the rows, by default True.
        precision : {"float32", "float16", "int8", "uint8", "binary", "ubinary"}
        quantizer : Quantizer, optional
            For int8 and uint8, by default `self.quantizer(dim)`; refused for floats.
        show_progress_bar : bool, optional
            On standard error; by default where the logger "qwen3_embed" is at level INFO.
        on_long : {"warn", "error"}
            A text over `max_length` is cut before its end token, with one warning per call; or
            is an error.
        out : ndarray, optional
            (n, dim) float32, or (dim,) for one text, C-contiguous: written and returned.
        **others
            Of sentence-transformers: truncate_dim (dim), normalize_embeddings (normalize),
            batch_size (changes nothing), convert_to_numpy (True only).

        Returns
        -------
        ndarray
            (n, dim) float32, C-contiguous, row i for text i, or (dim,) for one text; int8 or
            uint8 (n, dim) or (n, ceil(dim / 8)) by `precision`.

        Raises
        ------
        TypeError
            `texts[i] is NoneType, expected str`, or arguments that exclude each other.
        ValueError
            A text that isn't Unicode, an argument out of range, or a closed Embedder.
        InputTooLongError
            A text over `max_length` with on_long="error".
        NonFiniteError
            A vector came out with NaN or infinity; `index` says which.

        Warns
        -----
        TruncationWarning
            How many texts were cut, and the longest.

        Examples
        --------
        >>> Embedder("mini").encode("Hello").shape
        (256,)
        """
        options = EncodeOptions(
            dim=dim,
            instruction=instruction,
            prompt=prompt,
            prompt_name=prompt_name,
            normalize=normalize,
            precision=precision,
            quantizer=quantizer,
            show_progress_bar=show_progress_bar,
            on_long=on_long,
            out=out,
        )
        options.update(cast("EncodeOptions", others))
        return self._encode(texts, None, options)

    def encode_query(
        self, texts: str | Texts, **options: Unpack[EncodeOptions]
    ) -> npt.NDArray[Any]:
        """Vectors of queries: `encode` with the model's "query" prompt unless told otherwise.

        Parameters
        ----------
        texts : str or iterable of str
        **options
            As in `encode`; instruction, prompt or prompt_name replace the default prompt.

        Returns
        -------
        ndarray
            As `encode`.

        Examples
        --------
        >>> Embedder("mini").encode_query("What is the capital of China?").shape
        (256,)
        """
        return self._encode(texts, "query", options)

    def encode_document(
        self, texts: str | Texts, **options: Unpack[EncodeOptions]
    ) -> npt.NDArray[Any]:
        """Vectors of documents: `encode` with the model's "document" prompt, for most none.

        Parameters
        ----------
        texts : str or iterable of str
        **options
            As in `encode`.

        Returns
        -------
        ndarray
            As `encode`.

        Examples
        --------
        >>> Embedder("mini").encode_document(["The capital of China is Beijing."]).shape
        (1, 256)
        """
        return self._encode(texts, "document", options)

    def encode_iter(
        self, texts: Texts, *, chunk: int = 10_000, **options: Unpack[EncodeOptions]
    ) -> Iterator[npt.NDArray[Any]]:
        """Vectors of any number of texts, in bounded memory.

        The next chunk is read, and its computing begun, before a chunk is handed out.

        Parameters
        ----------
        texts : iterable of str
            Of any length, or without end.
        chunk : int
            Texts in an array.
        **options
            As in `encode`, but no `out`.

        Yields
        ------
        ndarray
            (chunk, dim), fewer rows in the last; in the order of the texts.

        Examples
        --------
        >>> texts = (f"text {i}" for i in range(5))
        >>> [rows.shape for rows in Embedder("mini").encode_iter(texts, dim=64)]
        [(5, 64)]
        """
        if type(chunk) is not int or chunk < 1:
            raise ValueError(f"chunk={chunk!r}, expected a positive int")
        if options.get("out") is not None:
            raise TypeError("encode_iter takes no out=: every chunk is a new array")
        weights = self._weights
        request = self._request(None, options, weights, stacklevel=2)
        report = LengthReport(self._max_length, request.on_long)
        return self._stream(iterate_texts(texts), chunk, request, report, weights)

    def encode_tokens(
        self,
        tokens: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        dim: int | None = None,
        *,
        normalize: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Vectors of token ids; no tokenizer, and no end token is appended.

        Parameters
        ----------
        tokens : ndarray
            (T,) int32, the sequences back to back.
        cu_seqlens : ndarray
            (n + 1,) int32 from 0 to T: sequence i is tokens[cu_seqlens[i]:cu_seqlens[i + 1]].
        dim : int, optional
            As in `encode`.
        normalize : bool
            L2-normalise the rows.

        Returns
        -------
        ndarray
            (n, dim) float32.

        Raises
        ------
        TypeError
            Another dtype than int32.
        ValueError
            An id outside the vocabulary, an empty or too long sequence, or offsets that don't
            fit.

        Examples
        --------
        >>> ids = np.array([39, 15395, 16383], np.int32)  # "Hello" and the end token
        >>> Embedder("mini").encode_tokens(ids, np.array([0, 3], np.int32)).shape
        (1, 256)
        """
        rows, job = self.submit_tokens(tokens, cu_seqlens, dim, normalize=normalize, waits=True)
        try:
            job.wait()
        except BaseException:
            job.cancel()
            raise
        return rows

    def look_up(
        self,
        texts: list[str],
        rows: npt.NDArray[np.float32],
        *,
        prefix: str = "",
        normalize: bool = True,
        weights: Weights | None = None,
    ) -> CachedRows:
        """Looks the vectors of n texts up in the model's cache; for servers and corpus runs.

        Parameters
        ----------
        texts : list of str
        rows : ndarray
            (n, dim) float32: row i is written if the cache has the vector of text i.
        prefix, normalize
            As in `encode`; the prefix is literal.
        weights : Weights, optional
            By default those in use.

        Returns
        -------
        CachedRows
            The texts that have to be computed; takes their vectors.

        Raises
        ------
        UnicodeEncodeError
            A text, or the prefix, contains a lone surrogate.
        ValueError
            The model has no cache.
        """
        from .cache import CacheKeys
        from .encoding.cached_pipeline import CachedRows

        if self._cache is None:
            raise ValueError("this model has no cache: open it with cache=")
        fingerprint = self._fingerprint_with(weights or self._weights)
        keys = CacheKeys(fingerprint, rows.shape[1], normalize)
        return CachedRows(self._cache, keys.of(prefix, texts), rows)

    def count_tokens(
        self, texts: str | Texts, **options: Unpack[PromptOptions]
    ) -> npt.NDArray[np.int64] | int:
        """Tokens of each text, with prompt and end token, before any cut.

        Parameters
        ----------
        texts : str or iterable of str
        **options
            instruction, prompt or prompt_name, as in `encode`.

        Returns
        -------
        ndarray or int
            (n,) int64; an int for one text.

        Examples
        --------
        >>> Embedder("mini").count_tokens(["test again", ""]).tolist()
        [3, 1]
        """
        for name in options:
            if name not in PromptOptions.__annotations__:
                raise TypeError(f"unexpected keyword argument {name!r}")
        prefix = self.prefix_of(**options)
        items = check_texts([texts]) if isinstance(texts, str) else list_texts(texts)
        counts = np.empty(len(items), np.int64)
        for start, stop in chunk_bounds(items, self._engines.batch_tokens, prefix):
            part = items[start:stop]
            try:
                counts[start:stop] = self._tokenizer.count([prefix + text for text in part])
            except UnicodeError:
                raise surrogate_error(prefix, part, start) from None
        return int(counts[0]) if isinstance(texts, str) else counts

    def quantizer(self, dim: int | None = None) -> Quantizer:
        """The quantizer of int8 and uint8 where none is given: one scale for a model and dim.

        It was measured for "mini"; for other models it is a formula of the dimension, and a
        fitted one, `Quantizer.fit(model.encode(sample))`, makes finer steps.

        Examples
        --------
        >>> Embedder("mini").quantizer(64)
        Quantizer(scale=0.00511811, dim=64)
        """
        options = EncodeOptions(dim=dim, precision="int8")
        request = self._request(None, options, self._weights, stacklevel=2)
        return cast("Quantizer", request.quantizer)

    similarity = staticmethod(_similarity.similarity)
    similarity_pairwise = staticmethod(_similarity.similarity_pairwise)

    def _request(
        self, kind: _Kind, options: EncodeOptions, weights: Weights, stacklevel: int
    ) -> Request:
        names = PromptOptions.__annotations__
        prompt = cast("PromptOptions", {k: v for k, v in options.items() if k in names})
        prefix = self.prefix_of(kind, **prompt)
        others: Any = {"prefix": prefix, "adapter": weights.number, "model_name": self.name}
        return Request.of(options, self.dim, stacklevel + 1, **others)

    def _encode(self, texts: str | Texts, kind: _Kind, options: EncodeOptions) -> npt.NDArray[Any]:
        """Encodes for one of the public methods, whose caller gets the warnings."""
        weights = self._weights
        request = self._request(kind, options, weights, stacklevel=3)
        single = isinstance(texts, str)
        items = [texts] if isinstance(texts, str) else list_texts(texts)
        if request.out is None:
            rows = self._engines.rows(len(items), request.dim)
        else:
            self._engines.check_open()
            request.check_out((request.dim,) if single else (len(items), request.dim))
            rows = request.out.reshape(len(items), request.dim)
        report = LengthReport(self._max_length, request.on_long)
        with progress(request.show_progress_bar, len(items)) as on_done:
            pipeline = self._pipeline(request, report, on_done, weights)
            try:
                pipeline.feed(items, rows, waits=True)
                pipeline.finish()
            finally:
                pipeline.cancel()
        report.warn(stacklevel=3)
        result = request.in_precision(rows)
        if request.out is not None:
            return request.out
        return result[0] if single else result

    def _stream(
        self,
        texts: Iterator[Any],
        chunk: int,
        request: Request,
        report: LengthReport,
        weights: Weights,
    ) -> Generator[npt.NDArray[Any]]:
        with progress(request.show_progress_bar, None) as on_done:
            pipeline = self._pipeline(request, report, on_done, weights)
            ready: npt.NDArray[np.float32] | None = None
            first_index = 0
            try:
                while items := check_texts(list(islice(texts, chunk)), first_index):
                    rows = self._engines.rows(len(items), request.dim)
                    n_jobs = pipeline.feed(items, rows, first_index)
                    first_index += len(items)
                    if ready is not None:
                        pipeline.finish(n_jobs)
                        yield request.in_precision(ready)
                    ready = rows
                pipeline.finish()
                if ready is not None:
                    yield request.in_precision(ready)
            finally:
                pipeline.cancel()
        report.warn(stacklevel=2)

    def _pipeline(
        self,
        request: Request,
        report: LengthReport,
        on_done: Callable[[int], None],
        weights: Weights,
    ) -> Pipeline | CachedPipeline:
        def computing(report: LengthReport, on_done: Callable[[int], None]) -> Pipeline:
            return Pipeline(self._engines, self._tokenizer, request, report, on_done)

        if self._cache is None:
            return computing(report, on_done)
        from .encoding.cached_pipeline import CachedPipeline

        return CachedPipeline(
            partial(
                self.look_up, prefix=request.prefix, normalize=request.normalize, weights=weights
            ),
            request.prefix,
            report,
            on_done,
            lambda lengths: computing(lengths, lambda n_texts: None),
        )
