"""class CachedPipeline: a Pipeline that looks texts up in a VectorCache first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..cache import VectorCache
from ..errors import NonFiniteError
from .pipeline import Pipeline, moved
from .texts import surrogate_error
from .truncation import LengthReport

__all__ = ["CachedPipeline", "CachedRows", "Compute"]

Compute = Callable[[list[int]], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]
"""Given indices of k texts: their (k, dim) float32 vectors, and (k,) int64 tokens of each before
truncation."""

_LOOK_UP_TEXTS = 10_000  # a look-up briefly holds its hits twice


class CachedPipeline:
    """Has the interface of `Pipeline`; `feed` computes only the texts that the cache lacks.

    Parameters
    ----------
    look_up : callable
        Given texts and the rows to write, returns their `CachedRows`.
    prefix : str
        Put before every text.
    report : LengthReport
    on_done : callable
        Called with the number of texts just finished.
    open_pipeline : callable
        Given a report, returns a Pipeline for the texts that the cache lacks.
    """

    def __init__(
        self,
        look_up: Callable[[list[str], npt.NDArray[np.float32]], CachedRows],
        prefix: str,
        report: LengthReport,
        on_done: Callable[[int], None],
        open_pipeline: Callable[[LengthReport], Pipeline],
    ) -> None:
        self._look_up = look_up
        self._prefix = prefix
        self._report = report
        self._on_done = on_done
        self._open_pipeline = open_pipeline

    def feed(
        self,
        texts: list[str],
        rows: npt.NDArray[np.float32],
        first_index: int = 0,
        *,
        waits: bool = False,
    ) -> int:
        """Writes row i for text i before it returns, `waits` or not; returns 0 pending jobs."""
        for start in range(0, len(texts), _LOOK_UP_TEXTS):
            self._feed_part(
                texts[start : start + _LOOK_UP_TEXTS],
                rows[start : start + _LOOK_UP_TEXTS],
                first_index + start,
            )
        return 0

    def _feed_part(self, texts: list[str], rows: npt.NDArray[np.float32], first_index: int) -> None:
        try:
            found = self._look_up(texts, rows)
        except UnicodeError:
            raise surrogate_error(self._prefix, texts, first_index) from None

        def compute(places: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
            fresh = np.empty((len(places), rows.shape[1]), np.float32)
            lengths = _Lengths(len(places))
            pipeline = self._open_pipeline(lengths)
            try:
                pipeline.feed([texts[i] for i in places], fresh, waits=True)
                pipeline.finish()
            except NonFiniteError as error:
                raise moved(error, first_index + places[error.index]) from error
            finally:
                pipeline.cancel()
            return fresh, lengths.lengths

        self._report.add(found.fill(compute), first_index)
        self._on_done(len(texts))

    def finish(self, n_left: int = 0) -> None:
        """Does nothing: `feed` has waited."""

    def cancel(self) -> None:
        """Does nothing: `feed` leaves no job pending."""


class _Lengths(LengthReport):
    """Keeps the lengths, so that one report covers cached and computed texts."""

    def __init__(self, n_texts: int) -> None:
        self.lengths = np.zeros(n_texts, np.int64)

    def add(self, lengths: npt.NDArray[np.int64], first_index: int) -> None:
        self.lengths[first_index : first_index + len(lengths)] = lengths


class CachedRows:
    """The vectors of some texts: those in the cache are written at once, the others by `keep`.

    Parameters
    ----------
    cache : VectorCache
    keys : sequence of bytes
        n keys, one per text; texts with equal keys are computed once.
    rows : ndarray
        (n, dim) float32, written.

    Attributes
    ----------
    places : list of int
        Indices of the texts whose vectors have to be computed.
    n_tokens : ndarray
        (n,) int64: tokens of each text before truncation; complete after `keep`.
    """

    def __init__(
        self, cache: VectorCache, keys: Sequence[bytes], rows: npt.NDArray[np.float32]
    ) -> None:
        self._cache = cache
        self._rows = rows
        hits = cache.get(keys, rows.shape[1])
        rows[hits.indices] = hits.vectors
        self.n_tokens = np.zeros(len(keys), np.int64)
        self.n_tokens[hits.indices] = hits.n_tokens
        missing = np.ones(len(keys), bool)
        missing[hits.indices] = False
        firsts: dict[bytes, int] = {}  # a key to its place among the computed
        self._missing = np.flatnonzero(missing).tolist()
        self._sources = [firsts.setdefault(keys[i], len(firsts)) for i in self._missing]
        self._computed = list(firsts)
        self.places = [0] * len(firsts)
        for place, source in zip(reversed(self._missing), reversed(self._sources), strict=True):
            self.places[source] = place

    def keep(self, vectors: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> None:
        """Writes the vectors computed for `places`, and adds those that are finite to the cache.

        Parameters
        ----------
        vectors : ndarray
            (k, dim) float32, one per place.
        lengths : ndarray
            (k,) int64: tokens of each text before truncation.
        """
        self._rows[self._missing] = vectors[self._sources]
        self.n_tokens[self._missing] = lengths[self._sources]
        finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        self._cache.put([self._computed[i] for i in finite], lengths[finite], vectors[finite])

    def fill(self, compute: Compute) -> npt.NDArray[np.int64]:
        """Computes and keeps whatever is missing; returns `n_tokens`."""
        if self.places:
            self.keep(*compute(self.places))
        return self.n_tokens
