"""class Connection: uvicorn's HTTP over httptools, with the bounds that uvicorn doesn't have.

uvicorn waits for ever for a first byte and for the end of a header, and reads a header of any
size. Here both have a bound, and so has the number of connections: one too many takes the place of
that which has been idle longest, so that idle clients can't keep others out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import Settings

__all__ = ["Client", "connection_class"]


class Client:
    """The client of a connection; its requests find it in their scope.

    Attributes
    ----------
    has_left : bool
    on_leave : callable or None
        Called when it leaves: one request at a time is at work for it.
    """

    def __init__(self) -> None:
        self.has_left = False
        self.on_leave: Callable[[], None] | None = None

    def leave(self) -> None:
        """It has gone."""
        self.has_left = True
        if self.on_leave is not None:
            self.on_leave()


def connection_class(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class, with its bounds; it knows the idle connections of one server."""
    idle: dict[asyncio.Protocol, asyncio.Transport] = {}  # the one that is idle longest first

    class Connection(HttpToolsProtocol):
        _expiry: asyncio.TimerHandle | None = None
        _header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._client = Client()
            if len(self.connections) <= settings.max_connections:
                self._expect_header()
            elif idle:
                idle.pop(next(iter(idle))).abort()
                self._expect_header()
            else:
                transport.abort()

        def data_received(self, data: bytes) -> None:
            if self._expiry is None and (self.cycle is None or self.cycle.response_complete):
                self._expect_header()
            if self._expiry is not None:
                self._header_bytes += len(data)
            super().data_received(data)
            # A body may follow the header in one piece: only a header without end is refused.
            if self._expiry is not None and self._header_bytes > settings.max_header_bytes:
                self.transport.abort()

        def on_headers_complete(self) -> None:
            self._forget()
            super().on_headers_complete()
            extensions: dict[str, Any] = {"client": self._client}
            self.scope["extensions"] = extensions

        def on_message_complete(self) -> None:
            super().on_message_complete()
            if not self.pipeline:  # read on: only who reads is told that the client leaves
                self.flow.resume_reading()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.pipeline and not self.transport.is_closing():
                idle[self] = self.transport

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            self._client.leave()
            super().connection_lost(exc)

        def _expect_header(self) -> None:
            self._header_bytes = 0
            idle.setdefault(self, self.transport)
            self._expiry = self.loop.call_later(settings.header_s, self.transport.abort)

        def _forget(self) -> None:
            idle.pop(self, None)
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None

    return Connection
