"""vLLM's route /score: scores of pairs, in the order of the request."""

from __future__ import annotations

import msgspec

from .bodies import check_documents, decode
from .exchange import Answer, Exchange
from .problems import Problem
from .schemas import ScoreRequest
from .token_limit import check_special_tokens, cut_pairs, limit_of, long_is_bad_request
from .work import score

__all__ = ["score_pairs"]

_SIDES = (
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
)


async def score_pairs(exchange: Exchange) -> Answer:
    """POST /score: one text with each of many, or as many with as many."""
    with long_is_bad_request():
        return await _score_pairs(exchange)


async def _score_pairs(exchange: Exchange) -> Answer:
    body = decode(await exchange.body(), ScoreRequest)
    pairs = _pairs_of(body, exchange.settings.max_inputs)
    check_special_tokens(body.add_special_tokens)
    name, model = exchange.registry.reranker(body.model)
    limit = limit_of(
        model,
        exchange.settings.truncate,
        side=body.truncation_side,
        n_tokens=body.truncate_prompt_tokens,
    )
    exchange.n_texts = len(pairs)
    pairs = await exchange.run(
        lambda: cut_pairs(
            model,
            pairs,
            limit,
            instruction=body.instruction,
            max_tokens_per_query=body.max_tokens_per_query,
            max_tokens_per_doc=body.max_tokens_per_doc,
        )
    )
    logits = body.use_activation is False
    found = await score(exchange, model, pairs, body.instruction, logits, limit.is_allowed)
    exchange.count(name, found.usage)
    n_tokens = found.usage.n_tokens
    content = {
        "id": exchange.request_id,
        "object": "list",
        "created": exchange.started_at,
        "model": body.model or name,
        "data": [
            {"index": i, "object": "score", "score": value} for i, value in enumerate(found.values)
        ],
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens, "completion_tokens": 0},
    }
    return exchange.json(msgspec.json.encode(content))


def _pairs_of(body: ScoreRequest, max_inputs: int) -> list[tuple[str, str]]:
    fields = dict.fromkeys(name for names in _SIDES for name in names)
    given = {name for name in fields if getattr(body, name) is not None}
    if given not in [set(names) for names in _SIDES]:
        found = ", ".join(name for name in fields if name in given) or "none"
        known = ", ".join(" and ".join(names) for names in _SIDES)
        raise Problem(400, f"the texts are in {found}, expected one of: {known}")
    first, second = next(names for names in _SIDES if set(names) == given)
    sides = []
    for name in (first, second):
        value: str | list[str] = getattr(body, name)
        texts = [value] if isinstance(value, str) else value
        check_documents(texts, max_inputs, name)
        sides.append(texts)
    if len(sides[0]) == 1:
        sides[0] = sides[0] * len(sides[1])
    if len(sides[0]) != len(sides[1]):
        raise Problem(
            400,
            f"{first} has {len(sides[0])} texts and {second} {len(sides[1])}, expected one in "
            f"{first}, or as many in both",
            param=first,
        )
    return list(zip(*sides, strict=True))
