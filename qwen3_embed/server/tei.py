"""The routes of Text Embeddings Inference, for its clients: /embed, /rerank, /tokenize, /info."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ..version import __version__
from .bodies import (
    EmbedRequest,
    TeiRerankRequest,
    TokenizeRequest,
    check_documents,
    decode,
    decode_inputs,
)
from .exchange import Answer, Exchange
from .problems import Problem
from .work import Vectors, embed, prefix_of, score, tokenise

if TYPE_CHECKING:
    from ..embedder import Embedder

__all__ = ["embed_texts", "info", "problem_body", "rerank_texts", "tokenize"]

_ERROR_TYPES = {
    400: "Validation",
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
    503: "Unhealthy",
}


def _first(exchange: Exchange) -> tuple[str, Embedder]:
    for name, model in exchange.registry.embedders.items():
        return name, model
    raise Problem(404, "no embedding model is served here")


async def embed_texts(exchange: Exchange) -> Answer:
    """POST /embed, and / as TEI has it: a list of vectors."""
    body = decode(await exchange.body(), EmbedRequest)
    settings = exchange.settings
    inputs = decode_inputs(body.inputs, settings.max_inputs, "inputs")
    name, model = _first(exchange)
    prefix = prefix_of(model, prompt_name=body.prompt_name)
    if prefix and body.prompt_name and isinstance(inputs[0], list):
        raise Problem(400, "token ids take no prompt: put its tokens before them")
    truncate = settings.truncate if body.truncate is None else body.truncate
    found = await embed(exchange, model, inputs, prefix, body.dimensions, body.normalize, truncate)
    exchange.count(name, found.usage)
    return exchange.json(await exchange.run(_answer, found))


def _answer(found: Vectors) -> bytes:
    return msgspec.json.encode(found.rows.tolist())


async def rerank_texts(exchange: Exchange) -> Answer:
    """POST /rerank: index and score, best first."""
    body = decode(await exchange.body(), TeiRerankRequest)
    check_documents(body.texts, exchange.settings.max_inputs, "texts")
    name, model = exchange.registry.reranker(None)
    truncate = exchange.settings.truncate if body.truncate is None else body.truncate
    found = await score(exchange, model, body.query, body.texts, None, body.raw_scores, truncate)
    exchange.count(name, found.usage)
    scores: list[float] = found.rows.tolist()
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    ranked: list[dict[str, Any]] = []
    for i in order:
        entry: dict[str, Any] = {"index": i, "score": scores[i]}
        ranked.append(entry | {"text": body.texts[i]} if body.return_text else entry)
    return exchange.json(msgspec.json.encode(ranked))


async def tokenize(exchange: Exchange) -> Answer:
    """POST /tokenize: the tokens of each text; start and stop count characters."""
    body = decode(await exchange.body(), TokenizeRequest)
    inputs = decode_inputs(body.inputs, exchange.settings.max_inputs, "inputs")
    _, model = _first(exchange)
    prefix = prefix_of(model, prompt_name=body.prompt_name)
    if isinstance(inputs[0], list):
        raise Problem(400, "inputs is expected to be texts", param="inputs")

    exchange.n_texts = len(inputs)
    texts = [prefix + str(text) for text in inputs]
    bounds = (model.max_length, False, exchange.settings)

    def pieces() -> bytes:
        tokenise(model, texts, bounds)
        answer = []
        for text in texts:
            exchange.check()
            answer.append(_tokens(model, text, body.add_special_tokens))
        return msgspec.json.encode(answer)

    return exchange.json(await exchange.run(pieces))


def _tokens(model: Embedder, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
    tokens: list[dict[str, Any]] = []
    for token_id, place in model.tokenizer.pieces(text):
        if place is not None:
            start, stop = place
            entry = {"text": text[start:stop], "special": False, "start": start, "stop": stop}
            tokens.append({"id": token_id, **entry})
        elif add_special_tokens:
            entry = {"text": "", "special": True, "start": None, "stop": None}
            tokens.append({"id": token_id, **entry})
    return tokens


async def info(exchange: Exchange) -> Answer:
    """GET /info: the first model, in TEI's words and some of ours."""
    name, model = _first(exchange)
    settings = exchange.settings
    quantizer = exchange.registry.quantizer or model.quantizer()
    content = {
        "model_id": name,
        "model_sha": model.revision,
        "model_dtype": model.dtype,
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_concurrent_requests": settings.max_requests,
        "max_input_length": model.max_length,
        "max_batch_tokens": model.info["batch_tokens"],
        "max_client_batch_size": settings.max_inputs,
        "auto_truncate": settings.truncate,
        "version": __version__,
        "dim": model.dim,
        "device": model.device,
        "fingerprint": model.fingerprint,
        "prompts": dict(model.prompts),
        "int8": {"scale": quantizer.scale, "dim": quantizer.dim},
    }
    return exchange.json(msgspec.json.encode(content))


def problem_body(problem: Problem) -> dict[str, Any]:
    """An error as TEI's clients read it."""
    return {"error": problem.message, "error_type": _ERROR_TYPES.get(problem.status, "Backend")}
