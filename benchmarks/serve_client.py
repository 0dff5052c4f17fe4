"""Clients of a server under test, in a process of their own: keep-alive connections that each ask
again as soon as they are answered.

    python -m benchmarks.serve_client < SPEC.json

Light, so that the clients don't limit the server: a response is read up to its content-length and
its first vector is compared by checksum. Imports nothing of the package. The specification has
`port`, `connections`, `first` (which text the first connection begins with), `bodies` (JSON),
`checksums` (crc32 of each body's first vector in base64), `start_s` and `stop_s` (in the time of
time.monotonic), `once` (one request per connection). Prints, for each request, what it asked, when
it began and how long it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import zlib
from typing import Any

import uvloop

_HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


class Client(asyncio.Protocol):
    def __init__(self, run: Run, index: int) -> None:
        self._run = run
        self._index = index
        self._received = bytearray()
        self._needed = 0
        self._begin_s = time.monotonic()
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask(self._begin_s)

    def _ask(self, begin_s: float) -> None:
        self._begin_s = begin_s
        self._transport.write(self._run.requests[self._index])

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._needed:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            self._needed = end + 4 + int(head.partition(b"content-length: ")[2].split(b"\r")[0])
        if len(self._received) < self._needed:
            return
        now_s = time.monotonic()
        self._run.add(self._index, self._begin_s, now_s - self._begin_s, self._received)
        self._received.clear()
        self._needed = 0
        if self._run.once or now_s >= self._run.stop_s:
            self._transport.close()
            self.done.set_result(None)
            return
        self._index = (self._index + 7) % len(self._run.requests)
        self._ask(now_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._run.n_lost += 1
            self.done.set_result(None)


class Run:
    def __init__(self, spec: dict[str, Any]) -> None:
        bodies = [body.encode() for body in spec["bodies"]]
        self.requests = [_HEAD % len(body) + body for body in bodies]
        self.once: bool = spec["once"]
        self.stop_s: float = spec["stop_s"]
        self.asked: list[tuple[int, float, float]] = []
        self.n_wrong = 0
        self.n_lost = 0
        self._checksums: list[int] | None = spec["checksums"]
        self._spec = spec

    def add(self, index: int, begin_s: float, taken_s: float, response: bytearray) -> None:
        self.asked.append((index, begin_s, taken_s))
        if not response.startswith(b"HTTP/1.1 200"):
            self.n_wrong += 1
        elif self._checksums is not None:
            start = response.find(b'"embedding":"') + 13
            found = zlib.crc32(response[start : response.find(b'"', start)])
            self.n_wrong += found != self._checksums[index]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        spec = self._spec
        await asyncio.sleep(spec["start_s"] - time.monotonic())
        clients: list[Client] = []

        async def open_one(i: int) -> None:
            index = (spec["first"] + i * 31) % len(self.requests)
            client = Client(self, index)
            clients.append(client)
            await loop.create_connection(lambda: client, "127.0.0.1", spec["port"])

        await asyncio.gather(*[open_one(i) for i in range(spec["connections"])])
        await asyncio.gather(*[client.done for client in clients])


def main() -> None:
    run = Run(json.load(sys.stdin))
    uvloop.run(run.run())
    json.dump({"asked": run.asked, "n_wrong": run.n_wrong, "n_lost": run.n_lost}, sys.stdout)


if __name__ == "__main__":
    main()
