"""class Distinct: which texts have been seen, and their numbers, in 24 bytes per text.

Sorted runs of hashes, merged as a binary counter carries: every text is merged log2(n) times,
and a look-up asks log2(n) runs with one vectorised search each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DIGEST_BYTES", "Distinct"]

DIGEST_BYTES = 16
_MAX_TEXTS = 1 << 23


class _Run(NamedTuple):
    high: npt.NDArray[np.uint64]  # (n,), sorted
    low: npt.NDArray[np.uint64]  # (n,)
    numbers: npt.NDArray[np.int64]  # (n,)


class Distinct:
    """Numbers distinct texts in the order in which they come.

    Past `max_texts` of them the oldest are forgotten: such a text gets a new number when it
    comes again.
    """

    def __init__(self, max_texts: int = _MAX_TEXTS) -> None:
        self._max_texts = max_texts
        self._runs: list[_Run] = []
        self.n_texts = 0

    def add(self, digests: list[bytes]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Numbers the texts with these digests.

        Parameters
        ----------
        digests : list of bytes
            n digests of DIGEST_BYTES each.

        Returns
        -------
        numbers : ndarray
            (n,) int64.
        new : list of int
            Indices of the texts that are seen for the first time; their numbers count up.
        """
        firsts: dict[bytes, int] = {}
        places = [firsts.setdefault(digest, len(firsts)) for digest in digests]
        words = np.frombuffer(b"".join(firsts), ">u8").reshape(-1, 2).astype(np.uint64)
        high, low = words[:, 0], words[:, 1]
        numbers = np.full(len(firsts), -1, np.int64)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run.high, high), len(run.high) - 1)
            found = (run.high[at] == high) & (run.low[at] == low)
            numbers[found] = run.numbers[at[found]]
        unseen = np.flatnonzero(numbers < 0)
        numbers[unseen] = np.arange(self.n_texts, self.n_texts + len(unseen))
        self.n_texts += len(unseen)
        if len(unseen):
            self._keep(_sorted(high[unseen], low[unseen], numbers[unseen]))
        is_new = set(unseen.tolist())
        new, told = [], set()
        for index, place in enumerate(places):
            if place in is_new and place not in told:
                told.add(place)
                new.append(index)
        return numbers[places], new

    def _keep(self, run: _Run) -> None:
        # A run of more than an eighth would take too much with it when it is forgotten.
        while (
            self._runs
            and len(self._runs[-1].high) <= len(run.high)
            and len(self._runs[-1].high) + len(run.high) <= self._max_texts // 8
        ):
            older = self._runs.pop()
            run = _sorted(*(np.concatenate(pair) for pair in zip(older, run, strict=True)))
        self._runs.append(run)
        while sum(len(each.high) for each in self._runs) > self._max_texts:
            self._runs.pop(0)


def _sorted(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], numbers: npt.NDArray[np.int64]
) -> _Run:
    order = np.argsort(high, kind="stable")
    return _Run(high[order], low[order], numbers[order])
