"""The engines of one model, one per device, behind the interface of a single engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from .._core import Engine, Job
from .cores import Cores, usable_cores
from .device import CUDA_PATHS
from .head import HEADS
from .user_cache import cache_folder

if TYPE_CHECKING:
    from ..retrieval.domain_map import DomainMap

__all__ = ["Engines", "open_engines"]


class Engines:
    """Engines that share the texts of every call; each computes the same bits.

    Parameters
    ----------
    engines : sequence of Engine
        At least one; owned from here on.
    threads_from : str
        Where the CPU engine's number of threads comes from.
    open_again : callable, optional
        Opens the same engines, for `reload`.

    Attributes
    ----------
    batch_tokens : int
        Token budget of one forward pass.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        threads_from: str = "num_threads",
        open_again: Callable[[], Sequence[Engine]] | None = None,
    ) -> None:
        self._engines = tuple(engines)
        self._open_again = open_again
        self._threads_from = threads_from
        self.batch_tokens: int = self._engines[0].info["batch_tokens"]
        self._adapters = [(0,) * len(self._engines)]  # each one's numbers in the engines
        self._tensors_again: list[Callable[[], dict[str, npt.NDArray[Any]]]] = []
        self._infos: list[dict[str, Any]] | None = None  # of before `unload`
        self._earlier_counts: Counter[str] = Counter()
        self._projection: DomainMap | None = None

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def info(self) -> dict[str, Any]:
        """The first engine's, with the device and the note of every engine."""
        infos = self._infos or [engine.info for engine in self._engines]
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
        """As `Engine.submit`, on the engine with the fewest pending tokens; then projected."""
        i = 0
        if len(self._engines) > 1:
            pending = [engine.pending_tokens() for engine in self._engines]
            i = pending.index(min(pending))
        number = self._adapters[adapter][i]
        if self._projection is None:
            given = (tokens, cu_seqlens, out, first_row, normalize, number, waits)
            return self._engines[i].submit(*given)
        from ..retrieval.projected_job import ProjectedJob

        n = len(cu_seqlens) - 1
        full = self.rows(n, self._projection.dim)
        job = self._engines[i].submit(tokens, cu_seqlens, full, 0, normalize, number, waits)
        target = out[first_row : first_row + n]
        # It has all of a Job's methods, and that class can't be a base.
        return cast("Job", ProjectedJob(job, full, target, self._projection, normalize))

    def project(self, projection: Any, fingerprint: str, name: str) -> DomainMap:
        """Maps the rows of all jobs from now on, when they are waited for.

        Parameters
        ----------
        projection, fingerprint, name
            As `open_projection` takes them, with its errors.
        """
        from ..retrieval.domain_map import open_projection

        found = open_projection(projection, fingerprint, name)
        self._projection = found if found.is_kept else None
        return found

    def done_fds(self) -> tuple[int, ...]:
        """File descriptors, one per engine, that become readable when jobs are done."""
        return tuple(engine.done_fd() for engine in self._engines)

    def counts(self) -> dict[str, float]:
        """As `Engine.counts`, summed over all engines."""
        counts = Counter(self._earlier_counts)
        if self.is_loaded:
            for engine in self._engines:
                counts.update(engine.counts())
        return dict(counts)

    def pending_tokens(self) -> int:
        """Tokens submitted but not yet computed, over all engines."""
        return sum(engine.pending_tokens() for engine in self._engines) if self.is_loaded else 0

    def add_adapter(
        self,
        tensors: dict[str, npt.NDArray[Any]],
        tensors_again: Callable[[], dict[str, npt.NDArray[Any]]],
    ) -> int:
        """As `Engine.add_adapter`, on every engine; to be called by one thread at a time.

        Heads among the tensors are left out. `tensors_again` makes the same tensors for `reload`.
        If an engine fails, what those before it have taken is unused until they are closed.
        """
        matrices = _without_heads(tensors)
        numbers = tuple(engine.add_adapter(matrices) for engine in self._engines)
        self._adapters.append(numbers)
        self._tensors_again.append(tensors_again)
        return len(self._adapters) - 1

    @property
    def is_loaded(self) -> bool:
        """False between `unload` and `reload`."""
        return self._infos is None

    def unload(self) -> None:
        """Frees the engines' memory until `reload`; `info` and `counts` stay as they are."""
        self._earlier_counts = Counter(self.counts())
        self._infos = [engine.info for engine in self._engines]
        self.close()

    def reload(self) -> None:
        """Opens the engines again, with their adapters.

        Raises
        ------
        ModelNotFoundError, ModelFileError, DeviceError
            As at first: files or device have changed.
        """
        assert self._open_again is not None
        engines = tuple(self._open_again())
        try:
            for tensors_again in self._tensors_again:
                matrices = _without_heads(tensors_again())
                for engine in engines:
                    engine.add_adapter(matrices)
        except BaseException:
            for engine in engines:
                engine.close()
            raise
        self._engines = engines
        self._infos = None

    def measure(self) -> tuple[float, float]:
        """Peak (FLOP/s, bytes/s) of all devices together."""
        peaks = [engine.measure() for engine in self._engines]
        return sum(flops for flops, _ in peaks), sum(rate for _, rate in peaks)

    def close(self) -> None:
        """Closes all engines. Idempotent."""
        for engine in self._engines:
            engine.close()


def _without_heads(tensors: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """A reranker's head is not the engine's to compute."""
    return {name: tensor for name, tensor in tensors.items() if name not in HEADS}


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

    def open_all() -> list[Engine]:
        if len(devices) == 1:
            return [open_engine(devices[0])]
        with ThreadPoolExecutor(len(devices)) as pool:
            opening = [pool.submit(open_engine, device) for device in devices]
        failures = [future for future in opening if future.exception() is not None]
        if failures:
            for future in opening:
                if future not in failures:
                    future.result().close()
            failures[0].result()
        return [future.result() for future in opening]

    return Engines(open_all(), reason, open_all)
