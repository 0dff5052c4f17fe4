"""class Tokenising: the stage between the event loop and the engine that turns texts into ids.

The texts of all requests that wait are tokenised together on one thread, without the GIL and on
all cores, while the event loop serves sockets and the engine computes earlier texts. Requests
that arrive meanwhile are the next batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from ..loading.tokenizer import TokenBatch, Tokenizer
from .turns import Turns

__all__ = ["LONG_CHARACTERS", "Tokenising", "tokenise_in_parts"]

LONG_CHARACTERS = 1 << 16  # of a request; tokenised in 20 ms by one core

_FEW_CHARACTERS = 1 << 12  # tokenised in a millisecond


class _Waiting(NamedTuple):
    tokenizer: Tokenizer
    texts: list[str]
    n_characters: int
    batch: asyncio.Future[TokenBatch]


class Tokenising:
    """The requests whose texts wait to be tokenised. All methods are called on the event loop.

    Parameters
    ----------
    turns : Turns
        Resumes the requests whose token ids are there.
    has_cores : bool
        Whether the engine leaves cores for the thread. If it computes on the CPU it has them all,
        and what takes a millisecond is faster on the event loop.
    """

    def __init__(self, turns: Turns, has_cores: bool) -> None:
        self._turns = turns
        self._few_characters = 0 if has_cores else _FEW_CHARACTERS
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="qwen3_embed ids")
        self._is_busy = False

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def encode(self, tokenizer: Tokenizer, texts: list[str], n_characters: int) -> TokenBatch:
        """`tokenizer.encode(texts)`, with the texts of other requests."""
        loop = asyncio.get_running_loop()
        batch: asyncio.Future[TokenBatch] = loop.create_future()
        self._waiting.append(_Waiting(tokenizer, texts, n_characters, batch))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._begin)  # what else this iteration brings goes along
        return await batch

    def _begin(self) -> None:
        """Sends the requests that have waited longest to the thread."""
        waiting = self._waiting
        while waiting and waiting[0].batch.cancelled():
            waiting.popleft()
        self._is_busy = bool(waiting)
        if not waiting:
            return
        tokenizer = waiting[0].tokenizer
        taken: list[_Waiting] = []
        n_characters = 0
        while (
            waiting
            and waiting[0].tokenizer is tokenizer
            and (not taken or n_characters + waiting[0].n_characters <= LONG_CHARACTERS)
        ):
            taken.append(waiting.popleft())
            n_characters += taken[-1].n_characters
        requests = [each.texts for each in taken]
        if n_characters <= self._few_characters:
            self._hand_out(taken, _encode(tokenizer, requests))
            self._begin()
            return
        loop = asyncio.get_running_loop()
        done = self._thread.submit(_encode, tokenizer, requests, frees_gil=True)
        done.add_done_callback(lambda found: loop.call_soon_threadsafe(self._end, taken, found))

    def _end(self, taken: list[_Waiting], found: Future[list[TokenBatch | UnicodeError]]) -> None:
        """Hands the ids out and begins the next batch."""
        self._begin()
        error = found.exception()
        results: Sequence[TokenBatch | BaseException]
        results = found.result() if error is None else [error] * len(taken)
        self._hand_out(taken, results)

    def _hand_out(
        self, taken: list[_Waiting], results: Sequence[TokenBatch | BaseException]
    ) -> None:
        for each, result in zip(taken, results, strict=True):
            self._turns.add(partial(_resume, each.batch, result))


def _resume(batch: asyncio.Future[TokenBatch], result: TokenBatch | BaseException) -> None:
    """Lets a request go on with its token ids, or with what went wrong."""
    if batch.done():  # cancelled
        return
    if isinstance(result, BaseException):
        batch.set_exception(result)
    else:
        batch.set_result(result)


def _encode(
    tokenizer: Tokenizer, requests: list[list[str]], *, frees_gil: bool = False
) -> list[TokenBatch | UnicodeError]:
    """Token ids of each request's texts; the error of a request is its own."""
    texts = [text for each in requests for text in each]
    try:
        return list(
            _parts_of(tokenizer.encode(texts, frees_gil=frees_gil), list(map(len, requests)))
        )
    except UnicodeError as error:
        if len(requests) == 1:
            return [error]
    return [result for each in requests for result in _encode(tokenizer, [each])]


def _parts_of(batch: TokenBatch, n_texts: list[int]) -> list[TokenBatch]:
    """The batch cut into parts of so many texts."""
    parts = []
    first = 0
    for n in n_texts:
        cu_seqlens = batch.cu_seqlens[first : first + n + 1]
        tokens = batch.tokens[cu_seqlens[0] : cu_seqlens[-1]]
        lengths = batch.lengths[first : first + n]
        parts.append(TokenBatch(tokens, cu_seqlens - cu_seqlens[0], lengths))
        first += n
    return parts


def tokenise_in_parts(tokenizer: Tokenizer, texts: list[str]) -> TokenBatch:
    """`tokenizer.encode(texts)` of a long request, so that others find free cores in between.

    All calls of `tokenizers` share one pool of threads, which finishes what it has begun first.
    """
    batches = []
    part: list[str] = []
    n_characters = 0
    for text in texts:
        if part and n_characters + len(text) > LONG_CHARACTERS:
            batches.append(tokenizer.encode(part))
            part = []
            n_characters = 0
        part.append(text)
        n_characters += len(text)
    batches.append(tokenizer.encode(part))
    lengths = np.concatenate([batch.lengths for batch in batches])
    cu_seqlens = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(np.concatenate([np.diff(batch.cu_seqlens) for batch in batches]), out=cu_seqlens[1:])
    tokens = np.concatenate([batch.tokens for batch in batches])
    return TokenBatch(tokens, cu_seqlens, lengths)
