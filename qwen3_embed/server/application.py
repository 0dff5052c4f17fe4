"""class Application: takes requests through the table of routes.

Every request goes through the same steps: its path, its key, a place in the queue, its body, its
work, its answer; then metrics and one line of log. A path that isn't in the table doesn't exist,
whatever a Host header says, and without a key only /health is open.
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from ..errors import DeviceError, DeviceMemoryError, InputTooLongError, NonFiniteError
from . import openai
from .cors import CrossOrigin
from .deliveries import Deliveries
from .exchange import Answer, Exchange, Gone, SharedState
from .foreign_ids import ForeignIds
from .idle import IdleModels
from .keys import Keys
from .logs import RequestLog
from .metrics import Metrics
from .openapi import openapi_page
from .problems import Problem
from .registry import Registry
from .routes import Route, no_route, routes_of
from .settings import Settings
from .tokenising import Tokenising
from .turns import Turns

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Application"]

logger = logging.getLogger("qwen3_embed.server")

_THREADS = 4
_CLIENT_LEFT = 499  # in logs and metrics, as in nginx; never sent


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
        self._models: dict[str, Model] = dict(registry.opened())
        self._keys = keys
        turns = Turns()
        deliveries = Deliveries(turns)
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="qwen3_embed server")
        self.shared = SharedState(
            registry,
            settings,
            foreign_ids,
            Metrics(self._models),
            turns,
            deliveries,
            Tokenising(turns, has_cores=all(m.device != "cpu" for m in self._models.values())),
            threads,
            IdleModels(self._models, deliveries, threads, settings.idle_s),
        )
        self._log = RequestLog(logger)
        self._broken: str | None = None
        self._cross_origin = CrossOrigin(settings.cors_origins)
        self._routes = routes_of(registry) | {
            "/health": {"GET": Route(self.health, is_open=True)},
            "/metrics": {"GET": Route(self.metrics_page)},
            "/openapi.json": {"GET": Route(self.openapi)},
        }
        self._page = json.dumps(openapi_page(self._routes)).encode()

    def open(self) -> None:
        """Starts to listen to the engines; to be called on the event loop, as is all else."""
        for model in self._models.values():
            self.shared.deliveries.listen(model.engines)

    def close(self) -> None:
        """Ends the threads and writes the rest of the log."""
        for model in self._models.values():
            self.shared.deliveries.forget(model.engines)
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
        if self._is_preflight(exchange):
            return
        route = self._route(exchange)
        is_open = route is not None and route.is_open
        key = exchange.headers.get(b"authorization", b"")
        if self._keys is not None and not is_open and not self._keys.allow(key):
            found = "the key is not one of this server's" if key else "a key is needed"
            raise Problem(401, f"{found}: Authorization: Bearer KEY", code="invalid_api_key")
        if exchange.path not in self._routes:
            raise no_route(exchange.path, self._routes, self.registry)
        if route is None:
            raise Problem(405, f"expected {self._methods(exchange)}")
        if not is_open:
            exchange.enter()

    async def answer(self, exchange: Exchange) -> Answer | None:
        """The answer to an admitted request whose body is complete; None: its client has left."""
        if self._is_preflight(exchange):
            headers = self._cross_origin.preflight(exchange.headers, self._methods(exchange))
            return Answer(200, b"", headers=tuple(headers))
        route = self._route(exchange)
        assert route is not None
        try:
            return self._for_browsers(exchange, await route.handler(exchange))
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
        shape = exchange.problem_body
        if shape is None:
            routes = self._routes.get(exchange.path, {})
            route = self._route(exchange) or next(iter(routes.values()), None)
            shape = route.problem_body if route else openai.problem_body
        headers: list[tuple[bytes, bytes]] = []
        if problem.retry_after_s is not None:
            headers.append((b"retry-after", str(problem.retry_after_s).encode()))
        if problem.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if problem.status == 405:
            headers.append((b"allow", self._methods(exchange).encode()))
        answer = Answer(
            problem.status,
            msgspec.json.encode(shape(problem)),
            headers=tuple(headers),
            closes=problem.status in (408, 413),  # the rest of the body is not read
        )
        return self._for_browsers(exchange, answer)

    def _route(self, exchange: Exchange) -> Route | None:
        """The route of a request; HEAD is answered as GET, without the body."""
        method = "GET" if exchange.method == "HEAD" else exchange.method
        return self._routes.get(exchange.path, {}).get(method)

    def _methods(self, exchange: Exchange) -> str:
        """The methods of the request's path."""
        methods = [*self._routes[exchange.path]]
        return ", ".join([*methods, "HEAD"] if "GET" in methods else methods)

    def _is_preflight(self, exchange: Exchange) -> bool:
        """True if a browser asks whether its page may send a request, which it does without key."""
        return (
            exchange.method == "OPTIONS"
            and exchange.path in self._routes
            and self._cross_origin.is_preflight(exchange.headers)
        )

    def _for_browsers(self, exchange: Exchange, answer: Answer) -> Answer:
        """The answer with the headers that let a page read it."""
        if b"origin" not in exchange.headers:
            return answer
        headers = self._cross_origin.headers(exchange.headers)
        return answer._replace(headers=(*answer.headers, *headers))

    def record(self, exchange: Exchange, answer: Answer | None) -> None:
        """Ends a request: its place in the queue, metrics, the log. None: its client has left."""
        exchange.release()
        route = self._route(exchange)
        name = exchange.path if exchange.path in self._routes else "none"
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
        """GET /health: 503 if an engine has failed or is stalled."""
        stalled_s = self.shared.deliveries.stalled_s()
        closed = [name for name, model in self._models.items() if model.info["closed"]]
        reason = self._broken
        if closed:
            reason = f"closed: {', '.join(closed)}"
        elif stalled_s > self.settings.stall_s:
            reason = f"requests are waiting, and none has finished for {stalled_s:.0f} s"
        content = {"status": "degraded" if reason else "ok", "reason": reason}
        return Answer(503 if reason else 200, msgspec.json.encode(content))

    async def metrics_page(self, exchange: Exchange) -> Answer:
        """GET /metrics."""
        page = self.shared.metrics.page(self.shared.n_requests, self.shared.held_bytes)
        return Answer(200, page, b"text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, exchange: Exchange) -> Answer:
        """GET /openapi.json."""
        return exchange.json(self._page)


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
