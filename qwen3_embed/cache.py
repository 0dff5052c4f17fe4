"""class VectorCache: vectors that outlive the process, in one SQLite file.

A key is a hash over the model's fingerprint, what was asked of it (dim, normalisation) and the
whole text with its prompt, so a file can serve any number of models and none gets another's
vector. The cache is never needed for a right answer: what can't be read is computed, what
can't be written is reported once per call.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["CacheKeys", "Hits", "VectorCache"]

_APPLICATION_ID = 0x51334543  # "Q3EC": other programs' files are never written to
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY,       -- order of arrival: the smallest leave first
    key BLOB NOT NULL UNIQUE,     -- CacheKeys
    n_tokens INTEGER NOT NULL,    -- of the text before any cut
    vector BLOB NOT NULL          -- (dim) float32, little-endian
)
"""
_MIN_BYTES = 1 << 20
_BUSY_S = 30.0
_KEYS_A_QUERY = 500
_TRANSACTION_BYTES = 1 << 18
_WAL_BYTES = 8 << 20


class CacheKeys:
    """Computes the keys of texts for one kind of call.

    Parameters
    ----------
    fingerprint : str
        Of the model, its adapter included.
    dim : int
    normalize : bool
    """

    def __init__(self, fingerprint: str, dim: int, normalize: bool) -> None:
        space = f"{fingerprint}\n{dim}\n{int(normalize)}\n"
        self._hash = blake2b(digest_size=32, key=sha256(space.encode()).digest())
        self.dim = dim

    def of(self, prefix: str, texts: Sequence[str]) -> list[bytes]:
        """The key of each text.

        Raises
        ------
        UnicodeEncodeError
            A text, or the prefix, holds a lone surrogate.
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
        (h,) int64: which keys were found.
    n_tokens : ndarray
        (h,) int64: of their texts.
    vectors : ndarray
        (h, dim) float32.
    """

    indices: npt.NDArray[np.int64]
    n_tokens: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


class VectorCache:
    """A file of vectors, shared by any number of threads and processes of one machine.

    Parameters
    ----------
    path : path-like
        Made where it isn't there. On a local disk: SQLite's write-ahead log doesn't work over
        network file systems.
    max_bytes : int
        Bound of the file; past it, the vectors that came first leave first. The write-ahead
        log beside the file takes up to 8 MB more.

    Raises
    ------
    ValueError
        The file is no cache of this package, or of another version.
    OSError
        It can't be opened.

    Examples
    --------
    >>> model = Embedder("mini", cache=VectorCache("vectors.sqlite", 1 << 30))  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int = 4 << 30) -> None:
        if type(max_bytes) is not int or max_bytes < _MIN_BYTES:
            raise ValueError(f"max_bytes={max_bytes!r}, expected at least {_MIN_BYTES}")
        self.path = Path(path)
        self.max_bytes = max_bytes
        self._database: sqlite3.Connection | None
        self._open()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self.path.absolute()), self.max_bytes)

    def __repr__(self) -> str:
        return f"VectorCache({str(self.path)!r}, max_bytes={self.max_bytes})"

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
            Nothing, with a warning, where the file can't be read.
        """
        found: dict[bytes, tuple[int, bytes]] = {}
        try:
            with self._held() as database:
                for start in range(0, len(keys), _KEYS_A_QUERY):
                    part = keys[start : start + _KEYS_A_QUERY]
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
        """Keeps vectors; a key that is here already keeps its own.

        Parameters
        ----------
        keys : sequence of bytes
            n keys.
        n_tokens : ndarray
            (n,) int64.
        vectors : ndarray
            (n, dim) float32.
        """
        dim = vectors.shape[1]
        rows_a_time = max(_TRANSACTION_BYTES // (4 * dim), 1)
        counts = n_tokens.tolist()
        try:
            for start in range(0, len(keys), rows_a_time):
                stop = min(start + rows_a_time, len(keys))
                block = vectors[start:stop].astype("<f4", copy=False)
                rows = zip(
                    keys[start:stop],
                    counts[start:stop],
                    (row.tobytes() for row in block),
                    strict=True,
                )
                with self._held() as database:
                    _insert(database, list(rows))
        except sqlite3.Error as error:
            self._warn("written", error)

    def __len__(self) -> int:
        with self._held() as database:
            return int(database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def close(self) -> None:
        """Closes the file. Idempotent; a later use opens it again."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        if os.getpid() != self._pid:
            # After a fork neither the parent's connection nor its lock may be touched, nor may
            # the connection be closed.
            self._forked = self._database
            self._open()
        with self._lock:
            if self._database is None:
                self._database = self._connect()
            yield self._database

    def _open(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._database = self._connect()

    def _connect(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise OSError(f"the cache {str(self.path)!r} can't be opened: {error}") from error
        try:
            self._prepare(database)
        except sqlite3.OperationalError as error:
            database.close()
            raise OSError(f"the cache {str(self.path)!r} can't be used: {error}") from error
        except sqlite3.DatabaseError as error:
            database.close()
            raise ValueError(
                f"{str(self.path)!r} is not a cache of this package ({error}): "
                f"name another file, or delete this one"
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Makes the table in an empty file, refuses any other file that isn't a cache."""

        def whose() -> tuple[int, int]:
            application = database.execute("PRAGMA application_id").fetchone()[0]
            return application, database.execute("PRAGMA user_version").fetchone()[0]

        ours = (_APPLICATION_ID, _SCHEMA_VERSION)
        if whose() != ours:
            database.execute("BEGIN IMMEDIATE")  # of many processes, one makes the table
            n_tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if whose() == (0, 0) and n_tables == 0:
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            database.execute("COMMIT")
            if whose() != ours:
                raise ValueError(
                    f"{str(self.path)!r} is not a cache of this version: "
                    f"name another file, or delete this one"
                )
        _write_ahead(database)
        # A power cut may lose the last vectors, never harm the file.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        page_bytes = database.execute("PRAGMA page_size").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {self.max_bytes // page_bytes}")

    def _warn(self, verb: str, error: sqlite3.Error) -> None:
        warnings.warn(
            f"the cache {str(self.path)!r} could not be {verb} ({error}): "
            f"the vectors are right, but computed anew",
            RuntimeWarning,
            stacklevel=3,
        )


def _write_ahead(database: sqlite3.Connection) -> None:
    """Turns the log on, which lasts; SQLite doesn't wait by itself for others that use the file."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _insert(database: sqlite3.Connection, rows: list[tuple[bytes, int, bytes]]) -> None:
    """One transaction; where the file is at its bound, the oldest eighth leaves first."""
    while True:
        # IMMEDIATE: a reader that turns writer could meet "busy" without a wait.
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(
                "INSERT OR IGNORE INTO vectors (key, n_tokens, vector) VALUES (?, ?, ?)", rows
            )
            database.execute("COMMIT")
            return
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            # Of the bound or of the disk: in the second case this fails too, sooner or later.
            first, last = database.execute("SELECT min(id), max(id) FROM vectors").fetchone()
            if first is None:
                raise
            database.execute("DELETE FROM vectors WHERE id <= ?", (first + (last - first) // 8,))
        except BaseException:
            database.execute("ROLLBACK")
            raise
