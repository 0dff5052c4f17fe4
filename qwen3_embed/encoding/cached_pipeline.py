"""class CachedPipeline: a Pipeline that asks a VectorCache first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..cache import CacheKeys, VectorCache
from ..errors import NonFiniteError
from .pipeline import LengthReport, Pipeline, moved
from .texts import surrogate_error

__all__ = ["CachedPipeline", "CachedRows", "fill_rows"]

_LOOK_UP_TEXTS = 10_000  # a look-up holds its hits twice for a moment


class CachedPipeline:
    """To be used as `Pipeline`: what `feed` finds it writes, what it doesn't it computes.

    Parameters
    ----------
    cache : VectorCache
    keys_of : CacheKeys
    prefix : str
        Put before every text.
    report : LengthReport
    on_done : callable
        Told how many texts have been finished, each time some are.
    open_pipeline : callable
        Given a report, a Pipeline for the texts that the cache lacks.
    """

    def __init__(
        self,
        cache: VectorCache,
        keys_of: CacheKeys,
        prefix: str,
        report: LengthReport,
        on_done: Callable[[int], None],
        open_pipeline: Callable[[LengthReport], Pipeline],
    ) -> None:
        self._cache = cache
        self._keys_of = keys_of
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
        waits: bool = True,
    ) -> int:
        """Writes row i for text i, all before it returns, `waits` or not: 0 jobs are left."""
        for start in range(0, len(texts), _LOOK_UP_TEXTS):
            self._feed_part(
                texts[start : start + _LOOK_UP_TEXTS],
                rows[start : start + _LOOK_UP_TEXTS],
                first_index + start,
            )
        return 0

    def _feed_part(self, texts: list[str], rows: npt.NDArray[np.float32], first_index: int) -> None:
        try:
            keys = self._keys_of.of(self._prefix, texts)
        except UnicodeError:
            raise surrogate_error(self._prefix, texts, first_index) from None

        def compute(
            places: list[int],
        ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
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

        self._report.add(fill_rows(self._cache, keys, rows, compute), first_index)
        self._on_done(len(texts))

    def finish(self, n_left: int = 0) -> None:
        """Nothing: `feed` has waited."""

    def cancel(self) -> None:
        """Nothing: `feed` leaves no job behind."""


class _Lengths(LengthReport):
    """Keeps the lengths, for a report on all texts of the call, found and computed."""

    def __init__(self, n_texts: int) -> None:
        self.lengths = np.zeros(n_texts, np.int64)

    def add(self, lengths: npt.NDArray[np.int64], first_index: int) -> None:
        self.lengths[first_index : first_index + len(lengths)] = lengths


class CachedRows:
    """Rows of some texts: what the cache has is written at once, the rest by `keep`.

    Parameters
    ----------
    cache : VectorCache
    keys : sequence of bytes
        n keys; equal ones are computed once.
    rows : ndarray
        (n, dim) float32, written.

    Attributes
    ----------
    places : list of int
        Indices of the keys whose vectors have to be computed.
    n_tokens : ndarray
        (n,) int64: tokens of each text, before any cut; complete after `keep`.
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
        """Takes what was computed for `places`: (k, dim) float32, and (k,) int64 tokens."""
        self._rows[self._missing] = vectors[self._sources]
        self.n_tokens[self._missing] = lengths[self._sources]
        finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        self._cache.put([self._computed[i] for i in finite], lengths[finite], vectors[finite])


def fill_rows(
    cache: VectorCache,
    keys: Sequence[bytes],
    rows: npt.NDArray[np.float32],
    compute: Callable[[list[int]], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
) -> npt.NDArray[np.int64]:
    """Writes every row, from the cache or computed; returns `CachedRows.n_tokens`.

    `compute`, given indices of keys, returns what `CachedRows.keep` takes.
    """
    found = CachedRows(cache, keys, rows)
    if found.places:
        found.keep(*compute(found.places))
    return found.n_tokens
