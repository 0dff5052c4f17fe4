"""class VectorCache: vectors that outlive the process, in one SQLite file.

A key is a hash of the model's fingerprint, the options that change a vector (dim, normalize) and
the whole text with its prompt, so one file serves any number of models. Results never depend on
the cache: if reading fails, vectors are computed; if writing fails, one warning is given per call.
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

_APPLICATION_ID = 0x51334543  # "Q3EC"; files of other programs are never written to
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY,       -- in order of insertion: the smallest are deleted first
    key BLOB NOT NULL UNIQUE,     -- CacheKeys
    n_tokens INTEGER NOT NULL,    -- of the text before truncation
    vector BLOB NOT NULL          -- (dim) float32, little-endian
)
"""
_MIN_BYTES = 1 << 20
_BUSY_S = 30.0
_KEYS_PER_QUERY = 500
_TRANSACTION_BYTES = 1 << 18
_WAL_BYTES = 8 << 20


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


class VectorCache:
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

    # No other names: a mistyped setting is an AttributeError.
    __slots__ = ("_database", "_forked", "_lock", "_pid", "max_bytes", "path")

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
                with self._held() as database:
                    _insert(database, list(rows))
        except sqlite3.Error as error:
            self._warn("written", error)

    def __len__(self) -> int:
        with self._held() as database:
            return int(database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def close(self) -> None:
        """Closes the file. Idempotent; the next use opens it again."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """Gives the connection to one thread at a time."""
        if os.getpid() != self._pid:
            # After a fork neither the parent's connection nor its lock may be used, and the
            # connection must not be closed.
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
            raise OSError(f"the cache {str(self.path)!r} cannot be opened: {error}") from error
        try:
            self._prepare(database)
        except sqlite3.OperationalError as error:
            database.close()
            raise OSError(f"the cache {str(self.path)!r} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            database.close()
            raise ValueError(
                f"{str(self.path)!r} is not a cache of this package ({error}): use another file, "
                f"or delete this one"
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Creates the table in an empty file; refuses any other file that is not a cache."""

        def whose() -> tuple[int, int]:
            application = database.execute("PRAGMA application_id").fetchone()[0]
            return application, database.execute("PRAGMA user_version").fetchone()[0]

        ours = (_APPLICATION_ID, _SCHEMA_VERSION)
        if whose() != ours:
            database.execute("BEGIN IMMEDIATE")  # only one of several processes creates the table
            n_tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if whose() == (0, 0) and n_tables == 0:
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            database.execute("COMMIT")
            if whose() != ours:
                raise ValueError(
                    f"{str(self.path)!r} is not a cache of this version: use another file, or "
                    f"delete this one"
                )
        _write_ahead(database)
        # A power failure may lose the last vectors but never damages the file.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        page_bytes = database.execute("PRAGMA page_size").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {self.max_bytes // page_bytes}")

    def _warn(self, verb: str, error: sqlite3.Error) -> None:
        warnings.warn(
            f"the cache {str(self.path)!r} could not be {verb} ({error}); the vectors are correct, "
            f"but were computed without it",
            RuntimeWarning,
            stacklevel=3,
        )


def _write_ahead(database: sqlite3.Connection) -> None:
    """Enables the write-ahead log, permanently; SQLite itself would not wait for a busy file."""
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
    """Inserts in one transaction; if the file is full, deletes the oldest eighth first."""
    while True:
        # IMMEDIATE: SQLite does not wait when a reader becomes a writer, it reports "busy".
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
            # The file's limit, or a full disk: then deleting fails too, at the latest when empty.
            first, last = database.execute("SELECT min(id), max(id) FROM vectors").fetchone()
            if first is None:
                raise
            database.execute("DELETE FROM vectors WHERE id <= ?", (first + (last - first) // 8,))
        except BaseException:
            database.execute("ROLLBACK")
            raise
