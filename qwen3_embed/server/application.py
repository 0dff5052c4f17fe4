"""class Application: a table of a dozen routes.

Every request goes through the same steps: its path, its key, a place in the queue, its body, its
work, its answer; then metrics and one line of log. A path that isn't in the table doesn't exist,
whatever a Host header says, and without a key only /health is open.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import DeviceError, DeviceMemoryError, InputTooLongError, NonFiniteError
from . import cohere, openai, tei
from .deliveries import Deliveries
from .exchange import Answer, Exchange, Gone, SharedState
from .foreign_ids import ForeignIds
from .keys import Keys
from .logs import RequestLog
from .metrics import Metrics
from .openapi import openapi_page
from .problems import Problem
from .registry import Registry
from .settings import Settings
from .tokenising import Tokenising
from .turns import Turns

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Application"]

logger = logging.getLogger("qwen3_embed.server")

_THREADS = 4
_CLIENT_LEFT = 499  # in logs and metrics, as nginx has it; nobody is there to be answered


class _Route(NamedTuple):
    method: str
    handler: Callable[[Exchange], Awaitable[Answer]]
    problem_body: Callable[[Problem], dict[str, Any]]
    is_open: bool = False


class Application:
    """The routes of a server, and the state that its requests share.

    Parameters
    ----------
    registry : Registry
    keys : Keys or None
        None: no key is required.
    settings : Settings
    foreign_ids : ForeignIds or None
        Decoder for token ids in requests to /v1/embeddings; None: they are the model's own.
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
        turns = Turns()
        self.shared = SharedState(
            registry,
            settings,
            foreign_ids,
            Metrics(self._models),
            turns,
            Deliveries(turns),
            Tokenising(turns),
            ThreadPoolExecutor(_THREADS, thread_name_prefix="qwen3_embed server"),
        )
        self._log = RequestLog(logger)
        self._broken: str | None = None
        self._routes = _routes(registry) | {
            "/health": _Route("GET", self.health, openai.problem_body, True),
            "/metrics": _Route("GET", self.metrics_page, openai.problem_body),
            "/openapi.json": _Route("GET", self.openapi, openai.problem_body),
        }
        self._page = json.dumps(openapi_page(set(self._routes))).encode()

    def open(self) -> None:
        """Starts to listen to the engines; to be called on the event loop, as is all else."""
        self.shared.deliveries.open(self._models.values())

    def close(self) -> None:
        """Ends the threads and writes the rest of the log."""
        self.shared.deliveries.close()
        self.shared.tokenising.close()
        self.shared.threads.shutdown(wait=False, cancel_futures=True)
        self._log.flush()

    def admit(self, exchange: Exchange) -> None:
        """Checks a request's path, key and method, and gives it a place in the queue.

        Raises
        ------
        Problem
            401, 404, 405, 413 or 429.
        """
        route = self._routes.get(exchange.path)
        is_open = route is not None and route.is_open
        key = exchange.headers.get(b"authorization", b"")
        if self._keys is not None and not is_open and not self._keys.allow(key):
            raise Problem(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        if route is None:
            raise Problem(404, "no such route; GET /openapi.json lists them")
        if ("GET" if exchange.method == "HEAD" else exchange.method) != route.method:
            raise Problem(405, f"expected {route.method}")
        if not is_open:
            exchange.enter()

    async def answer(self, exchange: Exchange) -> Answer | None:
        """The answer to an admitted request whose body is complete; None: its client has left."""
        try:
            return await self._routes[exchange.path].handler(exchange)
        except Gone:
            return None
        except Exception as error:
            return self.refuse(exchange, error)

    def refuse(self, exchange: Exchange, error: Exception) -> Answer:
        """The answer to a request that is refused or has failed."""
        problem = _problem_of(error)
        if isinstance(error, DeviceError) and not isinstance(error, DeviceMemoryError):
            self._broken = str(error)
        if problem.status >= 500:
            logger.error("failed", exc_info=error, extra={"request_id": exchange.request_id})
        route = self._routes.get(exchange.path)
        shape = route.problem_body if route else openai.problem_body
        headers: list[tuple[bytes, bytes]] = []
        if problem.retry_after_s is not None:
            headers.append((b"retry-after", str(problem.retry_after_s).encode()))
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if problem.status == 405 and route is not None:
            headers.append((b"allow", route.method.encode()))
        return Answer(
            problem.status,
            msgspec.json.encode(shape(problem)),
            headers=tuple(headers),
            closes=problem.status in (408, 413),  # the rest of the body is not read
        )

    def record(self, exchange: Exchange, answer: Answer | None) -> None:
        """Ends a request: its place in the queue, metrics, the log. None: its client has left."""
        exchange.release()
        route = self._routes.get(exchange.path)
        name = exchange.path if route else "none"
        status = _CLIENT_LEFT if answer is None else answer.status
        taken_s = time.perf_counter() - exchange.begin_s
        self.shared.metrics.record(name, status, taken_s)
        if answer is None:
            self.shared.metrics.n_dropped += 1
        if self._log.is_on and not (route and route.is_open):
            self._log.add(
                {
                    "request_id": exchange.request_id,
                    "route": name,
                    "status": status,
                    "ms": round(taken_s * 1000, 2),
                    **exchange.about,
                }
            )

    async def health(self, exchange: Exchange) -> Answer:
        """GET /health: 503 when the engine is, not only when the server is, out of order."""
        stalled_s = self.shared.deliveries.stalled_s()
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
        page = self.shared.metrics.page(self.shared.n_requests, self.shared.held_bytes)
        return Answer(200, page, b"text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, exchange: Exchange) -> Answer:
        """GET /openapi.json."""
        return exchange.json(self._page)


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
