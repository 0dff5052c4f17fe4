"""/v1/rerank, in the shape of Cohere and Jina."""

from __future__ import annotations

from typing import Any

import msgspec

from .bodies import Document, RerankRequest, check_documents, decode
from .exchange import Answer, Exchange
from .problems import Problem
from .work import score

__all__ = ["rerank"]


async def rerank(exchange: Exchange) -> Answer:
    """POST /v1/rerank: results best first; equal scores in the order of the documents."""
    body = decode(await exchange.body(), RerankRequest)
    documents = [each.text if isinstance(each, Document) else each for each in body.documents]
    check_documents(documents, exchange.settings.max_inputs, "documents")
    name, model = exchange.registry.reranker(body.model)
    truncate = True if body.truncate is None else body.truncate
    if body.max_tokens_per_doc is not None:
        raise Problem(
            422,
            "max_tokens_per_doc is not supported: a pair is cut at the model's own length",
            param="max_tokens_per_doc",
        )
    found = await score(exchange, model, body.query, documents, body.instruction, False, truncate)
    exchange.count(name, found.usage)
    scores: list[float] = found.rows.tolist()
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: body.top_n]
    results: list[dict[str, Any]] = []
    for i in order:
        entry: dict[str, Any] = {"index": i, "relevance_score": scores[i]}
        results.append(
            entry | {"document": {"text": documents[i]}} if body.return_documents else entry
        )
    content = {"id": exchange.request_id, "model": name, "results": results}
    return exchange.json(msgspec.json.encode(content))
