"""class Deliveries: requests that wait for jobs of the engines, without a thread for each.

An engine's descriptor becomes readable when jobs are done; then every job that is waited for is
asked. All of it happens on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._core import Job
    from ..model import Model

__all__ = ["Deliveries"]


class Deliveries:
    """The jobs that are waited for.

    Parameters
    ----------
    models : iterable of Model
        Whose jobs they are.
    """

    def __init__(self, models: Iterable[Model]) -> None:
        self._fds = [fd for model in models for fd in model.done_fds()]
        self._waiting: dict[Job, asyncio.Future[None]] = {}
        self._last_s = time.monotonic()

    def open(self) -> None:
        """Begins to listen; to be called on the event loop, as is all else."""
        for fd in self._fds:
            asyncio.get_running_loop().add_reader(fd, self._deliver, fd)

    def close(self) -> None:
        """Listens no more."""
        for fd in self._fds:
            asyncio.get_running_loop().remove_reader(fd)

    async def wait(self, job: Job) -> None:
        """Returns when the job is done; what became of it `job.wait()` then says at once."""
        if job.done():  # before anybody listened for it
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
            delivered = self._waiting.pop(job)
            if not delivered.done():
                delivered.set_result(None)
