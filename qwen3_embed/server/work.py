"""Models at work for a server: one call into the engine a request, on a thread of its own.

The engine batches what many threads wait for. A request whose client has left is taken back
at whatever step it is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..cache import CacheKeys
from ..cached_pipeline import fill_rows
from ..embedder import Embedder
from ..reranker import Reranker
from .bodies import Texts
from .problems import Problem
from .settings import Settings

__all__ = ["Gone", "Registry", "Ticket", "Vectors", "bounded_texts", "embed", "score"]

_CHARACTERS_A_TOKEN = 16  # no model's average text has so many
_QUERY_SUFFIX = "-query"


class Gone(Exception):
    """The client has left."""


class Ticket:
    """One request's claim on the engine, which can be taken back from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: Any = None
        self._cancelled = False

    def run(self, rows: npt.NDArray[np.float32], job: Any) -> npt.NDArray[np.float32]:
        """Waits for the job, unless the ticket was or is cancelled: then `Gone`."""
        with self._lock:
            self._job = job
            if self._cancelled:
                job.cancel()
        try:
            job.wait()
        except RuntimeError:
            self.check()
            raise
        return rows

    def cancel(self) -> None:
        """Ends the work soon."""
        with self._lock:
            self._cancelled = True
            if self._job is not None:
                self._job.cancel()

    def check(self) -> None:
        """Raises `Gone` once cancelled."""
        if self._cancelled:
            raise Gone


class Vectors(NamedTuple):
    """What became of a request's texts.

    Attributes
    ----------
    rows : ndarray
        (n, dim) float32.
    n_tokens : int
        Of all texts, after the cut.
    n_cut, n_cached : int
        Texts that were too long; texts whose vectors were in the cache.
    """

    rows: npt.NDArray[np.float32]
    n_tokens: int
    n_cut: int
    n_cached: int


@dataclass(slots=True)
class Registry:
    """The models of a server by the names that requests use.

    Attributes
    ----------
    embedders : dict
        Name to model, in the order of the command line: TEI's routes use the first.
    rerankers : dict
    aliases : dict
        Other names for names.
    """

    embedders: dict[str, Embedder] = field(default_factory=dict)
    rerankers: dict[str, Reranker] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every name that a request may use."""
        queries = [name + _QUERY_SUFFIX for name in self.embedders]
        return [*self.embedders, *queries, *self.rerankers, *self.aliases]

    def embedder(self, name: str) -> tuple[str, Embedder, bool]:
        """The model's own name, the model, and whether the name asks for queries."""
        name = self.aliases.get(name, name)
        if name in self.embedders:
            return name, self.embedders[name], False
        base = name.removesuffix(_QUERY_SUFFIX)
        base = self.aliases.get(base, base)
        if base in self.embedders:
            return base, self.embedders[base], name.endswith(_QUERY_SUFFIX)
        raise self._unknown(self.embedders)

    def reranker(self, name: str | None) -> tuple[str, Reranker]:
        """The model's own name and the model; without a name the first."""
        if name is None and self.rerankers:
            return next(iter(self.rerankers.items()))
        name = self.aliases.get(name or "", name or "")
        if name in self.rerankers:
            return name, self.rerankers[name]
        raise self._unknown(self.rerankers)

    def _unknown(self, models: dict[str, Any]) -> Problem:
        known = ", ".join(map(repr, models)) or "none"
        return Problem(
            404,
            f"no such model here for this route; there is: {known}",
            param="model",
            code="model_not_found",
        )


def embed(
    model: Embedder,
    inputs: Texts,
    prefix: str,
    dim: int | None,
    normalize: bool,
    truncate: bool,
    settings: Settings,
    ticket: Ticket,
) -> Vectors:
    """Vectors of texts or of token ids.

    Raises
    ------
    Problem
        400 and 422, before the engine has begun.
    Gone
        The ticket was cancelled.
    """
    ticket.check()
    if dim is not None and not 1 <= dim <= model.dim:
        raise Problem(400, f"dimensions is {dim}, expected 1..{model.dim}", param="dimensions")
    if isinstance(inputs[0], list):
        return _embed_ids(model, inputs, dim, normalize, truncate, settings, ticket)
    texts = bounded_texts([str(text) for text in inputs], prefix, model.max_length, truncate)
    n_computed = len(texts)

    def compute(places: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        nonlocal n_computed
        n_computed = len(places)
        try:
            batch = model.tokenizer.encode([prefix + texts[i] for i in places])
        except UnicodeError:
            raise Problem(400, "input is not Unicode: it holds a lone surrogate") from None
        _check_lengths(batch.lengths, model.max_length, truncate, settings)
        ticket.check()
        rows, job = model.submit_tokens(batch.tokens, batch.cu_seqlens, dim, normalize=normalize)
        return ticket.run(rows, job), batch.lengths

    if model.cache is None:
        rows, lengths = compute(list(range(len(texts))))
    else:
        rows = np.empty((len(texts), dim or model.dim), np.float32)
        keys = CacheKeys(model.fingerprint, dim or model.dim, normalize).of(prefix, texts)
        n_computed = 0
        lengths = fill_rows(model.cache, keys, rows, compute)
        _check_lengths(lengths, model.max_length, truncate, settings)
    return Vectors(
        rows,
        int(np.minimum(lengths, model.max_length).sum()),
        int(np.count_nonzero(lengths > model.max_length)),
        len(texts) - n_computed,
    )


def score(
    model: Reranker,
    query: str,
    documents: list[str],
    instruction: str | None,
    logits: bool,
    truncate: bool,
    ticket: Ticket,
) -> list[float]:
    """A score for each document: the probability of yes, or the logit."""
    ticket.check()
    documents = bounded_texts(documents, query, model.max_length, truncate)
    scores = model.predict(
        [(query, document) for document in documents],
        instruction=instruction,
        activation=None if logits else "sigmoid",
        on_long="warn" if truncate else "error",
        show_progress_bar=False,
    )
    return [float(each) for each in np.atleast_1d(scores)]


def bounded_texts(texts: list[str], prefix: str, max_length: int, truncate: bool) -> list[str]:
    """Cuts, or refuses, what is too long by its characters alone: to tokenise it is work."""
    limit = _CHARACTERS_A_TOKEN * max_length
    for i, text in enumerate(texts):
        if len(text) + len(prefix) > limit:
            if not truncate:
                raise _too_long(i, f"{len(text) + len(prefix)} characters", max_length)
            texts = [each[:limit] for each in texts]
            break
    return texts


def _check_lengths(
    lengths: npt.NDArray[np.int64], max_length: int, truncate: bool, settings: Settings
) -> None:
    longest = int(lengths.argmax())
    if lengths[longest] > max_length and not truncate:
        raise _too_long(longest, f"{lengths[longest]} tokens", max_length)
    n_tokens = int(np.minimum(lengths, max_length).sum())
    if n_tokens > settings.max_request_tokens:
        raise Problem(
            422,
            f"the request has {n_tokens} tokens, expected at most {settings.max_request_tokens}: "
            f"send fewer texts at a time",
            param="input",
        )


def _too_long(index: int, found: str, max_length: int) -> Problem:
    return Problem(
        422,
        f"input {index} has {found}, expected at most {max_length} tokens: split it, or send "
        f'"truncate": true to have it cut',
        param="input",
        code="context_length_exceeded",
    )


def _embed_ids(
    model: Embedder,
    sequences: Sequence[list[int]],
    dim: int | None,
    normalize: bool,
    truncate: bool,
    settings: Settings,
    ticket: Ticket,
) -> Vectors:
    """Token ids of this model's tokenizer, the end token included."""
    end = list(model.tokenizer.end)
    for i, ids in enumerate(sequences):
        if ids[-len(end) :] != end:
            raise Problem(
                400,
                f"input {i}: these token ids don't end with {end}, as all of this model do: they "
                f"seem to be of another tokenizer. Send texts (in LangChain's OpenAIEmbeddings: "
                f"check_embedding_ctx_length=False), or ids from /tokenize",
                param="input",
                code="foreign_token_ids",
            )
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    _check_lengths(lengths, model.max_length, truncate, settings)
    room = model.max_length - len(end)
    kept = [ids if len(ids) <= model.max_length else ids[:room] + end for ids in sequences]
    cu_seqlens = np.zeros(len(kept) + 1, np.int32)
    np.cumsum([len(ids) for ids in kept], out=cu_seqlens[1:])
    tokens = np.concatenate([np.array(ids, np.int32) for ids in kept])
    try:
        rows, job = model.submit_tokens(tokens, cu_seqlens, dim, normalize=normalize)
    except ValueError as error:
        raise Problem(400, f"token ids: {error}", param="input") from None
    return Vectors(
        ticket.run(rows, job),
        int(cu_seqlens[-1]),
        int(np.count_nonzero(lengths > model.max_length)),
        0,
    )
