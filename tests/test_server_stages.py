"""The stages between sockets and engine: turns on the event loop, texts tokenised together."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder
from qwen3_embed.server.listening import _Server
from qwen3_embed.server.settings import Settings
from qwen3_embed.server.tokenising import LONG_CHARACTERS, Tokenising, tokenise_in_parts
from qwen3_embed.server.turns import Turns


def same(found: object, expected: object) -> bool:
    return all(
        np.array_equal(getattr(found, name), getattr(expected, name))
        for name in ("tokens", "cu_seqlens", "lengths")
    )


def test_turns_keep_their_order_and_let_others_run() -> None:
    async def run() -> tuple[list[int], int]:
        turns = Turns()
        given: list[int] = []
        for i in range(1000):
            turns.add(partial(given.append, i))
        n_iterations = 0
        while len(given) < 1000:
            await asyncio.sleep(0)
            n_iterations += 1
        return given, n_iterations

    given, n_iterations = asyncio.run(run())
    assert given == list(range(1000))
    assert n_iterations >= 1000 // 32


def test_newcomers_are_accepted_many_per_iteration() -> None:
    """Or each of them would wait for an iteration of its own, in which batches are answered."""

    async def run() -> int:
        application: Any = SimpleNamespace(settings=Settings(), shared=None)
        with socket.create_server(("127.0.0.1", 0), backlog=256) as sock:
            sock.setblocking(False)
            server = _Server(application, sock)
            newcomers = [socket.create_connection(sock.getsockname()) for _ in range(200)]
            asyncio.get_running_loop().add_reader(sock, server._accept)
            n_iterations = 0
            while len(server._connections.open) < len(newcomers):
                await asyncio.sleep(0)
                n_iterations += 1
            asyncio.get_running_loop().remove_reader(sock)
            server._connections.drain()
            for newcomer in newcomers:
                newcomer.close()
            return n_iterations

    assert asyncio.run(asyncio.wait_for(run(), 30)) <= 20  # 32 at a time, and what opens them


@pytest.mark.parametrize("has_cores", [True, False])
def test_requests_that_are_tokenised_together(model: Embedder, has_cores: bool) -> None:
    """Each gets its own ids; one that isn't Unicode, or has left, is no other's trouble."""
    texts = [[f"text {i} " * (i * 3), "x", ""][: i % 3 + 1] for i in range(60)]
    texts[20] = ["well", "lone \ud800 surrogate"]
    tokenizer = model.tokenizer

    async def run() -> list[object]:
        stage = Tokenising(Turns(), has_cores=has_cores)
        tasks = [
            asyncio.create_task(stage.encode(tokenizer, each, sum(map(len, each))))
            for each in texts
        ]
        await asyncio.sleep(0)
        tasks[30].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        again = await stage.encode(tokenizer, ["afterwards"], 10)
        assert same(again, tokenizer.encode(["afterwards"]))
        stage.close()
        return list(found)

    found = asyncio.run(run())
    assert isinstance(found.pop(30), asyncio.CancelledError)
    assert isinstance(found.pop(20), UnicodeError)
    del texts[30], texts[20]
    for each, batch in zip(texts, found, strict=True):
        assert same(batch, tokenizer.encode(each))


def test_long_request_in_parts(model: Embedder) -> None:
    texts = [f"{i} " * (LONG_CHARACTERS // 8) for i in range(9)] + ["", "end"]
    assert same(tokenise_in_parts(model.tokenizer, texts), model.tokenizer.encode(texts))
