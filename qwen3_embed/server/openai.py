"""OpenAI's routes: /v1/embeddings, /v1/models and /v1/models/NAME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .bodies import decode, decode_inputs
from .exchange import Answer, Exchange
from .problems import Problem
from .schemas import EmbeddingRequest
from .token_limit import check_special_tokens, embed_within, limit_of, long_is_bad_request
from .wire import OutputDtype, codes_of, json_values, quantizer_for
from .work import Vectors, prefix_of

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..retrieval.quantizer import Quantizer

__all__ = ["embeddings", "model", "models", "problem_body"]

_PROMPTS = ("instruction", "input_type", "prompt_name", "task")  # each of them names the prompt
# The words of OpenAI-compatible servers for what a text is.
_KINDS: dict[str, Literal["query", "document"]] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "search_document": "document",
    "passage": "document",
    "retrieval.passage": "document",
}


async def embeddings(exchange: Exchange) -> Answer:
    """POST /v1/embeddings."""
    with long_is_bad_request():
        return await _embeddings(exchange)


async def _embeddings(exchange: Exchange) -> Answer:
    body = decode(await exchange.body(), EmbeddingRequest)
    settings = exchange.settings
    inputs = decode_inputs(body.input, settings.max_inputs, "input")
    name, model, is_query = exchange.registry.embedder(body.model)
    _check(body)
    kind = _KINDS.get(body.input_type or body.task or ("query" if is_query else ""))
    prefix = prefix_of(model, kind, instruction=body.instruction, prompt_name=body.prompt_name)
    if isinstance(inputs[0], list):
        foreign_ids = exchange.foreign_ids
        if foreign_ids is not None:
            inputs = await exchange.run(foreign_ids.texts_of, inputs)
        elif prefix and (is_query or any(getattr(body, name) for name in _PROMPTS)):
            raise Problem(400, "token ids take no instruction: put its tokens before them")
    limit = limit_of(
        model,
        settings.truncate,
        truncate=body.truncation if body.truncate is None else body.truncate,
        side=body.truncation_side,
        n_tokens=body.truncate_prompt_tokens,
    )
    normalize = False not in (body.normalize, body.use_activation, body.normalized)
    dim = body.dimensions or body.output_dimension
    form = _form_of(body, model, dim, exchange.registry.quantizer)
    found = await embed_within(exchange, model, inputs, prefix, dim, normalize, limit)
    exchange.count(name, found.usage)
    served = msgspec.json.encode(body.model or name)
    return exchange.json(await exchange.run(_answer, found, served, *form))


def _check(body: EmbeddingRequest) -> None:
    """Raises a Problem for fields that contradict each other, or ask for what there isn't."""
    given = [name for name in _PROMPTS if getattr(body, name) is not None]
    if len(given) > 1:
        raise Problem(400, f"{' and '.join(given)} are given at once, expected one of them")
    if body.late_chunking:
        raise Problem(
            400,
            "late_chunking is true, expected false: each input gets the vector of its own text",
            param="late_chunking",
        )
    check_special_tokens(body.add_special_tokens)


def _form_of(
    body: EmbeddingRequest, model: Embedder, dim: int | None, fitted: Quantizer | None
) -> tuple[OutputDtype, bool, Quantizer | None]:
    """The dtype of the vectors, whether they are sent in base64, and the quantizer if needed."""
    other = body.embedding_type or body.encoding_type or "float"  # Jina's field says both
    dtype = body.output_dtype or ("float" if other == "base64" else other)
    base64 = body.encoding_format == "base64" or other == "base64"
    needs_quantizer = dtype == "int8" or dtype == "uint8"
    return dtype, base64, quantizer_for(model, dim, fitted) if needs_quantizer else None


def _answer(
    found: Vectors,
    model: bytes,
    dtype: OutputDtype,
    base64: bool,
    quantizer: Quantizer | None,
) -> bytes:
    values = json_values(codes_of(found.rows, dtype, quantizer), base64=base64)
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, value)
        for index, value in enumerate(values)
    )
    n_tokens = found.usage.n_tokens
    return (
        b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
        % (data, model, n_tokens, n_tokens)
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
