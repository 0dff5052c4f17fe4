"""The engines of one model, one per device, behind the interface of a single engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from .._core import Engine, Job
from .cores import Cores, usable_cores
from .device import CUDA_PATHS
from .user_cache import cache_folder

__all__ = ["Engines", "open_engines"]


class Engines:
    """Engines that share the texts of every call; each computes the same bits.

    Parameters
    ----------
    engines : sequence of Engine
        At least one; owned from here on.
    threads_from : str
        Where the CPU engine's number of threads comes from.

    Attributes
    ----------
    batch_tokens : int
        Token budget of one forward pass.
    """

    def __init__(self, engines: Sequence[Engine], threads_from: str = "num_threads") -> None:
        self._engines = tuple(engines)
        self._threads_from = threads_from
        self.batch_tokens: int = self._engines[0].info["batch_tokens"]
        self._adapters = [(0,) * len(self._engines)]  # each one's numbers in the engines

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def info(self) -> dict[str, Any]:
        """The first engine's, with the device and the note of every engine."""
        infos = [engine.info for engine in self._engines]
        devices = ",".join(info["device"] for info in infos)
        notes = "; ".join(f"{info['device']}: {info['note']}" for info in infos if info["note"])
        return infos[0] | {
            "device": devices,
            "note": notes,
            "threads_from": self._threads_from,
        }

    def rows(self, n: int, dim: int) -> npt.NDArray[np.float32]:
        """A new (n, dim) array for any of the engines to write."""
        self.check_open()
        return self._engines[0].rows(n, dim)

    def check_open(self) -> None:
        """Raises ValueError once they are closed."""
        if self._engines[0].info["closed"]:
            raise ValueError("the model is closed: open it again")

    def submit(
        self,
        tokens: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        out: npt.NDArray[np.float32],
        first_row: int,
        normalize: bool,
        adapter: int = 0,
        waits: bool = False,
    ) -> Job:
        """As `Engine.submit`, on the engine with the fewest pending tokens."""
        i = 0
        if len(self._engines) > 1:
            pending = [engine.pending_tokens() for engine in self._engines]
            i = pending.index(min(pending))
        number = self._adapters[adapter][i]
        return self._engines[i].submit(tokens, cu_seqlens, out, first_row, normalize, number, waits)

    def done_fds(self) -> tuple[int, ...]:
        """File descriptors, one per engine, that become readable when jobs are done."""
        return tuple(engine.done_fd() for engine in self._engines)

    def counts(self) -> dict[str, float]:
        """As `Engine.counts`, summed over all engines."""
        counts = [engine.counts() for engine in self._engines]
        return {name: sum(each[name] for each in counts) for name in counts[0]}

    def pending_tokens(self) -> int:
        """Tokens submitted but not yet computed, over all engines."""
        return sum(engine.pending_tokens() for engine in self._engines)

    def add_adapter(self, tensors: dict[str, npt.NDArray[Any]]) -> int:
        """As `Engine.add_adapter`, on every engine; to be called by one thread at a time.

        If one fails, what the engines before it have taken is unused until they are closed.
        """
        numbers = tuple(engine.add_adapter(tensors) for engine in self._engines)
        self._adapters.append(numbers)
        return len(self._adapters) - 1

    def measure(self) -> tuple[float, float]:
        """Peak (FLOP/s, bytes/s) of all devices together."""
        peaks = [engine.measure() for engine in self._engines]
        return sum(flops for flops, _ in peaks), sum(rate for _, rate in peaks)

    def close(self) -> None:
        """Closes all engines. Idempotent."""
        for engine in self._engines:
            engine.close()


def open_engines(
    paths: Sequence[str],
    config: dict[str, Any],
    *,
    devices: Sequence[str],
    num_threads: int | None,
    **options: Any,
) -> Engines:
    """Opens one engine per device, in parallel; all or none.

    Parameters
    ----------
    paths, config, **options
        As `Engine` takes them.
    devices : sequence of str
        As `resolve_device` gives them.
    num_threads : int or None
        Of the CPU engine; None: `usable_cores`.
    """
    library, cublas_folder = CUDA_PATHS
    cores = usable_cores() if num_threads is None else Cores(num_threads, "num_threads")
    reason = cores.reason if devices == ("cpu",) else "the GPU computes"

    def open_engine(device: str) -> Engine:
        return Engine(
            paths,
            config,
            device=device,
            cuda_library=library,
            cublas_folder=cublas_folder,
            cache_folder=str(cache_folder("plans")),
            num_threads=cores.n,
            **options,
        )

    if len(devices) == 1:
        return Engines([open_engine(devices[0])], reason)
    with ThreadPoolExecutor(len(devices)) as pool:
        opening = [pool.submit(open_engine, device) for device in devices]
    failures = [future for future in opening if future.exception() is not None]
    if failures:
        for future in opening:
            if future not in failures:
                future.result().close()
        failures[0].result()
    return Engines([future.result() for future in opening], reason)
