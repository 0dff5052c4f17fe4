"""class Connection: uvicorn's HTTP over httptools, with the bounds that uvicorn doesn't have.

uvicorn waits for ever for a first byte and for the end of a header, and reads a header of any
size. Here both have a bound, and so has the number of connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import Settings

__all__ = ["connection_class"]


def connection_class(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol class, with its bounds."""

    class Connection(HttpToolsProtocol):
        _expiry: asyncio.TimerHandle | None = None
        _header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                transport.abort()
            else:
                self._expect_header()

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

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _expect_header(self) -> None:
            self._header_bytes = 0
            self._expiry = self.loop.call_later(settings.header_s, self.transport.abort)

        def _forget(self) -> None:
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None

    return Connection
