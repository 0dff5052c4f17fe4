"""class Application: an ASGI application of a dozen routes.

What every request goes through, in this order: its path, its key, a place in the queue, its body,
its work, its answer; then metrics and one line of log. A path that isn't in the table doesn't
exist, whatever a Host header says, and without a key only /health is open.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import DeviceError, DeviceMemoryError, InputTooLongError, NonFiniteError
from . import cohere, openai, tei
from .deliveries import Deliveries
from .exchange import Answer, Exchange, Gone, Receive, Scope, SharedState
from .foreign_ids import ForeignIds
from .keys import Keys
from .metrics import Metrics
from .openapi import openapi_page
from .problems import Problem
from .registry import Registry
from .settings import Settings

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Application"]

logger = logging.getLogger("qwen3_embed.server")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_THREADS = 4
_CLIENT_LEFT = 499  # in logs and metrics, as nginx has it; nobody is there to be answered


class _Route(NamedTuple):
    method: str
    handler: Callable[[Exchange], Awaitable[Answer]]
    problem_body: Callable[[Problem], dict[str, Any]]
    is_open: bool = False


class Application:
    """The server's ASGI application.

    Parameters
    ----------
    registry : Registry
    keys : Keys or None
        None: no key is asked for.
    settings : Settings
    foreign_ids : ForeignIds or None
        What token ids in requests of OpenAI's kind are; None: the model's own.
    """

    def __init__(
        self,
        registry: Registry,
        keys: Keys | None,
        settings: Settings,
        foreign_ids: ForeignIds | None = None,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self._models: dict[str, Model] = {**registry.embedders, **registry.rerankers}
        self._keys = keys
        self._shared = SharedState(
            registry,
            settings,
            foreign_ids,
            Metrics(self._models),
            Deliveries(self._models.values()),
            ThreadPoolExecutor(_THREADS, thread_name_prefix="qwen3_embed server"),
        )
        self._broken: str | None = None
        self._routes = _routes(registry) | {
            "/health": _Route("GET", self.health, openai.problem_body, True),
            "/metrics": _Route("GET", self.metrics_page, openai.problem_body),
            "/openapi.json": _Route("GET", self.openapi, openai.problem_body),
        }
        self._page = json.dumps(openapi_page(set(self._routes))).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        begin = time.perf_counter()
        route = self._routes.get(scope["path"])
        exchange = Exchange(self._shared, scope, receive)
        try:
            answer: Answer | None = await self._answer(scope, route, exchange)
            retry_after_s = None
        except Gone:
            answer = None
            self._shared.metrics.dropped.inc()
        except Exception as error:
            problem = _problem_of(error)
            if isinstance(error, DeviceError) and not isinstance(error, DeviceMemoryError):
                self._broken = str(error)
            if problem.status >= 500:
                logger.error("failed", exc_info=error, extra={"request_id": exchange.request_id})
            shape = route.problem_body if route else openai.problem_body
            answer = Answer(problem.status, msgspec.json.encode(shape(problem)))
            retry_after_s = problem.retry_after_s
        finally:
            exchange.release()
        if answer is not None:
            await _send(send, answer, exchange.request_id, retry_after_s, route)
        name = scope["path"] if route else "none"
        status = answer.status if answer else _CLIENT_LEFT
        taken_s = time.perf_counter() - begin
        self._shared.metrics.requests.labels(name, status).inc()
        self._shared.metrics.seconds.labels(name).observe(taken_s)
        if logger.isEnabledFor(logging.INFO) and not (route and route.is_open):
            about = {"request_id": exchange.request_id, "route": name, "status": status}
            about |= {"ms": round(taken_s * 1000, 2), **exchange.about}
            logger.info("request", extra=about)

    async def _answer(self, scope: Scope, route: _Route | None, exchange: Exchange) -> Answer:
        is_open = route is not None and route.is_open
        if self._keys is not None and not is_open:
            given = exchange.headers.get(b"authorization", b"")
            if not self._keys.allow(given):
                raise Problem(
                    401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key"
                )
        if route is None:
            raise Problem(404, "no such route; GET /openapi.json lists them")
        if scope["method"] != route.method:
            raise Problem(405, f"expected {route.method}")
        if is_open:
            return await route.handler(exchange)
        if self._shared.n_requests >= self.settings.max_requests:
            raise Problem(
                429,
                f"{self._shared.n_requests} requests are waiting already: come again later",
                code="queue_full",
                retry_after_s=1,
            )
        self._shared.n_requests += 1
        try:
            return await route.handler(exchange)
        finally:
            self._shared.n_requests -= 1

    async def health(self, exchange: Exchange) -> Answer:
        """GET /health: 503 when the engine is, not only when the server is, out of order."""
        stalled_s = self._shared.deliveries.stalled_s()
        closed = [name for name, model in self._models.items() if model.info["closed"]]
        reason = self._broken
        if closed:
            reason = f"closed: {', '.join(closed)}"
        elif stalled_s > self.settings.stall_s:
            reason = f"requests wait, and none was finished for {stalled_s:.0f} s"
        content = {"status": "degraded" if reason else "ok", "reason": reason}
        return Answer(503 if reason else 200, msgspec.json.encode(content))

    async def metrics_page(self, exchange: Exchange) -> Answer:
        """GET /metrics."""
        self._shared.metrics.waiting.set(self._shared.n_requests)
        self._shared.metrics.held_bytes.set(self._shared.held_bytes)
        return Answer(200, self._shared.metrics.page(), b"text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, exchange: Exchange) -> Answer:
        """GET /openapi.json."""
        return exchange.json(self._page)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._shared.deliveries.open()
                await send({"type": "lifespan.startup.complete"})
            else:
                self._shared.deliveries.close()
                self._shared.threads.shutdown(wait=False, cancel_futures=True)
                await send({"type": "lifespan.shutdown.complete"})
                return


def _routes(registry: Registry) -> dict[str, _Route]:
    """Only what there is a model for."""
    routes = {"/v1/models": _Route("GET", openai.models, openai.problem_body)}
    for name in registry.names():
        handler = partial(openai.model, name)
        routes[f"/v1/models/{name}"] = _Route("GET", handler, openai.problem_body)
    if registry.embedders:
        routes |= {
            "/v1/embeddings": _Route("POST", openai.embeddings, openai.problem_body),
            "/": _Route("POST", tei.embed_texts, tei.problem_body),
            "/embed": _Route("POST", tei.embed_texts, tei.problem_body),
            "/tokenize": _Route("POST", tei.tokenize, tei.problem_body),
            "/info": _Route("GET", tei.info, tei.problem_body),
        }
    if registry.rerankers:
        routes |= {
            "/v1/rerank": _Route("POST", cohere.rerank, openai.problem_body),
            "/rerank": _Route("POST", tei.rerank_texts, tei.problem_body),
        }
    return routes


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputTooLongError):
        return Problem(422, str(error), code="context_length_exceeded")
    if isinstance(error, NonFiniteError):
        return Problem(500, f"input {error.index} gave a vector that is not finite")
    if isinstance(error, DeviceMemoryError):
        return Problem(503, "the device has too little free memory", retry_after_s=10)
    if isinstance(error, DeviceError):
        return Problem(503, "the device has failed", retry_after_s=60)
    return Problem(500, "the server has failed; its log says more")


async def _send(
    send: Send, answer: Answer, request_id: str, retry_after_s: int | None, route: _Route | None
) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        (b"x-request-id", request_id.encode()),
    ]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    if answer.status in (408, 413):
        headers.append((b"connection", b"close"))  # what is left of the body is not read
    if answer.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if answer.status == 405 and route is not None:
        headers.append((b"allow", route.method.encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
