"""Ollama's routes, for its clients: /api/embed, /api/embeddings, /api/tags and two more.

`options` and `keep_alive` are settings of generation and of Ollama's memory: they have no effect.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec

from ..version import __version__
from .bodies import decode, decode_inputs
from .exchange import Answer, Exchange, Usage
from .problems import Problem
from .schemas import OllamaEmbeddingsRequest, OllamaEmbedRequest, OllamaShowRequest
from .token_limit import embed_within, limit_of, long_is_bad_request
from .wire import json_values
from .work import prefix_of

__all__ = ["embed_texts", "embeddings", "problem_body", "show", "tags", "version"]

_LATEST = ":latest"  # the tag that Ollama's clients add to a name without one


async def embed_texts(exchange: Exchange) -> Answer:
    """POST /api/embed: long texts are cut unless `truncate` is false."""
    begin = time.perf_counter_ns()
    body = decode(await exchange.body(), OllamaEmbedRequest)
    inputs = decode_inputs(body.input, exchange.settings.max_inputs, "input")
    if isinstance(inputs[0], list):
        raise Problem(400, "input is expected to be texts", param="input")
    texts = [str(text) for text in inputs]
    vectors, usage = await _embed(exchange, body.model, texts, body.dimensions, body.truncate)
    content = {
        "model": body.model,
        "embeddings": vectors,
        "total_duration": time.perf_counter_ns() - begin,
        "load_duration": 0,
        "prompt_eval_count": usage.n_tokens,
    }
    return exchange.json(msgspec.json.encode(content))


async def embeddings(exchange: Exchange) -> Answer:
    """POST /api/embeddings, the older route for one text; its vector has length 1 here too."""
    body = decode(await exchange.body(), OllamaEmbeddingsRequest)
    vectors, _ = await _embed(exchange, body.model, [body.prompt or ""], None, None)
    return exchange.json(msgspec.json.encode({"embedding": vectors[0]}))


async def _embed(
    exchange: Exchange, asked: str, texts: list[str], dim: int | None, truncate: bool | None
) -> tuple[list[msgspec.Raw], Usage]:
    """The vectors of texts as JSON, and their cost."""
    name, model, is_query = exchange.registry.embedder(asked.removesuffix(_LATEST))
    prefix = prefix_of(model, "query" if is_query else None)
    limit = limit_of(model, True, truncate=truncate)
    with long_is_bad_request():
        found = await embed_within(exchange, model, texts, prefix, dim, True, limit)
    exchange.count(name, found.usage)
    vectors = await exchange.run(partial(json_values, base64=False), found.rows)
    return [msgspec.Raw(vector) for vector in vectors], found.usage


async def tags(exchange: Exchange) -> Answer:
    """GET /api/tags: every name that /api/embed takes."""
    models = [_entry(name, exchange) for name in exchange.registry.embedder_names()]
    return exchange.json(msgspec.json.encode({"models": models}))


async def show(exchange: Exchange) -> Answer:
    """POST /api/show: the shape of a model."""
    body = decode(await exchange.body(), OllamaShowRequest)
    asked = (body.model or body.name or "").removesuffix(_LATEST)
    _, model, _ = exchange.registry.embedder(asked)
    config = model.config
    content = {
        "details": _entry(asked, exchange)["details"],
        "capabilities": ["embedding"],
        "model_info": {
            "general.architecture": "qwen3",
            "qwen3.context_length": model.max_length,
            "qwen3.embedding_length": model.dim,
            "qwen3.block_count": config.n_layers,
            "qwen3.attention.head_count": config.n_heads,
            "qwen3.attention.head_count_kv": config.n_kv_heads,
        },
    }
    return exchange.json(msgspec.json.encode(content))


async def version(exchange: Exchange) -> Answer:
    """GET /api/version: that of this package."""
    return exchange.json(msgspec.json.encode({"version": __version__}))


def _entry(name: str, exchange: Exchange) -> dict[str, Any]:
    _, model, _ = exchange.registry.embedder(name)
    opened = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(exchange.started_at))
    return {
        "name": name,
        "model": name,
        "modified_at": opened,
        "size": model.info["mapped_bytes"],
        "digest": "",
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": "qwen3",
            "families": ["qwen3"],
            "parameter_size": "",
            "quantization_level": model.dtype,
        },
    }


def problem_body(problem: Problem) -> dict[str, Any]:
    """An error as Ollama's clients read it."""
    return {"error": problem.message}
