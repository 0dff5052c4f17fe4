"""Held-out texts, which are never trained on, and the filter that keeps their copies out.

The one idea: held-out text is chosen by a rule on its *name* (a hash byte, a synset offset),
so that anybody can recompute it, and because names alone do not make text unseen, every
training text is also compared with all held-out text by word runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

PACKAGE_BELOW = 0x30  # Debian binary packages: name byte below this is held out
PACKAGE_EVALUATED = range(0x20, 0x30)  # ... and this part of them may be evaluated
FILE_BELOW = 0x60  # library files: path byte below this is held out
FILE_EVALUATED = range(0x40, 0x60)
N_RUN_WORDS = 8
N_RUN_CHINESE = 12
MAX_SHARED = 0.5  # a training text sharing more than this part of its runs is dropped

_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[^\W_]+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that the polynomial below permutes 64-bit words


def name_byte(name: str) -> int:
    """Return the first byte of the SHA-256 of the UTF-8 `name`."""
    return hashlib.sha256(name.encode("utf-8")).digest()[0]


def held_out_packages(source_of: Mapping[str, str]) -> set[str]:
    """Return the held-out binary packages among `source_of` (binary name -> source name).

    A package is held out when its own name byte is below 0x30 or when any binary package
    of the same source package is.
    """
    sources = {src for name, src in source_of.items() if name_byte(name) < PACKAGE_BELOW}
    return {name for name, src in source_of.items() if src in sources}


def package_is_evaluated(name: str) -> bool:
    """Tell whether a held-out package belongs to the part that evaluation may look at."""
    return name_byte(name) in PACKAGE_EVALUATED


def synset_is_held_out(offset: int) -> bool:
    """Tell whether the WordNet synset at byte `offset` is held out."""
    return offset % 10 in (0, 5)


def synset_is_evaluated(offset: int) -> bool:
    """Tell whether the held-out synset at `offset` may be evaluated."""
    return offset % 10 == 5


def file_is_held_out(path: str) -> bool:
    """Tell whether a library file is held out; `path` lies below the library's root."""
    return name_byte(path.replace("\\", "/")) < FILE_BELOW


def file_is_evaluated(path: str) -> bool:
    """Tell whether a held-out library file may be evaluated."""
    return name_byte(path.replace("\\", "/")) in FILE_EVALUATED


class RunHasher:
    """Turn texts into 64-bit hashes of their 8-word and 12-Chinese-character runs."""

    def __init__(self) -> None:
        self._word_hash: dict[str, int] = {}

    def _hash_units(self, units: list[str], n_run: int) -> np.ndarray:
        known = self._word_hash
        for unit in units:
            if unit not in known:
                digest = hashlib.blake2b(unit.encode("utf-8"), digest_size=8).digest()
                known[unit] = int.from_bytes(digest, "little")
        values = np.array([known[unit] for unit in units], dtype=np.uint64)
        if len(values) == 0:
            return values
        # A text shorter than one run is one run of its own: an exact copy still counts.
        n_run = min(n_run, len(values))
        n_runs = len(values) - n_run + 1
        total = np.zeros(n_runs, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for i in range(n_run):
                total = total * np.uint64(_MULTIPLIER) + values[i : i + n_runs]
        return total

    def words(self, text: str) -> np.ndarray:
        """Return the hashes (n_runs,) uint64 of the 8-word runs outside Chinese."""
        return self._hash_units(_WORD.findall(_CHINESE.sub(" ", text).lower()), N_RUN_WORDS)

    def chinese(self, text: str) -> np.ndarray:
        """Return the hashes (n_runs,) uint64 of the 12-character Chinese runs."""
        return self._hash_units(_CHINESE.findall(text), N_RUN_CHINESE)


class OverlapFilter:
    """Says which training texts share too many runs with held-out text.

    Parameters
    ----------
    held_out : iterable of str
        All held-out texts, evaluated or not.

    Examples
    --------
    >>> keep = OverlapFilter(["one two three four five six seven eight nine"])
    >>> keep.shared("zero one two three four five six seven eight")
    0.5
    """

    def __init__(self, held_out: Iterable[str]) -> None:
        self._hasher = RunHasher()
        parts = []
        for text in held_out:
            parts += [self._hasher.words(text), self._hasher.chinese(text)]
        joined = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
        self._seen = np.unique(joined)

    def _part_seen(self, hashes: np.ndarray) -> float:
        if len(hashes) == 0 or len(self._seen) == 0:
            return 0.0
        at = np.minimum(np.searchsorted(self._seen, hashes), len(self._seen) - 1)
        return float(np.mean(self._seen[at] == hashes))

    def shared(self, text: str) -> float:
        """Return the larger of the shared parts (0 to 1) of word runs and Chinese runs."""
        words, chinese = self._hasher.words(text), self._hasher.chinese(text)
        # Runs of a script that is only a trace of the text ("GIMP" in a Chinese sentence)
        # say nothing about a copy, unless they are all that there is.
        part = 0.0
        if len(words) * 4 >= len(chinese):
            part = self._part_seen(words)
        if len(chinese) * 4 >= len(words):
            part = max(part, self._part_seen(chinese))
        return part

    def drops(self, text: str) -> bool:
        """Tell whether `text` must not be trained on."""
        return self.shared(text) > MAX_SHARED
