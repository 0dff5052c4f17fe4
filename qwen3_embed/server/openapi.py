"""The page /openapi.json, made of the structs that bodies are decoded with."""

from __future__ import annotations

from typing import Any

import msgspec

from ..version import __version__
from .bodies import (
    EmbeddingRequest,
    EmbedRequest,
    RerankRequest,
    TeiRerankRequest,
    TokenizeRequest,
)

__all__ = ["openapi_page"]

_BODIES: dict[str, type] = {
    "/v1/embeddings": EmbeddingRequest,
    "/v1/rerank": RerankRequest,
    "/": EmbedRequest,
    "/embed": EmbedRequest,
    "/rerank": TeiRerankRequest,
    "/tokenize": TokenizeRequest,
}
_TEXT_OR_IDS = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
    ]
}
_ERRORS = {
    "400": "wrong body",
    "401": "no key, or a wrong one",
    "404": "no such model",
    "408": "slow body",
    "413": "body too large",
    "422": "over a limit",
    "429": "queue full: see Retry-After",
    "500": "failure of the server",
    "503": "failure of the device",
}


def openapi_page(paths: set[str]) -> dict[str, Any]:
    """The description of these routes; those without a body are read by GET."""
    _, components = msgspec.json.schema_components(
        list(_BODIES.values()), ref_template="#/components/schemas/{name}"
    )
    for name, field in (
        ("EmbeddingRequest", "input"),
        ("EmbedRequest", "inputs"),
        ("TokenizeRequest", "inputs"),
    ):
        components[name]["properties"][field] = _TEXT_OR_IDS
    operations: dict[str, Any] = {}
    for path, body in _BODIES.items():
        if path in paths:
            reference = {"$ref": f"#/components/schemas/{body.__name__}"}
            content = {"application/json": {"schema": reference}}
            operations[path] = {
                "post": {
                    "requestBody": {"required": True, "content": content},
                    "responses": _responses(_ERRORS),
                }
            }
    for path in sorted(paths - set(_BODIES)):
        kept = {status: _ERRORS[status] for status in ("401", "429", "503")}
        operations[path] = {"get": {"responses": _responses(kept)}}
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
