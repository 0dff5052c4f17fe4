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
    """Callbacks in order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._n_per_iteration = 8
        self._last_s: float | None = None  # when the last turns were given; None: no turn waits

    def add(self, callback: Callable[[], None]) -> None:
        """Calls it in its turn. To be called on the event loop."""
        self._waiting.append(callback)
        if self._last_s is None:
            self._last_s = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        """Gives turns; what they have made ready runs before the next call of this function."""
        now_s = time.perf_counter()
        assert self._last_s is not None
        if now_s - self._last_s > _LONG_S:
            self._n_per_iteration = max(1, self._n_per_iteration // 2)
        elif self._n_per_iteration < _MAX_PER_ITERATION:
            self._n_per_iteration += 1
        for _ in range(min(self._n_per_iteration, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self._last_s = now_s
            asyncio.get_running_loop().call_soon(self._give)
        else:
            self._last_s = None
