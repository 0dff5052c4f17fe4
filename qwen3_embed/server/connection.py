"""class Connection: HTTP/1.1 with one client, over httptools' parser.

A request is admitted as soon as its header is complete and worked on as soon as its body is;
requests that a client pipelines are answered in their order. Every wait for a client is bounded:
for the header, for the body, and between requests. One connection too many takes the place of the
one that has been idle longest, so that idle clients can't keep others out.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import httptools

from .exchange import Answer, Exchange
from .problems import Problem

if TYPE_CHECKING:
    from .application import Application

__all__ = ["Connection", "Connections"]

_KEEP_ALIVE_S = 75  # longer than proxies keep theirs, so that they close first
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {
    each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus
}


class Connections:
    """The open connections of a server.

    Parameters
    ----------
    application : Application
        Answers their requests.

    Attributes
    ----------
    open : set of Connection
    idle : dict of Connection
        Those that wait for a header; the one that has waited longest first.
    is_draining : bool
        True once no connection may begin another request.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}
        self.is_draining = False

    def check_deadlines(self) -> None:
        """Ends the waits that have taken too long."""
        now_s = time.monotonic()
        for connection in [each for each in self.open if each.deadline_s < now_s]:
            connection.expire()

    def drain(self) -> None:
        """Closes idle connections; the others are closed after the answers they wait for."""
        self.is_draining = True
        for connection in list(self.open):
            connection.close_if_idle()

    def abort(self) -> None:
        """Closes all connections; running requests are cancelled."""
        for connection in list(self.open):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client's connection.

    Parameters
    ----------
    connections : Connections
        The server's; this one adds itself while it is open.

    Attributes
    ----------
    deadline_s : float
        When the present wait for the client ends, in the time of time.monotonic.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._application = connections.application
        self._settings = connections.application.settings
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()  # in order of arrival, the first is at work
        self._reading: Exchange | None = None  # the one whose body is being read
        self._task: asyncio.Task[None] | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._in_header = False
        self._can_write = True
        self._reads_on = True  # False: whatever else the client sends is dropped
        self.deadline_s = math.inf

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connections = self._connections
        connections.open.add(self)
        if connections.is_draining:
            self._transport.abort()
        elif len(connections.open) <= self._settings.max_connections:
            self._expect_header()
        elif connections.idle:
            next(iter(connections.idle)).abort()
            self._expect_header()
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open.discard(self)
        self._connections.idle.pop(self, None)
        self.deadline_s = math.inf
        self._reading = None
        running = self._exchanges[0] if self._task is not None else None
        if running is not None:
            running.leave()  # its task records what becomes of it
        for exchange in self._exchanges:
            if exchange is not running:
                self._application.record(exchange, None)
        self._exchanges.clear()

    def data_received(self, data: bytes) -> None:
        if not self._reads_on:
            return
        if not self._in_header and not self._exchanges and self._reading is None:
            self._expect_header()
        self._header_bytes += len(data)
        rest = memoryview(data)
        while rest:
            try:
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                self._decline_upgrade()
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse_rest()
                break
        # A body may follow the header in one piece: only a header without end is refused.
        if self._in_header and self._header_bytes > self._settings.max_header_bytes:
            self._transport.abort()

    def _decline_upgrade(self) -> None:
        """Goes on in HTTP/1.1 where the client has offered another protocol, as Java's does.

        The parser stops behind the header of such a request, so another one reads the body.
        """
        self._parser = httptools.HttpRequestParser(self)
        if self._reading is not None:
            head = b"POST / HTTP/1.1\r\n" + _framing(self._reading.headers) + b"\r\n"
            self._parser.feed_data(head)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self._start_next()

    # ---- httptools' callbacks ----

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        if not self._in_header:  # pipelined
            self._in_header = True
            self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_header = False
        if not self._reads_on or self._reading is not None:
            return
        parser = self._parser
        self._connections.idle.pop(self, None)
        method = parser.get_method().decode("ascii")
        exchange = Exchange(self._application.shared, method, _path(self._url), self._headers)
        # HTTP/1.0 has no agreed way to keep a connection.
        exchange.keeps_open = parser.get_http_version() == "1.1" and parser.should_keep_alive()
        self._exchanges.append(exchange)
        self._reading = exchange
        self.deadline_s = time.monotonic() + self._settings.body_s
        try:
            self._application.admit(exchange)
        except Problem as problem:
            self._refuse(exchange, problem)
            return
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        if exchange is None or exchange.refusal is not None:
            return
        try:
            exchange.take(body)
        except Problem as problem:
            self._refuse(exchange, problem)

    def on_message_complete(self) -> None:
        exchange = self._reading
        if exchange is None or (self._parser.should_upgrade() and _framing(exchange.headers)):
            return
        self._reading = None
        exchange.is_read = True
        self.deadline_s = math.inf
        if exchange.refusal is None:
            self._start_next()
        elif not self._exchanges:
            self._rest()  # it has been answered before its body was read
        if len(self._exchanges) > 1 and not self._transport.is_closing():
            self._transport.pause_reading()

    # ---- requests, in order ----

    def _start_next(self) -> None:
        """Begins the first request if it is complete and nothing hinders it."""
        if not self._exchanges or self._task is not None or not self._can_write:
            return
        exchange = self._exchanges[0]
        if exchange.refusal is not None:
            self._respond(exchange, exchange.refusal)
        elif exchange.is_read and not exchange.is_started:
            exchange.is_started = True
            self._application.shared.turns.add(self._start)

    def _start(self) -> None:
        if self._exchanges:  # else the client has left
            work = self._work(self._exchanges[0])
            self._task = asyncio.get_running_loop().create_task(work)

    async def _work(self, exchange: Exchange) -> None:
        answer = await self._application.answer(exchange)
        self._task = None
        if answer is None or exchange.has_left:
            self._application.record(exchange, None)
        else:
            self._respond(exchange, answer)

    def _respond(self, exchange: Exchange, answer: Answer) -> None:
        """Writes the answer to the first request, and goes on to the next."""
        self._exchanges.popleft()
        closes = not exchange.keeps_open or answer.closes or self._connections.is_draining
        head = _head(answer, exchange.request_id, closes)
        body = b"" if exchange.method == "HEAD" else answer.body
        self._transport.writelines((head, body))
        self._application.record(exchange, answer)
        if closes:
            self._reads_on = False
            self._drop_waiting()
            self._transport.close()
            return
        if len(self._exchanges) == 1:
            self._transport.resume_reading()
        if self._exchanges:
            self._start_next()
        elif self._reading is None:
            self._rest()

    def _refuse(self, exchange: Exchange, problem: Problem) -> None:
        """Answers in its turn; what is left of its body is read and dropped, or not read at all."""
        exchange.refusal = self._application.refuse(exchange, problem)
        exchange.release()
        self._start_next()

    def _refuse_rest(self) -> None:
        """The client doesn't speak HTTP: requests that are complete are answered, then it ends."""
        self._reads_on = False
        problem = Problem(400, "the request is not HTTP/1.1")
        if self._reading is not None:
            self._reading.keeps_open = False
            if self._reading.refusal is None:
                self._refuse(self._reading, problem)
        elif self._exchanges:
            self._exchanges[-1].keeps_open = False
        else:
            exchange = Exchange(self._application.shared, "", "", {})
            exchange.keeps_open = False
            self._exchanges.append(exchange)
            self._refuse(exchange, problem)

    def _drop_waiting(self) -> None:
        for exchange in self._exchanges:
            self._application.record(exchange, None)
        self._exchanges.clear()

    # ---- waits ----

    def _expect_header(self) -> None:
        self._in_header = True
        self._header_bytes = 0
        self._connections.idle.setdefault(self)
        self.deadline_s = time.monotonic() + self._settings.header_s

    def _rest(self) -> None:
        """Waits for the next request."""
        if self._connections.is_draining:
            self._transport.close()
            return
        self._connections.idle[self] = None
        self.deadline_s = time.monotonic() + _KEEP_ALIVE_S

    def expire(self) -> None:
        """The client has taken too long."""
        exchange = self._reading
        self.deadline_s = math.inf
        if exchange is None or exchange.refusal is not None:
            self._transport.abort()
            return
        self._refuse(
            exchange, Problem(408, f"the body took longer than {self._settings.body_s:.0f} s")
        )

    def close_if_idle(self) -> None:
        """Closes the connection unless a request is being read or worked on."""
        if not self._exchanges and self._reading is None:
            self._transport.close()

    def abort(self) -> None:
        """Closes the connection; the running request is cancelled."""
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()


def _path(url: bytes) -> str:
    """The path of a request's target; one that is no path is no route's."""
    try:
        path: bytes = httptools.parse_url(url).path or b""
    except httptools.HttpParserInvalidURLError:
        return ""
    return unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1")


def _framing(headers: dict[bytes, bytes]) -> bytes:
    """The header lines that say how long a body is; empty if there is none."""
    if b"transfer-encoding" in headers:
        return b"transfer-encoding: %b\r\n" % headers[b"transfer-encoding"]
    length = headers.get(b"content-length", b"0")
    return b"" if length == b"0" else b"content-length: %b\r\n" % length


def _head(answer: Answer, request_id: str, closes: bool) -> bytes:
    head = b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
        _STATUS_LINES[answer.status],
        answer.content_type,
        len(answer.body),
        request_id.encode(),
    )
    for header in answer.headers:
        head += b"%b: %b\r\n" % header
    return head + (b"connection: close\r\n\r\n" if closes else b"\r\n")
