"""Fairness: connections beside each other, long texts. Newcomers: test_server_stages.py."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ModelMaker

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder
from tests.support.served import Served


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    served = Served("--model", str(folder), "--log-level", "warning")
    yield served
    served.stop()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> float:
    """Seconds until the answer."""
    body = json.dumps({"inputs": text}).encode()
    begin = time.perf_counter()
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    received = await reader.readuntil(b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200"), received
    await reader.readexactly(int(received.partition(b"content-length: ")[2].split(b"\r")[0]))
    return time.perf_counter() - begin


async def ask_on(port: int, until_s: float, text: str) -> list[float]:
    """Opens a connection and asks one request after another; the first includes connecting."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await ask(reader, writer, text)
    taken = [time.perf_counter() - begin]
    while time.perf_counter() < until_s:
        taken.append(await ask(reader, writer, text))
    writer.close()
    return taken


def test_connections_are_served_alike(server: Served) -> None:
    """None of 256 starves: the slowest requests of a run are near the median."""

    async def run() -> list[list[float]]:
        until_s = time.perf_counter() + 1.8
        each = [ask_on(server.port, until_s, f"text {i} ") for i in range(256)]
        return await asyncio.gather(*each)

    found = asyncio.run(run())
    ordered = sorted(seconds for taken in found for seconds in taken[1:])
    assert ordered[len(ordered) * 99 // 100] <= 3 * ordered[len(ordered) // 2]
    counts = sorted(map(len, found))
    assert counts[0] >= counts[-1] / 3


def test_queries_beside_long_texts(models: ModelMaker) -> None:
    """A query waits for one long text at most, however many wait in line."""
    folder = models("tiny128")
    long = "word " * 250
    options = ["--threads", "1", "--batch-tokens", "256", "--log-level", "warning"]
    with Embedder(folder, num_threads=1, batch_tokens=256, device="cpu") as model:
        model.encode("a")
        begin = time.perf_counter()
        model.encode(long)
        pass_s = time.perf_counter() - begin
    served = Served("--model", str(folder), "--device", "cpu", *options)

    async def run() -> list[float]:
        until_s = time.perf_counter() + 8 * pass_s
        streams = [asyncio.create_task(ask_on(served.port, until_s, long)) for _ in range(6)]
        await asyncio.sleep(pass_s / 2)
        queries = await ask_on(served.port, until_s - pass_s, "a query")
        await asyncio.gather(*streams)
        return queries

    try:
        queries = asyncio.run(run())
    finally:
        served.stop()
    assert statistics.median(queries) <= 2 * pass_s
