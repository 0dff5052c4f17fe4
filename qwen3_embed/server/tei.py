"""The routes of Text Embeddings Inference, for its clients and Hugging Face's InferenceClient.

/embed, /similarity, /rerank, /tokenize, /decode and /info. Their answers carry TEI's headers with
the time and the tokens that a request took.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct, field

from ..version import __version__
from . import cohere
from .bodies import check_documents, decode, decode_inputs, is_null
from .exchange import Answer, Exchange, Usage
from .problems import Problem
from .schemas import (
    DecodeRequest,
    EmbedParameters,
    EmbedRequest,
    SimilarityParameters,
    SimilarityRequest,
    TeiRerankRequest,
    TokenizeRequest,
)
from .token_limit import cut_pairs, embed_within, limit_of
from .wire import codes_of, json_values
from .work import Vectors, prefix_of, score, tokenise

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..model import Model

__all__ = [
    "decode_ids",
    "embed_or_compare",
    "embed_texts",
    "info",
    "problem_body",
    "rerank",
    "similarity",
    "tokenize",
]

_ERROR_TYPES = {
    400: "Validation",
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
    503: "Unhealthy",
}


class _Inputs(Struct):
    inputs: Raw = field(default_factory=Raw)


class _RerankForms(Struct):
    documents: Raw = field(default_factory=Raw)


async def embed_or_compare(exchange: Exchange) -> Answer:
    """POST /, all that clients know: vectors, or similarities if the inputs are for these."""
    content = await exchange.body()
    if bytes(decode(content, _Inputs).inputs).startswith(b"{"):
        return await _similarity(exchange, content)
    return await _embed_texts(exchange, content)


async def embed_texts(exchange: Exchange) -> Answer:
    """POST /embed: a list of vectors."""
    return await _embed_texts(exchange, await exchange.body())


async def _embed_texts(exchange: Exchange, content: bytes) -> Answer:
    body = decode(content, EmbedRequest)
    settings = exchange.settings
    inputs = decode_inputs(body.inputs, settings.max_inputs, "inputs")
    options = _merged(body)
    name, model, _ = exchange.registry.embedder(None)
    prefix = prefix_of(model, prompt_name=options.prompt_name)
    if prefix and options.prompt_name and isinstance(inputs[0], list):
        raise Problem(400, "token ids take no prompt: put its tokens before them")
    limit = limit_of(
        model, settings.truncate, truncate=options.truncate, side=options.truncation_direction
    )
    normalize = options.normalize is not False
    dim = options.dimensions
    found = await embed_within(exchange, model, inputs, prefix, dim, normalize, limit)
    exchange.count(name, found.usage)
    answer = await exchange.run(_answer, found, options.encoding_format == "base64")
    return _timed(exchange, model, answer, inputs, found.usage)


def _merged(body: EmbedRequest) -> EmbedParameters:
    """The options at the top, and those in `parameters` where there are none."""
    if body.parameters is None:
        return body
    names = EmbedParameters.__struct_fields__
    return EmbedParameters(
        **{
            name: value if value is not None else getattr(body.parameters, name)
            for name in names
            for value in (getattr(body, name),)
        }
    )


def _answer(found: Vectors, base64: bool) -> bytes:
    return b"[%b]" % b",".join(json_values(codes_of(found.rows, "float"), base64=base64))


async def similarity(exchange: Exchange) -> Answer:
    """POST /similarity: the cosine of one sentence with each of the others."""
    return await _similarity(exchange, await exchange.body())


async def _similarity(exchange: Exchange, content: bytes) -> Answer:
    body = decode(content, SimilarityRequest)
    settings = exchange.settings
    sentences = body.inputs.sentences
    check_documents(sentences, settings.max_inputs - 1, "sentences")
    options = body.parameters or SimilarityParameters()
    name, model, _ = exchange.registry.embedder(None)
    prefix = prefix_of(model, prompt_name=options.prompt_name)
    limit = limit_of(
        model, settings.truncate, truncate=options.truncate, side=options.truncation_direction
    )
    texts = [body.inputs.source_sentence, *sentences]
    found = await embed_within(exchange, model, texts, prefix, None, True, limit)
    exchange.count(name, found.usage)
    cosines = model.similarity(found.rows[:1], found.rows[1:])[0]
    answer = msgspec.json.encode(cosines.tolist())
    return _timed(exchange, model, answer, texts, found.usage)


async def rerank(exchange: Exchange) -> Answer:
    """POST /rerank: of `texts`, index and score, best first; of `documents`, as /v1/rerank."""
    content = await exchange.body()
    if not is_null(decode(content, _RerankForms).documents):
        exchange.problem_body = cohere.problem_body
        return await cohere.rerank_documents(exchange, content, "1", returns_documents=True)
    body = decode(content, TeiRerankRequest)
    check_documents(body.texts, exchange.settings.max_inputs, "texts")
    name, model = exchange.registry.reranker(None)
    limit = limit_of(
        model,
        exchange.settings.truncate,
        truncate=body.truncate,
        side=body.truncation_direction,
    )
    exchange.n_texts = len(body.texts)
    pairs = [(body.query, text) for text in body.texts]
    pairs = await exchange.run(cut_pairs, model, pairs, limit)
    logits = body.raw_scores is True
    found = await score(exchange, model, pairs, None, logits, limit.is_allowed)
    exchange.count(name, found.usage)
    ranked: list[dict[str, Any]] = []
    for i in found.best_first[: body.top_n or None]:
        entry: dict[str, Any] = {"index": i, "score": found.values[i]}
        ranked.append(entry | {"text": body.texts[i]} if body.return_text else entry)
    read = [body.query, *body.texts]
    return _timed(exchange, model, msgspec.json.encode(ranked), read, found.usage)


async def tokenize(exchange: Exchange) -> Answer:
    """POST /tokenize: the tokens of each text; start and stop count characters."""
    body = decode(await exchange.body(), TokenizeRequest)
    inputs = decode_inputs(body.inputs, exchange.settings.max_inputs, "inputs")
    _, model, _ = exchange.registry.embedder(None)
    prefix = prefix_of(model, prompt_name=body.prompt_name)
    if isinstance(inputs[0], list):
        raise Problem(400, "inputs is expected to be texts", param="inputs")

    exchange.n_texts = len(inputs)
    texts = [prefix + str(text) for text in inputs]
    bounds = (model.max_length, False, exchange.settings)
    adds_special_tokens = body.add_special_tokens is not False

    def pieces() -> bytes:
        tokenise(model, texts, bounds)
        answer = []
        for text in texts:
            exchange.check()
            answer.append(_tokens(model, text, adds_special_tokens))
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


async def decode_ids(exchange: Exchange) -> Answer:
    """POST /decode: the text of each sequence of token ids."""
    body = decode(await exchange.body(), DecodeRequest)
    sequences = decode_inputs(body.ids, exchange.settings.max_inputs, "ids")
    n_tokens = sum(map(len, sequences))
    if n_tokens > exchange.settings.max_request_tokens:
        raise Problem(
            422,
            f"ids has {n_tokens} token ids, expected at most "
            f"{exchange.settings.max_request_tokens} per request",
            param="ids",
        )
    _, model, _ = exchange.registry.embedder(None)
    skips = body.skip_special_tokens is not False

    def texts() -> bytes:
        found = []
        for ids in sequences:
            exchange.check()
            if isinstance(ids, str):
                raise Problem(400, "ids is expected to be token ids", param="ids")
            try:
                found.append(model.tokenizer.decode(ids, skip_special_tokens=skips))
            except ValueError as error:
                raise Problem(400, f"ids: {error}", param="ids") from None
        return msgspec.json.encode(found)

    return exchange.json(await exchange.run(texts))


async def info(exchange: Exchange) -> Answer:
    """GET /info: the model that TEI's routes use, in TEI's words and some of ours."""
    registry = exchange.registry
    settings = exchange.settings
    kinds: dict[str, dict[str, Any]] = {}
    for name in registry.embedders:
        kinds[name] = {"embedding": {"pooling": "last_token"}}
    for name in registry.rerankers:
        label = {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}
        kinds[name] = {"reranker": label}
    models: dict[str, Model] = {**registry.embedders, **registry.rerankers}
    name, model = next(iter(models.items()))
    content: dict[str, Any] = {
        "model_id": name,
        "served_model_name": name,
        "model_sha": model.revision,
        "model_dtype": model.dtype,
        "model_type": kinds[name],
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
        "models": [{"served_model_name": name, "model_type": kinds[name]} for name in models],
    }
    for embedder in list(registry.embedders.values())[:1]:
        quantizer = registry.quantizer or embedder.quantizer()
        content["int8"] = {"scale": quantizer.scale, "dim": quantizer.dim}
    return exchange.json(msgspec.json.encode(content))


def _timed(
    exchange: Exchange, model: Model, content: bytes, inputs: Sequence[Any], usage: Usage
) -> Answer:
    """An answer with TEI's headers; times are whole milliseconds.

    The engine doesn't say how long a job waited, so that x-inference-time includes it and there
    is no x-queue-time.
    """
    now_s = time.perf_counter()
    total_s = now_s - exchange.begin_s
    tokenization_s = exchange.submitted_s - exchange.read_s
    inference_s = exchange.done_s - exchange.submitted_s
    headers = {
        "x-compute-type": model.device.partition(":")[0],
        "x-compute-time": _in_ms(total_s),
        "x-compute-characters": sum(map(len, inputs)),
        "x-compute-tokens": usage.n_tokens,
        "x-total-time": _in_ms(total_s),
        "x-tokenization-time": _in_ms(tokenization_s),
        "x-inference-time": _in_ms(inference_s),
    }
    pairs = [(name.encode(), str(value).encode()) for name, value in headers.items()]
    return Answer(200, content, headers=tuple(pairs))


def _in_ms(seconds: float) -> int:
    return round(seconds * 1000)


def problem_body(problem: Problem) -> dict[str, Any]:
    """An error as TEI's clients read it."""
    return {"error": problem.message, "error_type": _ERROR_TYPES.get(problem.status, "Backend")}
