"""Embedding and reranking for requests: from texts to vectors or scores.

A request's texts are tokenised in a stage of their own (tokenising.py), then submitted to the
engine, which batches them with those of other requests. A request whose client has left is
cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..embedder import Embedder
from ..encoding.cached_pipeline import CachedRows
from ..loading.tokenizer import TokenBatch, tokens_in_words
from ..reranker import Reranker, best_first, sigmoid
from .bodies import Texts
from .exchange import Exchange, Usage
from .problems import Problem
from .settings import Settings

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Vectors", "embed", "no_room", "prefix_of", "score", "tokenise", "too_long"]


Bounds = tuple[int, bool, Settings]
"""max_length, truncate and settings of a request."""


class Vectors(NamedTuple):
    """The result of a request.

    Attributes
    ----------
    rows : ndarray
        (n, dim) float32 vectors of texts.
    usage : Usage
    """

    rows: npt.NDArray[np.float32]
    usage: Usage


class Scores(NamedTuple):
    """The result of a request for scores of documents.

    Attributes
    ----------
    values : list of float
        Probabilities, or logits.
    best_first : list of int
        Numbers of the documents; by logits, which differ where probabilities are 1 in float32.
    usage : Usage
    """

    values: list[float]
    best_first: list[int]
    usage: Usage


def prefix_of(
    model: Embedder,
    kind: Literal["query", "document"] | None = None,
    *,
    instruction: str | None = None,
    prompt_name: str | None = None,
) -> str:
    """`Embedder.prefix_of`, with a Problem for an unknown prompt_name."""
    try:
        return model.prefix_of(kind, instruction=instruction, prompt_name=prompt_name)
    except ValueError as error:  # it names the model's own
        raise Problem(400, str(error), param="prompt_name") from None


async def embed(
    exchange: Exchange,
    model: Embedder,
    inputs: Texts,
    prefix: str,
    dim: int | None,
    normalize: bool,
    truncate: bool,
) -> Vectors:
    """Vectors of texts or of token ids.

    Raises
    ------
    Problem
        400 or 422, before the engine starts.
    Gone
        The client has left.
    """
    if dim is not None and not 1 <= dim <= model.dim:
        raise Problem(400, f"dimensions is {dim}, expected 1..{model.dim}", param="dimensions")
    exchange.n_texts = len(inputs)
    max_length = model.max_length
    bounds = (max_length, truncate, exchange.settings)

    async def compute(batch: TokenBatch) -> npt.NDArray[np.float32]:
        async with exchange.turn(model, batch):
            await exchange.load(model)
            try:
                rows, job = model.submit_tokens(
                    batch.tokens, batch.cu_seqlens, dim, normalize=normalize
                )
            except ValueError as error:  # token ids from the client
                raise Problem(400, f"token ids: {error}", param="input") from None
            await exchange.finish(job)
        return rows

    if isinstance(inputs[0], list):
        batch = await exchange.run(_batch_of_ids, model, inputs, bounds)
        return _vectors(await compute(batch), batch.lengths, max_length)
    texts = [str(text) for text in inputs]
    if model.cache is None:
        batch = await _tokenised(exchange, model, [prefix + text for text in texts], bounds)
        return _vectors(await compute(batch), batch.lengths, max_length)
    rows = np.empty((len(texts), dim or model.dim), np.float32)
    found = await exchange.run_apart(_look_up, model, prefix, texts, rows, normalize)
    if found.places:
        missing = [prefix + texts[i] for i in found.places]
        batch = await _tokenised(exchange, model, missing, bounds)
        await exchange.run_apart(found.keep, await compute(batch), batch.lengths)
    _check_lengths(found.n_tokens, *bounds)
    return _vectors(rows, found.n_tokens, max_length, len(texts) - len(found.places))


async def score(
    exchange: Exchange,
    model: Reranker,
    pairs: list[tuple[str, str]],
    instruction: str | None,
    logits: bool,
    truncate: bool,
) -> Scores:
    """A score for each query and document: the probability of yes, or the logit.

    Raises
    ------
    Problem, Gone
        As `embed`.
    """
    exchange.n_texts = len(pairs)
    bodies = [model.body_of(*pair, instruction=instruction) for pair in pairs]
    bounds = (model.max_length, truncate, exchange.settings)
    batch = await _tokenised(exchange, model, bodies, bounds)
    if batch.lengths.max() > model.max_length:
        for query in dict.fromkeys(query for query, _ in pairs):
            _check_room(model, model.body_of(query, "", instruction=instruction))
    async with exchange.turn(model, batch):
        await exchange.load(model)
        rows, job = model.submit_tokens(batch.tokens, batch.cu_seqlens, normalize=False)
        await exchange.finish(job)
    found = model.logits_of(rows)
    scores: list[float] = (found if logits else sigmoid(found)).tolist()
    return Scores(scores, best_first(found), _usage(batch.lengths, model.max_length))


def _vectors(
    rows: npt.NDArray[np.float32],
    lengths: npt.NDArray[np.int64],
    max_length: int,
    n_cached: int = 0,
) -> Vectors:
    return Vectors(rows, _usage(lengths, max_length, n_cached))


def _usage(lengths: npt.NDArray[np.int64], max_length: int, n_cached: int = 0) -> Usage:
    counts: list[int] = lengths.tolist()
    n_cut = sum(count > max_length for count in counts)
    n_tokens = sum(min(count, max_length) for count in counts)
    return Usage(n_tokens, n_cut, n_cached)


async def _tokenised(
    exchange: Exchange, model: Model, texts: list[str], bounds: Bounds
) -> TokenBatch:
    """As `tokenise`, in the stage that all requests share."""
    try:
        batch = await exchange.tokenise(model, texts)
    except UnicodeError:
        raise _not_unicode() from None
    _check_lengths(batch.lengths, *bounds)
    return batch


def tokenise(model: Model, texts: list[str], bounds: Bounds) -> TokenBatch:
    """Token ids of texts; raises Problem if they are too long or not Unicode."""
    try:
        batch = model.tokenizer.encode(texts)
    except UnicodeError:
        raise _not_unicode() from None
    _check_lengths(batch.lengths, *bounds)
    return batch


def _not_unicode() -> Problem:
    return Problem(400, "input is not Unicode: it contains a lone surrogate")


def _look_up(
    model: Embedder,
    prefix: str,
    texts: list[str],
    rows: npt.NDArray[np.float32],
    normalize: bool,
) -> CachedRows:
    try:
        return model.look_up(texts, rows, prefix=prefix, normalize=normalize)
    except UnicodeError:
        raise _not_unicode() from None


def _check_lengths(
    lengths: npt.NDArray[np.int64], max_length: int, truncate: bool, settings: Settings
) -> None:
    counts: list[int] = lengths.tolist()  # faster than NumPy for one text
    longest = max(counts)
    if longest > max_length and not truncate:
        raise too_long(
            counts.index(longest), f"{tokens_in_words(longest, max_length)} tokens", max_length
        )
    n_tokens = sum(min(count, max_length) for count in counts)
    if n_tokens > settings.max_request_tokens:
        raise Problem(
            422,
            f"the request has {n_tokens} tokens, expected at most {settings.max_request_tokens}: "
            f"send fewer texts at a time",
            param="input",
        )


def _check_room(model: Reranker, body: str) -> None:
    """Raises a Problem if the query alone fills the model: all documents would score the same."""
    n_tokens = int(model.tokenizer.count([body])[0])
    if n_tokens >= model.max_length:
        raise no_room(n_tokens, model.max_length)


def no_room(n_tokens: int, max_length: int) -> Problem:
    """The error for a query of so many tokens that none is left for a document."""
    return Problem(
        422,
        f"the query has {n_tokens} tokens with its prompt, and of {max_length} none is left for a "
        f"document: shorten it",
        param="query",
        code="context_length_exceeded",
    )


def too_long(index: int, found: str, max_length: int) -> Problem:
    """The error for a text of too many tokens."""
    return Problem(
        422,
        # LiteLLM knows the error by the words "this model's maximum context length is".
        f"input {index} has {found}; this model's maximum context length is {max_length} tokens: "
        f'split it, or send "truncate": true to have it cut',
        param="input",
        code="context_length_exceeded",
    )


def _batch_of_ids(model: Embedder, sequences: Sequence[list[int]], bounds: Bounds) -> TokenBatch:
    """Token ids of this model's tokenizer, the end token included."""
    end = list(model.tokenizer.end)
    for i, ids in enumerate(sequences):
        if ids[-len(end) :] != end:
            raise Problem(
                400,
                f"input {i}: these token ids don't end with {end}, as all of this model do: they "
                f"seem to be of another tokenizer. Start the server with --token-ids cl100k_base "
                f"if they are OpenAI's, or send texts (in LangChain's OpenAIEmbeddings: "
                f"check_embedding_ctx_length=False), or ids from /tokenize",
                param="input",
                code="foreign_token_ids",
            )
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    _check_lengths(lengths, *bounds)
    room = model.max_length - len(end)
    kept = [ids if len(ids) <= model.max_length else ids[:room] + end for ids in sequences]
    cu_seqlens = np.zeros(len(kept) + 1, np.int32)
    np.cumsum([len(ids) for ids in kept], out=cu_seqlens[1:])
    tokens = np.concatenate([np.array(ids, np.int32) for ids in kept])
    return TokenBatch(tokens, cu_seqlens, lengths)
