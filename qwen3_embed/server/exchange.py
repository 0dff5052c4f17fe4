"""class Exchange: one request, from the first byte of its body to its answer, as a route sees it.

All requests of a server share one `SharedState`; an exchange is the only way to it for a route.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .connection import Client
from .deliveries import Deliveries
from .foreign_ids import ForeignIds
from .metrics import Metrics
from .problems import Problem
from .registry import Registry
from .settings import Settings

if TYPE_CHECKING:
    from .._core import Job

__all__ = ["Answer", "Exchange", "Gone", "Receive", "Scope", "SharedState", "Usage"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Result = TypeVar("Result")

_SHORT_BYTES = 4096  # a body of this size is tokenised in a millisecond
_SHORT_TEXTS = 16  # this many vectors are serialised in a few milliseconds
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Gone(Exception):
    """The client has closed the connection."""


class Answer(NamedTuple):
    """The response to a request."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"


class Usage(NamedTuple):
    """The cost of a request.

    Attributes
    ----------
    n_tokens : int
        Tokens of all its texts, after truncation.
    n_cut : int
        Texts that were truncated.
    n_cached : int
        Texts whose vectors were in the cache.
    """

    n_tokens: int
    n_cut: int
    n_cached: int


@dataclass(slots=True)
class SharedState:
    """The state that all requests of a server share.

    Attributes
    ----------
    registry : Registry
    settings : Settings
    foreign_ids : ForeignIds or None
        Decoder for token ids in requests to /v1/embeddings; None: they are the model's own.
    metrics : Metrics
    deliveries : Deliveries
    threads : ThreadPoolExecutor
        For work that is too long for the event loop.
    started_at : int
        Unix time in seconds.
    n_requests : int
        Requests that are being read or worked on.
    held_bytes : int
        Size of their bodies.
    """

    registry: Registry
    settings: Settings
    foreign_ids: ForeignIds | None
    metrics: Metrics
    deliveries: Deliveries
    threads: ThreadPoolExecutor
    started_at: int = field(default_factory=lambda: int(time.time()))
    n_requests: int = 0
    held_bytes: int = 0
    _ids: count[int] = field(default_factory=lambda: count(int.from_bytes(os.urandom(8), "big")))

    def next_id(self) -> str:
        """A new request id, for logs and answers."""
        return f"{next(self._ids) & (1 << 64) - 1:016x}"


class Exchange:
    """One request and the answer to it.

    Parameters
    ----------
    shared : SharedState
    scope : dict
        ASGI's description of the request.
    receive : callable
        ASGI's source of the body.

    Attributes
    ----------
    headers : dict of bytes to bytes
    request_id : str
        The client's X-Request-Id if it is well-formed, else a new one.
    held_bytes : int
        Bytes of the body read so far.
    n_texts : int
        Texts or pairs in the request, once known.
    about : dict
        Fields for the log.
    """

    def __init__(self, shared: SharedState, scope: Scope, receive: Receive) -> None:
        self._shared = shared
        self._receive = receive
        self._client: Client = scope["extensions"]["client"]
        self.registry = shared.registry
        self.settings = shared.settings
        self.foreign_ids = shared.foreign_ids
        self.started_at = shared.started_at
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        known = _REQUEST_ID.fullmatch(given) is not None
        self.request_id = given.decode() if known else shared.next_id()
        self.held_bytes = 0
        self.n_texts = 0
        self.about: dict[str, Any] = {}

    async def body(self) -> bytes:
        """Reads the body, within its limits of size and time.

        Raises
        ------
        Problem
            408, 413 or 429.
        Gone
            The client has left.
        """
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
                    self._hold(len(part))
                    if self.held_bytes > limit:
                        raise _too_large(limit)
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem(408, f"the body took longer than {self.settings.body_s:.0f} s") from None
        return b"".join(parts)

    def _hold(self, n_bytes: int) -> None:
        """Counts bytes of the body against the limit of all bodies together."""
        self.held_bytes += n_bytes
        self._shared.held_bytes += n_bytes
        if self._shared.held_bytes > self.settings.max_held_bytes:
            raise Problem(
                429,
                "the requests that are waiting hold too much text: come again later",
                code="queue_full",
                retry_after_s=1,
            )

    def release(self) -> None:
        """Takes the body out of the count of all bodies."""
        self._shared.held_bytes -= self.held_bytes
        self.held_bytes = 0

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls the function: on the event loop for a short request, else on a thread."""
        if self.held_bytes <= _SHORT_BYTES and self.n_texts <= _SHORT_TEXTS:
            return function(*arguments)
        return await self.run_apart(function, *arguments)

    async def run_apart(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls the function on a thread."""
        running = asyncio.get_running_loop().run_in_executor(
            self._shared.threads, function, *arguments
        )
        result = await running
        self.check()
        return result

    def check(self) -> None:
        """Raises `Gone` once the client has left."""
        if self._client.has_left:
            raise Gone

    async def finish(self, job: Job) -> None:
        """Waits until the job's vectors are written; cancels it if the client leaves."""
        client = self._client
        client.on_leave = job.cancel
        try:
            if client.has_left:
                job.cancel()
            await self._shared.deliveries.wait(job)
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            client.on_leave = None
        self.check()
        job.wait()

    def json(self, content: bytes) -> Answer:
        """A successful answer with a JSON body."""
        return Answer(200, content)

    def count(self, model: str, usage: Usage) -> None:
        """Adds the request's texts or pairs to metrics and log."""
        self.about = {"model": model, "n_texts": self.n_texts, "n_tokens": usage.n_tokens}
        metrics = self._shared.metrics
        metrics.texts.labels(model).observe(self.n_texts)
        metrics.tokens.labels(model).inc(usage.n_tokens)
        if usage.n_cut:
            metrics.truncated.labels(model).inc(usage.n_cut)
        if usage.n_cached:
            metrics.cached.labels(model).inc(usage.n_cached)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is over {limit} bytes: send fewer texts at a time")
