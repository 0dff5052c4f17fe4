"""class Exchange: one request, from its header to its answer, as a route sees it.

All requests of a server share one `SharedState`; an exchange is the only way to it for a route.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from .deliveries import Deliveries
from .foreign_ids import ForeignIds
from .idle import IdleModels
from .metrics import Metrics
from .problems import Problem
from .registry import Registry
from .settings import Settings
from .tokenising import LONG_CHARACTERS, Tokenising, tokenise_in_parts
from .turns import Turns

if TYPE_CHECKING:
    from .._core import Job
    from ..loading.engines import Engines
    from ..loading.tokenizer import TokenBatch
    from ..model import Model

__all__ = ["Answer", "Exchange", "Gone", "SharedState", "Usage"]

Result = TypeVar("Result")

_NO_TURN = nullcontext()

_SHORT_BYTES = 4096  # a body of this size is tokenised in a millisecond
_SHORT_TEXTS = 16  # this many vectors are serialised in a few milliseconds
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(rb"[A-Za-z0-9.-]{1,255}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")


class Gone(Exception):
    """The client has closed the connection."""


class Answer(NamedTuple):
    """The response to a request; `closes` ends the connection after it."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False


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
    turns : Turns
    deliveries : Deliveries
    tokenising : Tokenising
    threads : ThreadPoolExecutor
        For work that is too long for the event loop.
    idle_models : IdleModels
    long_turns : dict of Engines to Semaphore
        For batches with a very long text.
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
    turns: Turns
    deliveries: Deliveries
    tokenising: Tokenising
    threads: ThreadPoolExecutor
    idle_models: IdleModels
    long_turns: dict[Engines, asyncio.Semaphore] = field(default_factory=dict)
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
    method, path : str
        The path is percent-decoded and has no query.
    headers : dict of bytes to bytes
        Names in lower case.

    Attributes
    ----------
    request_id : str
        The client's X-Request-Id if it is well-formed, else a new one.
    begin_s : float
        Time at which its header was complete, by time.perf_counter.
    held_bytes : int
        Bytes of the body read so far.
    n_texts : int
        Texts or pairs in the request, once known.
    about : dict
        Fields for the log.
    is_read, is_started : bool
        True once its body is complete; once work on it has begun.
    keeps_open : bool
        True if the client may send another request on the connection.
    refusal : Answer or None
        The answer, where the request was refused before any work.
    has_left : bool
        True once the client has closed the connection.
    problem_body : callable or None
        The form of errors, where the body and not the route decides it.
    read_s, submitted_s, done_s : float
        When work on it began, its latest job was submitted, and that was done.
    """

    def __init__(
        self, shared: SharedState, method: str, path: str, headers: dict[bytes, bytes]
    ) -> None:
        self._shared = shared
        self._parts: list[bytes] = []
        self._is_counted = False
        self._on_leave: Callable[[], None] | None = None
        self.method = method
        self.path = path
        self.headers = headers
        self.registry = shared.registry
        self.settings = shared.settings
        self.foreign_ids = shared.foreign_ids
        self.started_at = shared.started_at
        given = headers.get(b"x-request-id")
        known = given is not None and _REQUEST_ID.fullmatch(given) is not None
        self.request_id = given.decode() if given and known else shared.next_id()
        self.begin_s = time.perf_counter()
        self.held_bytes = 0
        self.n_texts = 0
        self.about: dict[str, Any] = {}
        self.is_read = False
        self.is_started = False
        self.keeps_open = True
        self.refusal: Answer | None = None
        self.has_left = False
        self.problem_body: Callable[[Problem], dict[str, Any]] | None = None
        self.read_s = self.submitted_s = self.done_s = self.begin_s

    @property
    def url(self) -> str:
        """The server's URL as the client has called it."""
        host = self.headers.get(b"host", b"")
        return f"http://{host.decode() if _HOST.fullmatch(host) else 'localhost'}"

    def enter(self) -> None:
        """Takes a place in the queue; Problem 413, 415 or 429 if there is none for it."""
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem(
                415,
                "the body has a content-encoding, expected none: send it uncompressed, without "
                "that header",
                code="unsupported_content_encoding",
            )
        declared = self.headers.get(b"content-length", b"0")
        if int(declared[:20]) > self.settings.max_body_bytes:
            raise _too_large(self.settings.max_body_bytes)
        n_requests = self._shared.n_requests
        if n_requests >= self.settings.max_requests:
            raise Problem(
                429,
                f"{n_requests} requests are waiting already: come again later",
                code="queue_full",
                retry_after_s=1,
            )
        self._shared.n_requests += 1
        self._is_counted = True

    def take(self, part: bytes) -> None:
        """Appends bytes to the body; Problem 413 or 429 if it, or all bodies, are too large."""
        self.held_bytes += len(part)
        self._shared.held_bytes += len(part)
        if self.held_bytes > self.settings.max_body_bytes:
            raise _too_large(self.settings.max_body_bytes)
        if self._shared.held_bytes > self.settings.max_held_bytes:
            raise Problem(
                429,
                "the requests that are waiting hold too much text: come again later",
                code="queue_full",
                retry_after_s=1,
            )
        self._parts.append(part)

    async def body(self) -> bytes:
        """The complete body."""
        self.read_s = self.submitted_s = self.done_s = time.perf_counter()
        return b"".join(self._parts)

    def release(self) -> None:
        """Leaves the queue and frees the body. Idempotent."""
        self._shared.held_bytes -= self.held_bytes
        self._shared.n_requests -= self._is_counted
        self.held_bytes = 0
        self._is_counted = False
        self._parts.clear()

    def leave(self) -> None:
        """The client has closed the connection."""
        self.has_left = True
        if self._on_leave is not None:
            self._on_leave()

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

    async def tokenise(self, model: Model, texts: list[str]) -> TokenBatch:
        """Token ids of texts: at once for a short request that is alone, else in the stage's turn.

        Raises
        ------
        UnicodeError
            A text contains a lone surrogate.
        Gone
            The client has left.
        """
        shared = self._shared
        n_characters = sum(map(len, texts))
        if n_characters > LONG_CHARACTERS:
            return await self.run_apart(tokenise_in_parts, model.tokenizer, texts)
        if shared.n_requests == 1 and n_characters <= _SHORT_BYTES:
            return model.tokenizer.encode(texts)
        batch = await shared.tokenising.encode(model.tokenizer, texts, n_characters)
        self.check()
        return batch

    async def load(self, model: Model) -> None:
        """Returns when the model is loaded, which it is unless it has been idle."""
        await self._shared.idle_models.load(model)
        self.check()

    def turn(self, model: Model, batch: TokenBatch) -> AbstractAsyncContextManager[None]:
        """Lets a batch with a very long text wait until no other such batch is in the engine.

        The engine takes jobs in order: shorter ones then wait for one long text, not for all.
        """
        room = model.engines.batch_tokens // 2
        if len(batch.tokens) <= room or int(np.diff(batch.cu_seqlens).max()) <= room:
            return _NO_TURN
        turns = self._shared.long_turns
        return turns.setdefault(model.engines, asyncio.Semaphore(len(model.engines)))

    def check(self) -> None:
        """Raises `Gone` once the client has left."""
        if self.has_left:
            raise Gone

    async def finish(self, job: Job) -> None:
        """Waits until the job's vectors are written; cancels it if the client leaves."""
        self.submitted_s = time.perf_counter()
        self._on_leave = job.cancel
        try:
            if self.has_left:
                job.cancel()
            await self._shared.deliveries.wait(job)
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            self._on_leave = None
        self.done_s = time.perf_counter()
        self.check()
        job.wait()

    def json(self, content: bytes) -> Answer:
        """A successful answer with a JSON body."""
        return Answer(200, content)

    def count(self, model: str, usage: Usage) -> None:
        """Adds the request's texts or pairs to metrics and log."""
        self.about = {"model": model, "n_texts": self.n_texts, "n_tokens": usage.n_tokens}
        self._shared.metrics.count(model, self.n_texts, usage.n_tokens, usage.n_cut, usage.n_cached)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is over {limit} bytes: send fewer texts at a time")
