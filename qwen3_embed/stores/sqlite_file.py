"""class SqliteFile: one SQLite file of a known kind, shared by threads and processes.

It refuses files of other programs, never waits for readers (write-ahead log), survives `fork`,
and keeps the file within a number of bytes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["SqliteFile"]

_MIN_BYTES = 1 << 20
_BUSY_S = 30.0
_WAL_BYTES = 8 << 20


class SqliteFile:
    """Base class; a subclass names its kind of file and has the statements.

    Parameters
    ----------
    path : path-like
        Created if it does not exist. Must be on a local disk: SQLite's write-ahead log does not
        work on network file systems.
    max_bytes : int
        Maximum size of the file. The write-ahead log beside it takes up to 8 MB more.

    Raises
    ------
    ValueError
        The file is not of this kind, or of another version.
    OSError
        The file cannot be opened.
    """

    # No other names: a mistyped setting is an AttributeError.
    __slots__ = ("_database", "_forked", "_lock", "_pid", "max_bytes", "path")

    KIND: ClassVar[str]  # in messages
    APPLICATION_ID: ClassVar[int]  # files of other programs are never written to
    SCHEMA_VERSION: ClassVar[int]
    SCHEMA: ClassVar[str]
    # NORMAL: a power failure may lose the last transactions but never damages the file.
    SYNCHRONOUS: ClassVar[str] = "NORMAL"

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
        return f"{type(self).__name__}({str(self.path)!r}, max_bytes={self.max_bytes})"

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

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits at the end, or rolls back if an exception passes."""
        with self._held() as database:
            # IMMEDIATE: SQLite does not wait when a reader becomes a writer, it reports "busy".
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def _insert(self, table: str, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Inserts in one transaction; while the file is full, deletes the oldest eighth first.

        `table` has ids in order of insertion.
        """
        while True:
            try:
                with self._transaction() as database:
                    database.executemany(statement, rows)
                return
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                    raise
                # The file's limit, or a full disk: then deleting fails too, at the latest when
                # empty.
                with self._held() as database:
                    bounds = f"SELECT min(id), max(id) FROM {table}"
                    first, last = database.execute(bounds).fetchone()
                    if first is None:
                        raise
                    delete = f"DELETE FROM {table} WHERE id <= ?"
                    database.execute(delete, (first + (last - first) // 8,))

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
            raise OSError(
                f"the {self.KIND} {str(self.path)!r} cannot be opened: {error}"
            ) from error
        try:
            self._prepare(database)
        except sqlite3.OperationalError as error:
            database.close()
            raise OSError(f"the {self.KIND} {str(self.path)!r} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            database.close()
            raise ValueError(
                f"{str(self.path)!r} is not a {self.KIND} of this package ({error}): use another "
                f"file, or delete this one"
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Creates the tables in an empty file; refuses any other file that is not of this kind."""

        def whose() -> tuple[int, int]:
            application = database.execute("PRAGMA application_id").fetchone()[0]
            return application, database.execute("PRAGMA user_version").fetchone()[0]

        ours = (self.APPLICATION_ID, self.SCHEMA_VERSION)
        if whose() != ours:
            database.execute("BEGIN IMMEDIATE")  # only one of several processes creates the tables
            n_tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if whose() == (0, 0) and n_tables == 0:
                for statement in self.SCHEMA.split(";\n"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {self.APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {self.SCHEMA_VERSION}")
            database.execute("COMMIT")
            if whose() != ours:
                raise ValueError(
                    f"{str(self.path)!r} is not a {self.KIND} of this version: use another file, "
                    f"or delete this one"
                )
        _write_ahead(database)
        database.execute(f"PRAGMA synchronous = {self.SYNCHRONOUS}")
        database.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        page_bytes = database.execute("PRAGMA page_size").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {self.max_bytes // page_bytes}")


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
