"""class ProjectedJob: a job of the engine whose rows are mapped when it is waited for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._core import Job
from .domain_map import DomainMap
from .whitening import apply_matrix

__all__ = ["ProjectedJob"]


class ProjectedJob:
    """Has the methods of `Job`; the caller's rows are written by the first `wait`.

    Parameters
    ----------
    job : Job
    full : ndarray
        (n, projection.dim) float32 that the job writes.
    out : ndarray
        (n, dim) float32, written.
    projection : DomainMap
    normalize : bool
    """

    def __init__(
        self,
        job: Job,
        full: npt.NDArray[np.float32],
        out: npt.NDArray[np.float32],
        projection: DomainMap,
        normalize: bool,
    ) -> None:
        self._job = job
        self._full: npt.NDArray[np.float32] | None = full
        self._out = out
        self._projection = projection
        self._normalize = normalize

    def wait(self) -> None:
        """As `Job.wait`; then maps at full width, cuts, and normalises. Idempotent."""
        self._job.wait()
        if self._full is not None:
            dim = self._out.shape[1]
            matrix = self._projection.matrix_for(dim)
            apply_matrix(self._full, matrix, dim, normalize=self._normalize, out=self._out)
            self._full = None

    def cancel(self) -> None:
        """As `Job.cancel`."""
        self._job.cancel()

    def done(self) -> bool:
        """As `Job.done`: `wait` then returns at once, but for the map."""
        return self._job.done()
