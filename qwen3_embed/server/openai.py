"""OpenAI's routes: /v1/embeddings, /v1/models and /v1/models/NAME."""

from __future__ import annotations

from typing import Any

import msgspec

from ..retrieval.quantizer import Quantizer
from .bodies import EmbeddingRequest, decode, decode_inputs
from .exchange import Answer, Exchange
from .problems import Problem
from .wire import codes_of, json_values, quantizer_for
from .work import Vectors, embed, prefix_of

__all__ = ["embeddings", "models", "problem_body"]


async def embeddings(exchange: Exchange) -> Answer:
    """POST /v1/embeddings."""
    body = decode(await exchange.body(), EmbeddingRequest)
    settings = exchange.settings
    inputs = decode_inputs(body.input, settings.max_inputs, "input")
    name, model, is_query = exchange.registry.embedder(body.model)
    _check_prompt(body)
    kind = body.input_type or ("query" if is_query else None)
    prefix = prefix_of(model, kind, instruction=body.instruction, prompt_name=body.prompt_name)
    if isinstance(inputs[0], list):
        foreign_ids = exchange.foreign_ids
        if foreign_ids is not None:
            inputs = await exchange.run(foreign_ids.texts_of, inputs)
        elif prefix and (is_query or body.instruction or body.input_type or body.prompt_name):
            raise Problem(400, "token ids take no instruction: put its tokens before them")
    quantizer = None
    if body.output_dtype in ("int8", "uint8"):
        quantizer = quantizer_for(model, body.dimensions, exchange.registry.quantizer)
    truncate = settings.truncate if body.truncate is None else body.truncate
    found = await embed(exchange, model, inputs, prefix, body.dimensions, True, truncate)
    exchange.count(name, found.usage)
    return exchange.json(await exchange.run(_answer, found, body, quantizer))


def _check_prompt(body: EmbeddingRequest) -> None:
    """Raises a Problem if the request says more than one thing about the prompt."""
    given = [
        name
        for name in ("instruction", "input_type", "prompt_name")
        if getattr(body, name) is not None
    ]
    if len(given) > 1:
        raise Problem(400, f"{' and '.join(given)} are given at once, expected one of them")


def _answer(found: Vectors, body: EmbeddingRequest, quantizer: Quantizer | None) -> bytes:
    codes = codes_of(found.rows, body.output_dtype, quantizer)
    values = json_values(codes, base64=body.encoding_format == "base64")
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, value)
        for index, value in enumerate(values)
    )
    n_tokens = found.usage.n_tokens
    return (
        b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        % (data, msgspec.json.encode(body.model), n_tokens, n_tokens)
    )


async def models(exchange: Exchange) -> Answer:
    """GET /v1/models."""
    data = [_entry(name, exchange) for name in exchange.registry.names()]
    return exchange.json(msgspec.json.encode({"object": "list", "data": data}))


async def model(name: str, exchange: Exchange) -> Answer:
    """GET /v1/models/NAME."""
    return exchange.json(msgspec.json.encode(_entry(name, exchange)))


def _entry(name: str, exchange: Exchange) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": exchange.started_at,
        "owned_by": "qwen3_embed",
    }


def problem_body(problem: Problem) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {
        "error": {
            "message": problem.message,
            "type": problem.type,
            "param": problem.param,
            "code": problem.code,
        }
    }
