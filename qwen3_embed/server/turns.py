"""class Turns: work for the event loop, a few pieces per iteration.

An event loop runs whatever is ready before it looks at its sockets again. When a batch of the
engine ends, a hundred requests are ready at once, and newcomers would wait for all of them. Turns
hands them out in order of arrival, so many at a time that an iteration stays near 2 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]

_LONG_S = 0.002
_MAX_PER_ITERATION = 32


class Turns:
    """Callbacks in order of arrival; the first of an iteration are called at once."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._n_per_iteration = 8
        self._n_given = 0  # in this iteration
        self._begin_s: float | None = None  # of this iteration; None: no turn was given in it

    def add(self, callback: Callable[[], None]) -> None:
        """Calls it in its turn. To be called on the event loop."""
        if self._begin_s is None:
            self._begin_s = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._go_on)
        if self._waiting or self._n_given >= self._n_per_iteration:
            self._waiting.append(callback)
        else:
            self._n_given += 1
            callback()

    def _go_on(self) -> None:
        """Gives the next turns; what the last ones have made ready ran before this."""
        now_s = time.perf_counter()
        assert self._begin_s is not None
        if now_s - self._begin_s > _LONG_S:
            self._n_per_iteration = max(1, self._n_per_iteration // 2)
        elif self._n_per_iteration < _MAX_PER_ITERATION:
            self._n_per_iteration += 1
        self._n_given = min(self._n_per_iteration, len(self._waiting))
        for _ in range(self._n_given):
            self._waiting.popleft()()
        if self._n_given:
            self._begin_s = now_s
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._begin_s = None
