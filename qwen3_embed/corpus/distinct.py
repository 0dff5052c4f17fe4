"""class Distinct: numbers the distinct texts of a corpus, in 24 bytes per text.

Sorted segments of hashes merge as a binary counter carries: each text is merged log2(n) times,
and a look-up searches log2(n) segments with one vectorised binary search each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DIGEST_BYTES", "Distinct"]

DIGEST_BYTES = 16
_MAX_TEXTS = 1 << 23


class _Segment(NamedTuple):
    high: npt.NDArray[np.uint64]  # (n,), sorted
    low: npt.NDArray[np.uint64]  # (n,)
    numbers: npt.NDArray[np.int64]  # (n,)


class Distinct:
    """Numbers distinct texts in order of first appearance.

    Beyond `max_texts` texts the oldest are forgotten: such a text gets a new number when it
    appears again.
    """

    def __init__(self, max_texts: int = _MAX_TEXTS) -> None:
        self._max_texts = max_texts
        self._segments: list[_Segment] = []
        self.n_texts = 0

    def add(self, digests: list[bytes]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Numbers the texts that have these digests.

        Parameters
        ----------
        digests : list of bytes
            n digests of DIGEST_BYTES each.

        Returns
        -------
        numbers : ndarray
            (n,) int64.
        new : list of int
            Indices of the texts that appear for the first time, in the order of their numbers.
        """
        firsts: dict[bytes, int] = {}
        places = [firsts.setdefault(digest, len(firsts)) for digest in digests]
        words = np.frombuffer(b"".join(firsts), ">u8").reshape(-1, 2).astype(np.uint64)
        high, low = words[:, 0], words[:, 1]
        numbers = np.full(len(firsts), -1, np.int64)
        for segment in self._segments:
            at = np.minimum(np.searchsorted(segment.high, high), len(segment.high) - 1)
            found = (segment.high[at] == high) & (segment.low[at] == low)
            numbers[found] = segment.numbers[at[found]]
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

    def _keep(self, segment: _Segment) -> None:
        # A segment larger than an eighth would take too many texts with it when it is forgotten.
        while (
            self._segments
            and len(self._segments[-1].high) <= len(segment.high)
            and len(self._segments[-1].high) + len(segment.high) <= self._max_texts // 8
        ):
            older = self._segments.pop()
            segment = _sorted(*(np.concatenate(pair) for pair in zip(older, segment, strict=True)))
        self._segments.append(segment)
        while sum(len(each.high) for each in self._segments) > self._max_texts:
            self._segments.pop(0)


def _sorted(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], numbers: npt.NDArray[np.int64]
) -> _Segment:
    order = np.argsort(high, kind="stable")
    return _Segment(high[order], low[order], numbers[order])
