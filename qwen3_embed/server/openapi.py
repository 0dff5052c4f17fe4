"""The page /openapi.json, made of the structs that bodies are decoded with."""

from __future__ import annotations

from typing import Any

import msgspec

from ..version import __version__
from .routes import Routes
from .schemas import (
    CohereEmbedRequest,
    DecodeRequest,
    EmbeddingRequest,
    EmbedRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaShowRequest,
    RerankRequest,
    ScoreRequest,
    SimilarityRequest,
    TeiRerankRequest,
    TokenizeRequest,
)

__all__ = ["openapi_page"]

_BODIES: dict[str, tuple[type, ...]] = {
    "/v1/embeddings": (EmbeddingRequest,),
    "/embeddings": (EmbeddingRequest,),
    "/v1/rerank": (RerankRequest,),
    "/v2/rerank": (RerankRequest,),
    "/rerank": (TeiRerankRequest, RerankRequest),
    "/score": (ScoreRequest,),
    "/v1/score": (ScoreRequest,),
    "/v1/embed": (CohereEmbedRequest,),
    "/v2/embed": (CohereEmbedRequest,),
    "/": (EmbedRequest, SimilarityRequest),
    "/embed": (EmbedRequest,),
    "/similarity": (SimilarityRequest,),
    "/tokenize": (TokenizeRequest,),
    "/decode": (DecodeRequest,),
    "/api/embed": (OllamaEmbedRequest,),
    "/api/embeddings": (OllamaEmbeddingsRequest,),
    "/api/show": (OllamaShowRequest,),
}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT_OR_IDS = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        _IDS,
        {"type": "array", "items": {**_IDS, "minItems": 0}, "minItems": 1},
    ]
}
_RAW_FIELDS = {  # which are read apart from the body
    "EmbeddingRequest": {"input": _TEXT_OR_IDS},
    "EmbedRequest": {"inputs": _TEXT_OR_IDS},
    "TokenizeRequest": {"inputs": {"oneOf": _TEXT_OR_IDS["oneOf"][:2]}},
    "DecodeRequest": {"ids": {"oneOf": _TEXT_OR_IDS["oneOf"][2:]}},
    "OllamaEmbedRequest": {"input": {"oneOf": _TEXT_OR_IDS["oneOf"][:2]}},
    "RerankRequest": {"rank_fields": {"type": "null"}, "relevant_spans": {"type": "null"}},
    "CohereEmbedRequest": {"images": {"type": "null"}},
}
_ERRORS = {
    "400": "wrong body",
    "401": "no key, or a wrong one",
    "404": "no such model",
    "408": "slow body",
    "413": "body too large",
    "415": "compressed body",
    "422": "over a limit",
    "429": "queue full: see Retry-After",
    "500": "failure of the server",
    "503": "failure of the device",
}


def openapi_page(routes: Routes) -> dict[str, Any]:
    """The description of these routes; those without a body are read by GET."""
    kinds = list(dict.fromkeys(kind for kinds in _BODIES.values() for kind in kinds))
    _, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    for name, fields in _RAW_FIELDS.items():
        components[name]["properties"] |= fields
    operations: dict[str, Any] = {}
    for path in sorted(routes):
        operations[path] = {}
        for method in routes[path]:
            statuses = _ERRORS if method == "POST" else ("401", "404", "429", "503")
            operation: dict[str, Any] = {
                "responses": _responses({status: _ERRORS[status] for status in statuses})
            }
            if method == "POST":
                references = [
                    {"$ref": f"#/components/schemas/{kind.__name__}"} for kind in _BODIES[path]
                ]
                schema = references[0] if len(references) == 1 else {"anyOf": references}
                content = {"application/json": {"schema": schema}}
                operation["requestBody"] = {"required": True, "content": content}
            operations[path][method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "qwen3-embed", "version": __version__},
        "paths": operations,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _responses(errors: dict[str, str]) -> dict[str, Any]:
    described = {status: {"description": text} for status, text in errors.items()}
    return {"200": {"description": "the answer"}, **described}
