"""Cohere's routes: /v1/rerank and /v2/rerank, also in the form of Jina and vLLM, and /v2/embed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from . import openai
from .bodies import check_documents, decode, is_null
from .exchange import Answer, Exchange
from .problems import Problem
from .schemas import CohereEmbedRequest, Document, RerankRequest
from .token_limit import TokenLimit, check_special_tokens, cut_pairs, embed_within, limit_of
from .wire import codes_of, json_values, quantizer_for
from .work import Vectors, prefix_of, score

if TYPE_CHECKING:
    from ..retrieval.quantizer import Quantizer
    from .schemas import Embedding

__all__ = ["embed_v1", "embed_v2", "problem_body", "rerank", "rerank_documents", "rerank_v2"]


async def rerank(exchange: Exchange) -> Answer:
    """POST /v1/rerank: with the documents, as Jina and vLLM answer, unless told otherwise."""
    return await rerank_documents(exchange, await exchange.body(), "1", returns_documents=True)


async def rerank_v2(exchange: Exchange) -> Answer:
    """POST /v2/rerank: without the documents, as Cohere answers, unless told otherwise."""
    return await rerank_documents(exchange, await exchange.body(), "2", returns_documents=False)


async def rerank_documents(
    exchange: Exchange, content: bytes, version: str, *, returns_documents: bool
) -> Answer:
    """Results best first; equal logits in the order of the documents.

    Parameters
    ----------
    exchange : Exchange
    content : bytes
        The body of the request.
    version : str
        Of Cohere's protocol.
    returns_documents : bool
        Whether results have their documents if the request doesn't say.
    """
    body = decode(content, RerankRequest)
    _check(body)
    documents = [each.text if isinstance(each, Document) else each for each in body.documents]
    check_documents(documents, exchange.settings.max_inputs, "documents")
    name, model = exchange.registry.reranker(body.model)
    limit = limit_of(
        model,
        True,
        truncate=body.truncate,
        side=body.truncation_side,
        n_tokens=body.truncate_prompt_tokens,
    )
    exchange.n_texts = len(documents)
    pairs = await exchange.run(
        lambda: cut_pairs(
            model,
            [(body.query, document) for document in documents],
            limit,
            instruction=body.instruction,
            max_tokens_per_query=body.max_tokens_per_query,
            max_tokens_per_doc=body.max_tokens_per_doc,
        )
    )
    logits = body.use_activation is False or body.raw_scores is True
    found = await score(exchange, model, pairs, body.instruction, logits, limit.is_allowed)
    exchange.count(name, found.usage)
    if body.return_documents is not None:
        returns_documents = body.return_documents
    results: list[dict[str, Any]] = []
    for i in found.best_first[: body.top_n or None]:
        entry: dict[str, Any] = {"index": i, "relevance_score": found.values[i]}
        results.append(entry | {"document": {"text": documents[i]}} if returns_documents else entry)
    n_tokens = found.usage.n_tokens
    answer = {
        "id": exchange.request_id,
        "model": body.model or name,
        "results": results,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        "meta": _meta(version, n_tokens, {"search_units": 1}),
    }
    return exchange.json(msgspec.json.encode(answer))


def _check(body: RerankRequest) -> None:
    """Raises a Problem for fields that ask for what there isn't."""
    for name, advice in (
        ("rank_fields", "join the fields of a document into one text"),
        ("relevant_spans", "a document has one score: leave it out"),
    ):
        if not is_null(getattr(body, name)):
            raise Problem(400, f"{name} is not supported: {advice}", param=name)
    check_special_tokens(body.add_special_tokens)


async def embed_v1(exchange: Exchange) -> Answer:
    """POST /v1/embed: a list of vectors, or lists by type if the request names types."""
    return await _embed(exchange, "1")


async def embed_v2(exchange: Exchange) -> Answer:
    """POST /v2/embed: lists of vectors by type."""
    return await _embed(exchange, "2")


async def _embed(exchange: Exchange, version: str) -> Answer:
    body = decode(await exchange.body(), CohereEmbedRequest)
    texts = _texts_of(body)
    check_documents(texts, exchange.settings.max_inputs, "texts")
    name, model, is_query = exchange.registry.embedder(body.model)
    kind = body.input_type or ("search_query" if is_query else "search_document")
    prefix = prefix_of(model, "query" if kind == "search_query" else "document")
    own = limit_of(model, True, truncate=body.truncate)
    max_length = min(body.max_tokens or model.max_length, model.max_length)
    limit = TokenLimit(max_length, own.is_allowed, own.from_start)
    dim = body.output_dimension
    types = list(dict.fromkeys(body.embedding_types or ()))
    quantizer = None
    if {"int8", "uint8"} & set(types):
        quantizer = quantizer_for(model, dim, exchange.registry.quantizer)
    found = await embed_within(exchange, model, texts, prefix, dim, True, limit)
    exchange.count(name, found.usage)
    by_type = bool(types) or version == "2"
    content = {
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
        "id": exchange.request_id,
        "texts": texts,
        "meta": _meta(version, found.usage.n_tokens, {"input_tokens": found.usage.n_tokens}),
    }
    return exchange.json(
        await exchange.run(_answer, found, content, types or ["float"], by_type, quantizer)
    )


def _texts_of(body: CohereEmbedRequest) -> list[str]:
    if not is_null(body.images):
        raise Problem(400, "images are not supported: the model reads texts", param="images")
    if (body.texts is None) == (body.inputs is None):
        raise Problem(400, "expected either texts or inputs", param="texts")
    if body.texts is not None:
        return body.texts
    return ["\n".join(part.text for part in each.content) for each in body.inputs or ()]


def _answer(
    found: Vectors,
    content: dict[str, Any],
    types: list[Embedding],
    by_type: bool,
    quantizer: Quantizer | None,
) -> bytes:
    lists = {}
    for kind in types:
        codes = codes_of(found.rows, "float" if kind == "base64" else kind, quantizer)
        values = json_values(codes, base64=kind == "base64")
        lists[kind] = msgspec.Raw(b"[%b]" % b",".join(values))
    return msgspec.json.encode(content | {"embeddings": lists if by_type else lists["float"]})


def _meta(version: str, n_tokens: int, billed_units: dict[str, int]) -> dict[str, Any]:
    return {
        "api_version": {"version": version},
        "billed_units": billed_units,
        "tokens": {"input_tokens": n_tokens, "output_tokens": 0},
    }


def problem_body(problem: Problem) -> dict[str, Any]:
    """An error as the clients of Cohere and of OpenAI-compatible servers read it."""
    return {"message": problem.message, **openai.problem_body(problem)}
