"""class Application: an ASGI application of a dozen routes.

What every request goes through, in this order: its path, its key, a place in the queue, its body,
its work, its answer; then metrics and one line of log. A path that isn't in the table doesn't
exist, whatever a Host header says, and without a key only /health is open.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from ..errors import DeviceError, DeviceMemoryError, InputTooLongError, NonFiniteError
from . import openai, rerank, tei
from .connection import Client
from .deliveries import Deliveries
from .foreign_ids import ForeignIds
from .keys import Keys
from .metrics import Metrics
from .openapi import openapi_page
from .problems import Problem
from .settings import Settings
from .work import Registry, Vectors

if TYPE_CHECKING:
    from .._core import Job
    from ..model import Model

__all__ = ["Answer", "Application", "Exchange", "Gone"]

logger = logging.getLogger("qwen3_embed.server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Result = TypeVar("Result")

_THREADS = 4
_SHORT_BYTES = 4096  # a body of so many is tokenised in a millisecond
_SHORT_TEXTS = 16  # so many vectors are written out in a few
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499  # in logs and metrics, as nginx has it; nobody is there to be answered


class Gone(Exception):
    """The client has left."""


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"


class _Route(NamedTuple):
    method: str
    handler: Callable[[Exchange], Awaitable[Answer]]
    problem_body: Callable[[Problem], dict[str, Any]]
    is_open: bool = False


class Exchange:
    """One request on its way, as the routes see it."""

    def __init__(self, application: Application, scope: Scope, receive: Receive) -> None:
        self._application = application
        self._receive = receive
        self._client: Client = scope["extensions"]["client"]
        self.registry = application.registry
        self.settings = application.settings
        self.foreign_ids = application.foreign_ids
        self.started_at = application.started_at
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        known = _REQUEST_ID.fullmatch(given) is not None
        self.request_id = given.decode() if known else application.next_id()
        self.held_bytes = 0
        self.n_texts = 0
        self.about: dict[str, Any] = {}

    async def body(self) -> bytes:
        """The body, within its bounds of size and time."""
        limit = self.settings.max_body_bytes
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared[:20]) > limit:
            raise _too_large(limit)
        parts = []
        try:
            async with asyncio.timeout(self.settings.body_s):
                more = True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    self._application.hold(self, len(part))
                    if self.held_bytes > limit:
                        raise _too_large(limit)
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem(408, f"the body took longer than {self.settings.body_s:.0f} s") from None
        return b"".join(parts)

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What the function returns: at once for a short request, else on a thread."""
        if self.held_bytes <= _SHORT_BYTES and self.n_texts <= _SHORT_TEXTS:
            return function(*arguments)
        return await self.run_apart(function, *arguments)

    async def run_apart(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What the function returns, run on a thread."""
        running = asyncio.get_running_loop().run_in_executor(
            self._application.threads, function, *arguments
        )
        result = await running
        self.check()
        return result

    def check(self) -> None:
        """Raises `Gone` once the client has left."""
        if self._client.has_left:
            raise Gone

    async def finish(self, job: Job) -> None:
        """Returns when the job's rows are written; the client's leaving ends it."""
        client = self._client
        client.on_leave = job.cancel
        try:
            if client.has_left:
                job.cancel()
            await self._application.deliveries.wait(job)
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            client.on_leave = None
        self.check()
        job.wait()

    def json(self, content: bytes) -> Answer:
        """An answer of JSON."""
        return Answer(200, content)

    def count(self, model: str, found: Vectors) -> None:
        """Texts or pairs, for metrics and log."""
        self.about = {"model": model, "n_texts": self.n_texts, "n_tokens": found.n_tokens}
        metrics = self._application.metrics
        metrics.texts.labels(model).observe(self.n_texts)
        metrics.tokens.labels(model).inc(found.n_tokens)
        if found.n_cut:
            metrics.truncated.labels(model).inc(found.n_cut)
        if found.n_cached:
            metrics.cached.labels(model).inc(found.n_cached)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is over {limit} bytes: send fewer texts at a time")


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
        self.foreign_ids = foreign_ids
        models: dict[str, Model] = {**registry.embedders, **registry.rerankers}
        self.metrics = Metrics(models)
        self.started_at = int(time.time())
        self._keys = keys
        self.deliveries = Deliveries(models.values())
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="qwen3_embed server")
        self._ids = count(int.from_bytes(os.urandom(8), "big"))
        self._n_requests = 0
        self._held_bytes = 0
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
        exchange = Exchange(self, scope, receive)
        try:
            answer: Answer | None = await self._answer(scope, route, exchange)
            retry_after_s = None
        except Gone:
            answer = None
            self.metrics.dropped.inc()
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
            self._held_bytes -= exchange.held_bytes
        if answer is not None:
            await _send(send, answer, exchange.request_id, retry_after_s, route)
        name = scope["path"] if route else "none"
        status = answer.status if answer else _CLIENT_LEFT
        taken_s = time.perf_counter() - begin
        self.metrics.requests.labels(name, status).inc()
        self.metrics.seconds.labels(name).observe(taken_s)
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
        if self._n_requests >= self.settings.max_requests:
            raise Problem(
                429,
                f"{self._n_requests} requests are waiting already: come again later",
                code="queue_full",
                retry_after_s=1,
            )
        self._n_requests += 1
        try:
            return await route.handler(exchange)
        finally:
            self._n_requests -= 1

    def next_id(self) -> str:
        """The name of a request in logs and answers."""
        return f"{next(self._ids) & (1 << 64) - 1:016x}"

    def hold(self, exchange: Exchange, n_bytes: int) -> None:
        """Counts bytes of a body against what all of them may have."""
        exchange.held_bytes += n_bytes
        self._held_bytes += n_bytes
        if self._held_bytes > self.settings.max_held_bytes:
            raise Problem(
                429,
                "the requests that are waiting hold too much text: come again later",
                code="queue_full",
                retry_after_s=1,
            )

    async def health(self, exchange: Exchange) -> Answer:
        """GET /health: 503 when the engine is, not only when the server is, out of order."""
        stalled_s = self.deliveries.stalled_s()
        closed = [
            name
            for name, model in {**self.registry.embedders, **self.registry.rerankers}.items()
            if model.info["closed"]
        ]
        reason = self._broken
        if closed:
            reason = f"closed: {', '.join(closed)}"
        elif stalled_s > self.settings.stall_s:
            reason = f"requests wait, and none was finished for {stalled_s:.0f} s"
        content = {"status": "degraded" if reason else "ok", "reason": reason}
        return Answer(503 if reason else 200, msgspec.json.encode(content))

    async def metrics_page(self, exchange: Exchange) -> Answer:
        """GET /metrics."""
        self.metrics.waiting.set(self._n_requests)
        self.metrics.held_bytes.set(self._held_bytes)
        return Answer(200, self.metrics.page(), b"text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, exchange: Exchange) -> Answer:
        """GET /openapi.json."""
        return exchange.json(self._page)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.deliveries.open()
                await send({"type": "lifespan.startup.complete"})
            else:
                self.deliveries.close()
                self.threads.shutdown(wait=False, cancel_futures=True)
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
            "/v1/rerank": _Route("POST", rerank.rerank, openai.problem_body),
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
