"""class CorpusVectors: the vectors of files' passages, by file, in one SQLite file.

A file's passages lie in one row, because thousands of files are read back for each search. No text
is stored: the passages of a hit are cut from the file again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .sqlite_file import SqliteFile

__all__ = ["CorpusVectors", "FileVectors"]

KEY_BYTES = 32
_INSERT = "INSERT OR REPLACE INTO files (space, path, stamp, keys, vectors) VALUES (?, ?, ?, ?, ?)"
_TRANSACTION_BYTES = 1 << 20


class FileVectors(NamedTuple):
    """A file's n passages.

    Attributes
    ----------
    stamp : str
        Of the file when it was read, or "" if it must be read again.
    keys : bytes
        n keys of `cache.CacheKeys`, `KEY_BYTES` each, joined: equal texts have equal keys.
    vectors : ndarray
        (n, dim) float32.
    """

    stamp: str
    keys: bytes
    vectors: npt.NDArray[np.float32]

    def by_key(self) -> Iterator[tuple[bytes, npt.NDArray[np.float32]]]:
        """Each passage's key and (dim,) vector."""
        for i, row in enumerate(self.vectors):
            yield self.keys[i * KEY_BYTES : (i + 1) * KEY_BYTES], row


class CorpusVectors(SqliteFile):
    """A file of vectors, shared by any number of threads and processes of one machine.

    Parameters
    ----------
    path : path-like
    max_bytes : int
        Maximum size of the file; beyond it, the files written first are forgotten.

    Raises
    ------
    ValueError
        The file is not of this kind, or of another version.
    OSError
        The file cannot be opened.
    """

    __slots__ = ()

    KIND = "cache of searched folders"
    APPLICATION_ID = 0x51334553  # "Q3ES"
    SCHEMA_VERSION = 1
    SCHEMA = """
        CREATE TABLE files (
            id INTEGER PRIMARY KEY,  -- in order of writing: the smallest are deleted first
            space BLOB NOT NULL,     -- key of the model, the dimension and how files are cut
            path BLOB NOT NULL,      -- absolute, in the encoding of the file system
            stamp TEXT NOT NULL,     -- FileVectors.stamp
            keys BLOB NOT NULL,      -- FileVectors.keys
            vectors BLOB NOT NULL,   -- (n, dim) float32, little-endian
            UNIQUE (space, path)
        )
    """

    def get(self, space: bytes, path: bytes, dim: int) -> dict[bytes, FileVectors]:
        """Reads a file's vectors, or those of all files below a folder.

        Parameters
        ----------
        space : bytes
        path : bytes
            Absolute, without a slash at the end.
        dim : int
            Floats per vector.

        Returns
        -------
        dict of bytes to FileVectors
            By absolute path.

        Raises
        ------
        sqlite3.Error
            The file cannot be read.
        """
        below = path.rstrip(b"/")
        found = {}
        with self._held() as database:
            rows = database.execute(
                "SELECT path, stamp, keys, vectors FROM files "
                "WHERE space = ? AND (path = ? OR path > ? AND path < ?)",
                (space, path, below + b"/", below + b"0"),  # "0" is next to "/"
            )
            for name, stamp, keys, vectors in rows:
                n, rest = divmod(len(keys), KEY_BYTES)
                if rest == 0 and len(vectors) == n * dim * 4:
                    block = np.frombuffer(vectors, "<f4").reshape(n, dim)
                    found[name] = FileVectors(stamp, keys, block)
        return found

    def put(self, space: bytes, files: Iterable[tuple[bytes, FileVectors]]) -> None:
        """Writes files' vectors in place of those that they had.

        Raises
        ------
        sqlite3.Error, OverflowError
            The file cannot be written, or a row is too large for SQLite.
        """
        rows = []
        n_bytes = 0
        for path, (stamp, keys, vectors) in files:
            block = vectors.astype("<f4", copy=False).tobytes()
            rows.append((space, path, stamp, keys, block))
            n_bytes += len(block)
            if n_bytes > _TRANSACTION_BYTES:
                self._insert("files", _INSERT, rows)
                rows, n_bytes = [], 0
        self._insert("files", _INSERT, rows)

    def remove(self, space: bytes, paths: Iterable[bytes]) -> None:
        """Forgets files.

        Raises
        ------
        sqlite3.Error
            The file cannot be written.
        """
        with self._transaction() as database:
            database.executemany(
                "DELETE FROM files WHERE space = ? AND path = ?", [(space, path) for path in paths]
            )
