"""class VectorCache: vectors that outlive the process, in one SQLite file.

A key is a hash of the model's fingerprint, the options that change a vector (dim, normalize) and
the whole text with its prompt, so one file serves any number of models. Results never depend on
the cache: if reading fails, vectors are computed; if writing fails, one warning is given per call.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .stores.sqlite_file import SqliteFile

__all__ = ["CacheKeys", "Hits", "VectorCache"]

_KEYS_PER_QUERY = 500
_TRANSACTION_BYTES = 1 << 18
_INSERT = "INSERT OR IGNORE INTO vectors (key, n_tokens, vector) VALUES (?, ?, ?)"


class CacheKeys:
    """Computes the keys of texts for one kind of call.

    Parameters
    ----------
    fingerprint : str
        The model's fingerprint, which includes its adapter.
    dim : int
    normalize : bool
    """

    def __init__(self, fingerprint: str, dim: int, normalize: bool) -> None:
        space = f"{fingerprint}\n{dim}\n{int(normalize)}\n"
        self._hash = blake2b(digest_size=32, key=sha256(space.encode()).digest())
        self.dim = dim

    def of(self, prefix: str, texts: Sequence[str]) -> list[bytes]:
        """Computes the key of each text.

        Raises
        ------
        UnicodeEncodeError
            A text, or the prefix, contains a lone surrogate.
        """
        common = self._hash.copy()
        common.update(prefix.encode())
        keys = []
        for text in texts:
            own = common.copy()
            own.update(text.encode())
            keys.append(own.digest())
        return keys


class Hits(NamedTuple):
    """The entries that the cache has for a list of keys.

    Attributes
    ----------
    indices : ndarray
        (h,) int64: indices of the keys found.
    n_tokens : ndarray
        (h,) int64: tokens of their texts before truncation.
    vectors : ndarray
        (h, dim) float32.
    """

    indices: npt.NDArray[np.int64]
    n_tokens: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


class VectorCache(SqliteFile):
    """A file of vectors, shared by any number of threads and processes of one machine.

    Parameters
    ----------
    path : path-like
        Created if it does not exist. Must be on a local disk: SQLite's write-ahead log does not
        work on network file systems.
    max_bytes : int
        Maximum size of the file; beyond it, the oldest vectors are deleted. The write-ahead log
        beside the file takes up to 8 MB more.

    Raises
    ------
    ValueError
        The file is not a cache of this package, or of another version.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> model = Embedder("mini", cache=VectorCache("vectors.sqlite", 1 << 30))  # doctest: +SKIP
    """

    __slots__ = ()

    KIND = "cache"
    APPLICATION_ID = 0x51334543  # "Q3EC"
    SCHEMA_VERSION = 1
    SCHEMA = """
        CREATE TABLE vectors (
            id INTEGER PRIMARY KEY,       -- in order of insertion: the smallest are deleted first
            key BLOB NOT NULL UNIQUE,     -- CacheKeys
            n_tokens INTEGER NOT NULL,    -- of the text before truncation
            vector BLOB NOT NULL          -- (dim) float32, little-endian
        )
    """

    def get(self, keys: Sequence[bytes], dim: int) -> Hits:
        """Looks keys up.

        Parameters
        ----------
        keys : sequence of bytes
            Of `CacheKeys.of`.
        dim : int
            Floats per vector.

        Returns
        -------
        Hits
            Empty, with a RuntimeWarning, if the file cannot be read.
        """
        found: dict[bytes, tuple[int, bytes]] = {}
        try:
            with self._held() as database:
                for start in range(0, len(keys), _KEYS_PER_QUERY):
                    part = keys[start : start + _KEYS_PER_QUERY]
                    marks = ",".join("?" * len(part))
                    for key, n_tokens, vector in database.execute(
                        f"SELECT key, n_tokens, vector FROM vectors WHERE key IN ({marks})", part
                    ):
                        if len(vector) == 4 * dim:
                            found[key] = (n_tokens, vector)
        except sqlite3.Error as error:
            self._warn("read", error)
        indices = [i for i, key in enumerate(keys) if key in found]
        vectors = b"".join(found[keys[i]][1] for i in indices)
        return Hits(
            np.array(indices, np.int64),
            np.array([found[keys[i]][0] for i in indices], np.int64),
            np.frombuffer(vectors, "<f4").reshape(len(indices), dim),
        )

    def put(
        self,
        keys: Sequence[bytes],
        n_tokens: npt.NDArray[np.int64],
        vectors: npt.NDArray[np.float32],
    ) -> None:
        """Adds vectors; a key that is already present keeps its vector.

        Parameters
        ----------
        keys : sequence of bytes
            n keys.
        n_tokens : ndarray
            (n,) int64: tokens of each text before truncation.
        vectors : ndarray
            (n, dim) float32.
        """
        dim = vectors.shape[1]
        rows_per_step = max(_TRANSACTION_BYTES // (4 * dim), 1)
        counts = n_tokens.tolist()
        try:
            for start in range(0, len(keys), rows_per_step):
                stop = min(start + rows_per_step, len(keys))
                block = vectors[start:stop].astype("<f4", copy=False)
                rows = zip(
                    keys[start:stop],
                    counts[start:stop],
                    (row.tobytes() for row in block),
                    strict=True,
                )
                self._insert("vectors", _INSERT, list(rows))
        except sqlite3.Error as error:
            self._warn("written", error)

    def __len__(self) -> int:
        with self._held() as database:
            return int(database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def _warn(self, verb: str, error: sqlite3.Error) -> None:
        warnings.warn(
            f"the cache {str(self.path)!r} could not be {verb} ({error}); the vectors are correct, "
            f"but were computed without it",
            RuntimeWarning,
            stacklevel=3,
        )
