"""class TokenLimit: truncation as a request asks for it, at which length and from which end.

By default a text over the model's `max_length` loses its end, which the tokenizer does by itself.
Another length or the other end is done here, before the texts go to work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .bodies import Texts
from .exchange import Exchange, Usage
from .problems import Problem
from .schemas import Side, Truncate
from .work import Vectors, embed, no_room, too_long

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..model import Model
    from ..reranker import Reranker

__all__ = [
    "TokenLimit",
    "check_special_tokens",
    "cut_pairs",
    "embed_within",
    "limit_of",
    "long_is_bad_request",
]


class TokenLimit(NamedTuple):
    """The longest text of a request, and what happens to longer ones.

    Attributes
    ----------
    max_length : int
        Tokens of the longest text, its prompt and its end token included.
    is_allowed : bool
        False: a longer text is refused.
    from_start : bool
        The beginning of a text is dropped, not its end.
    """

    max_length: int
    is_allowed: bool
    from_start: bool


def limit_of(
    model: Model,
    default: bool,
    *,
    truncate: Truncate | None = None,
    side: Side | None = None,
    n_tokens: int | None = None,
) -> TokenLimit:
    """The limit that a request's fields ask for.

    Parameters
    ----------
    model : Model
    default : bool
        Whether to truncate where the request doesn't say.
    truncate : bool or str, optional
        Cohere's words are "NONE", "END" and "START".
    side : str, optional
    n_tokens : int, optional
        A limit of the request's own, which also allows truncation; -1: the model's.

    Raises
    ------
    Problem
        400: more tokens than the model has.
    """
    from_start = truncate == "START" or (side or "").lower() == "left"
    is_allowed = default if truncate is None else truncate not in (False, "NONE")
    if n_tokens is None:
        return TokenLimit(model.max_length, is_allowed, from_start)
    if n_tokens == 0 or n_tokens > model.max_length:
        raise Problem(
            400,
            f"truncate_prompt_tokens is {n_tokens}, expected 1..{model.max_length}, or -1 for "
            f"the latter",
            param="truncate_prompt_tokens",
        )
    return TokenLimit(model.max_length if n_tokens < 0 else n_tokens, True, from_start)


@contextmanager
def long_is_bad_request() -> Iterator[None]:
    """Turns 422 for too many tokens into 400, from which OpenAI's clients know the error."""
    try:
        yield
    except Problem as problem:
        if problem.code == "context_length_exceeded":
            problem.status = 400
        raise


def check_special_tokens(add_special_tokens: bool | None) -> None:
    """Raises a Problem if a request wants texts without their end token."""
    if add_special_tokens is False:
        raise Problem(
            400,
            "add_special_tokens is false, expected true: a vector is that of the end token",
            param="add_special_tokens",
        )


async def embed_within(
    exchange: Exchange,
    model: Embedder,
    inputs: Texts,
    prefix: str,
    dim: int | None,
    normalize: bool,
    limit: TokenLimit,
) -> Vectors:
    """`work.embed` with any truncation; a text that loses its beginning keeps its prompt."""
    is_own_length = limit.max_length == model.max_length
    if is_own_length and not (limit.from_start and limit.is_allowed):
        return await embed(exchange, model, inputs, prefix, dim, normalize, limit.is_allowed)
    exchange.n_texts = len(inputs)
    sequences, n_cut = await exchange.run(_cut, model, inputs, prefix, limit)
    found = await embed(exchange, model, sequences, "", dim, normalize, False)
    usage = found.usage
    return Vectors(found.rows, Usage(usage.n_tokens, n_cut, usage.n_cached))


def _cut(
    model: Embedder, inputs: Texts, prefix: str, limit: TokenLimit
) -> tuple[list[list[int]], int]:
    """Token ids of the texts within the limit, and the number of texts that were cut."""
    max_length = limit.max_length
    try:
        tokenizer = model.tokenizer.with_max_length(max_length)
        if isinstance(inputs[0], list):
            return _cut_ids([list(map(int, ids)) for ids in inputs], limit, list(tokenizer.end))
        texts = [str(text) for text in inputs]
        if limit.from_start:
            batch = tokenizer.encode_ends(texts, prefix)
        else:
            batch = tokenizer.encode([prefix + text for text in texts])
    except UnicodeError:
        raise Problem(400, "input is not Unicode: it holds a lone surrogate") from None
    except ValueError as error:  # the limit leaves no room
        raise Problem(400, str(error)) from None
    is_long = batch.lengths > max_length
    if is_long.any() and not limit.is_allowed:
        first = int(is_long.argmax())
        raise too_long(first, f"{batch.lengths[first]} tokens", max_length)
    bounds = batch.cu_seqlens.tolist()
    tokens = batch.tokens.tolist()
    kept = [tokens[start:stop] for start, stop in pairwise(bounds)]
    return kept, int(is_long.sum())


def _cut_ids(
    sequences: list[list[int]], limit: TokenLimit, end: list[int]
) -> tuple[list[list[int]], int]:
    """As `_cut`, of ids that a client has sent; `work.embed` refuses those without end token."""
    kept = []
    n_cut = 0
    for i, ids in enumerate(sequences):
        if len(ids) <= limit.max_length or ids[-len(end) :] != end:
            kept.append(ids)
            continue
        if not limit.is_allowed:
            raise too_long(i, f"{len(ids)} tokens", limit.max_length)
        n_cut += 1
        start = len(ids) - limit.max_length if limit.from_start else 0
        kept.append([*ids[start : start + limit.max_length - len(end)], *end])
    return kept, n_cut


def cut_pairs(
    model: Reranker,
    pairs: list[tuple[str, str]],
    limit: TokenLimit,
    *,
    instruction: str | None = None,
    max_tokens_per_query: int | None = None,
    max_tokens_per_doc: int | None = None,
) -> list[tuple[str, str]]:
    """Pairs of query and document, cut at the limits of the request; 0 and None are no limit.

    Raises
    ------
    Problem
        422: a query leaves no room for a document.
    """
    tokenizer = model.tokenizer
    is_own = limit.max_length == model.max_length and not limit.from_start
    cut_document = tokenizer.last_tokens if limit.from_start else tokenizer.first_tokens
    queries: dict[str, tuple[str, int | None]] = {}
    found = []
    for given, document in pairs:
        if given not in queries:
            query = given
            if max_tokens_per_query:
                query = tokenizer.first_tokens(query, max_tokens_per_query)
            room = max_tokens_per_doc or None
            if room is not None and room >= model.max_length:
                room = None  # the pair as a whole is cut before
            if not is_own and limit.is_allowed:
                left = _room(model, model.body_of(query, "", instruction=instruction), limit)
                room = min(left, room or left)
            queries[given] = query, room
        query, room = queries[given]
        found.append((query, document if room is None else cut_document(document, room)))
    return found


def _room(model: Reranker, body: str, limit: TokenLimit) -> int:
    """Tokens that a query leaves for a document."""
    n_tokens = int(model.tokenizer.count([body])[0])
    if n_tokens >= limit.max_length:
        raise no_room(n_tokens, limit.max_length)
    return limit.max_length - n_tokens
