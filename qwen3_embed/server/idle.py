"""class IdleModels: frees the memory of models that have no requests, and opens them on demand."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from .deliveries import Deliveries

if TYPE_CHECKING:
    from ..loading.engines import Engines
    from ..model import Model

__all__ = ["IdleModels"]

logger = logging.getLogger("qwen3_embed.server")


class IdleModels:
    """The models of a server, loaded or not. All methods are called on the event loop.

    Parameters
    ----------
    models : mapping of str to Model
    deliveries : Deliveries
        Listens to the engines while they are loaded.
    threads : Executor
        Runs what takes long.
    idle_s : float or None
        Time without requests after which a model is unloaded; None: never.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        deliveries: Deliveries,
        threads: Executor,
        idle_s: float | None,
    ) -> None:
        self._names = {model.engines: name for name, model in models.items()}
        self._deliveries = deliveries
        self._threads = threads
        self._idle_s = idle_s
        self._last_s = dict.fromkeys(self._names, time.monotonic())
        self._changes: dict[Engines, asyncio.Future[None]] = {}  # being loaded or unloaded

    async def load(self, model: Model) -> None:
        """Returns when the model is loaded; until the next `await` it stays so.

        Raises
        ------
        ModelNotFoundError, ModelFileError, DeviceError
            It can't be opened again.
        """
        if self._idle_s is None:
            return
        engines = model.engines
        while engines in self._changes or not engines.is_loaded:
            if engines not in self._changes:
                self._change(engines, engines.reload)
            await asyncio.shield(self._changes[engines])
        self._last_s[engines] = time.monotonic()

    def unload_idle(self) -> None:
        """Unloads the models that have been idle for too long."""
        if self._idle_s is None:
            return
        before_s = time.monotonic() - self._idle_s
        for engines, last_s in self._last_s.items():
            if engines.pending_tokens() > 0:
                self._last_s[engines] = time.monotonic()
            elif last_s < before_s and engines.is_loaded and engines not in self._changes:
                self._deliveries.forget(engines)  # its descriptors may soon be another file's
                self._change(engines, engines.unload)

    def _change(self, engines: Engines, change: Callable[[], None]) -> None:
        begin_s = time.monotonic()
        changing = asyncio.get_running_loop().run_in_executor(self._threads, change)
        self._changes[engines] = changing

        def end(changed: asyncio.Future[None]) -> None:
            del self._changes[engines]
            if changed.cancelled() or changed.exception() is not None:
                return  # whoever waits raises it
            if engines.is_loaded:
                self._deliveries.listen(engines)
            state = "loaded" if engines.is_loaded else "unloaded"
            taken_s = time.monotonic() - begin_s
            logger.info("%s %s in %.2f s", state, self._names[engines], taken_s)

        changing.add_done_callback(end)
