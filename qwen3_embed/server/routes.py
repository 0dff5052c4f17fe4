"""The table of routes: path and method to handler. Only routes that a served model can answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from . import cohere, ollama, openai, tei, vllm
from .exchange import Answer, Exchange
from .page import page
from .problems import Problem
from .registry import Registry

__all__ = ["Handler", "Route", "Routes", "no_route", "routes_of"]

Handler = Callable[[Exchange], Awaitable[Answer]]
_MAX_PATH = 100  # characters of a client's path in a message
_RERANKING = {"/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"}


class Route(NamedTuple):
    """The handler of a path and a method.

    Attributes
    ----------
    handler : callable
    problem_body : callable
        The form of errors.
    is_open : bool
        No key is needed.
    """

    handler: Handler
    problem_body: Callable[[Problem], dict[str, Any]] = openai.problem_body
    is_open: bool = False


Routes = dict[str, dict[str, Route]]  # path to method to route


def routes_of(registry: Registry) -> Routes:
    """The routes for these models; with and without /v1, as clients have them."""
    routes: Routes = {
        "/": {"GET": Route(page)},
        "/info": {"GET": Route(tei.info, tei.problem_body)},
    }
    for base in ("", "/v1"):
        routes[f"{base}/models"] = {"GET": Route(openai.models)}
        for name in registry.names():
            routes[f"{base}/models/{name}"] = {"GET": Route(partial(openai.model, name))}
    if registry.embedders:
        routes["/"]["POST"] = Route(tei.embed_or_compare, tei.problem_body)
        posts = {
            "/v1/embeddings": Route(openai.embeddings),
            "/embeddings": Route(openai.embeddings),
            "/embed": Route(tei.embed_texts, tei.problem_body),
            "/similarity": Route(tei.similarity, tei.problem_body),
            "/tokenize": Route(tei.tokenize, tei.problem_body),
            "/decode": Route(tei.decode_ids, tei.problem_body),
            "/v1/embed": Route(cohere.embed_v1, cohere.problem_body),
            "/v2/embed": Route(cohere.embed_v2, cohere.problem_body),
            "/api/embed": Route(ollama.embed_texts, ollama.problem_body),
            "/api/embeddings": Route(ollama.embeddings, ollama.problem_body),
            "/api/show": Route(ollama.show, ollama.problem_body),
        }
        routes |= {path: {"POST": route} for path, route in posts.items()}
        routes["/api/tags"] = {"GET": Route(ollama.tags, ollama.problem_body)}
        routes["/api/version"] = {"GET": Route(ollama.version, ollama.problem_body)}
    if registry.rerankers:
        posts = {
            "/rerank": Route(tei.rerank, tei.problem_body),
            "/v1/rerank": Route(cohere.rerank, cohere.problem_body),
            "/v2/rerank": Route(cohere.rerank_v2, cohere.problem_body),
            "/score": Route(vllm.score_pairs),
            "/v1/score": Route(vllm.score_pairs),
        }
        routes |= {path: {"POST": route} for path, route in posts.items()}
    return routes


def no_route(path: str, routes: Routes, registry: Registry) -> Problem:
    """404, with the path that was asked for and those that there are."""
    if path.startswith(("/v1/models/", "/models/")):
        return registry.unknown(path.rpartition("models/")[2][:_MAX_PATH])
    if path in _RERANKING:
        return Problem(404, f"{path} needs a reranker: start the server with --reranker NAME")
    known = ", ".join(sorted(path for path in routes if "/models/" not in path))
    return Problem(
        404,
        f"there is no {path[:_MAX_PATH]!r}; there is: {known}; GET /openapi.json describes them",
    )
