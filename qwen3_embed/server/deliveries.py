"""class Deliveries: requests that wait for jobs of the engines, without a thread for each.

An engine's descriptor becomes readable when jobs are done; the requests that wait for them then
go on in turns. All of it happens on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from .turns import Turns

if TYPE_CHECKING:
    from .._core import Job
    from ..loading.engines import Engines

__all__ = ["Deliveries"]


class Deliveries:
    """The jobs that requests wait for. All methods are called on the event loop.

    Parameters
    ----------
    turns : Turns
        Resumes the requests whose jobs are done.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._fds: dict[Engines, tuple[int, ...]] = {}
        self._waiting: dict[Job, asyncio.Future[None]] = {}
        self._last_s = time.monotonic()

    def listen(self, engines: Engines) -> None:
        """Resumes requests that wait for jobs of these engines from now on."""
        self._fds[engines] = engines.done_fds()
        for fd in self._fds[engines]:
            asyncio.get_running_loop().add_reader(fd, self._deliver, fd)

    def forget(self, engines: Engines) -> None:
        """Stops listening to them."""
        for fd in self._fds.pop(engines, ()):
            asyncio.get_running_loop().remove_reader(fd)

    async def wait(self, job: Job) -> None:
        """Waits until the job is done; `job.wait()` then returns, or raises its error, at once."""
        if job.done():  # before anyone listened for it
            return
        if not self._waiting:
            self._last_s = time.monotonic()
        delivered = asyncio.get_running_loop().create_future()
        self._waiting[job] = delivered
        try:
            await delivered
        finally:
            self._waiting.pop(job, None)

    def stalled_s(self) -> float:
        """Seconds for which jobs have been waiting without any of them finishing."""
        return time.monotonic() - self._last_s if self._waiting else 0.0

    def _deliver(self, fd: int) -> None:
        try:
            os.read(fd, 8)
        except BlockingIOError:
            return
        self._last_s = time.monotonic()
        for job in [job for job in self._waiting if job.done()]:
            self._turns.add(partial(_resume, self._waiting.pop(job)))


def _resume(delivered: asyncio.Future[None]) -> None:
    if not delivered.done():
        delivered.set_result(None)
