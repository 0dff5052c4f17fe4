"""class Memory: facts with times, kept in an SQLite file, searched by meaning and by words.

The vectors are rows of floats in the same file, and a search is one matrix product in NumPy: for
the thousands of facts that an agent keeps, an index would be slower to load than this is to search.
Facts are full of names and numbers, which words tell apart better than vectors. A fact is on disk
before `remember` returns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..cache import CacheKeys
from ..embedder import Embedder
from ..retrieval.words import WordCoverage, combined
from .sqlite_file import SqliteFile

__all__ = ["Fact", "Memory"]

_SLICE_FACTS = 256  # embedded again, for another model, between two writes
_COLUMNS = "id, text, time, replaced_by"


class Fact(NamedTuple):
    """A fact of a `Memory`.

    Attributes
    ----------
    id : int
        Never given to another fact.
    text : str
    time : datetime
        When it was last remembered, UTC.
    replaced_by : int or None
        The fact that took its place.
    score : float
        Compares within one query only; see `HybridIndex`.
    """

    id: int
    text: str
    time: datetime
    replaced_by: int | None
    score: float


class _FactFile(SqliteFile):
    """The facts and their vectors on disk."""

    __slots__ = ()

    KIND = "memory"
    APPLICATION_ID = 0x5133454D  # "Q3EM"
    SCHEMA_VERSION = 1
    SYNCHRONOUS = "FULL"  # a fact survives a power failure too
    SCHEMA = """
        CREATE TABLE facts (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            text TEXT NOT NULL,
            time REAL NOT NULL,     -- seconds since 1970, UTC
            replaced_by INTEGER,    -- id of a later fact
            space BLOB NOT NULL,    -- key of the model
            vector BLOB NOT NULL    -- (dim) float32, little-endian
        )
    """

    def version(self) -> int:
        """Changes when another process has written."""
        with self._held() as database:
            return int(database.execute("PRAGMA data_version").fetchone()[0])

    def rows(self) -> list[tuple[int, str, bool, bytes, bytes]]:
        """(id, text, is_replaced, space, vector) of every fact."""
        with self._held() as database:
            return database.execute(
                "SELECT id, text, replaced_by IS NOT NULL, space, vector FROM facts ORDER BY id"
            ).fetchall()

    def facts(self, ids: Sequence[int]) -> dict[int, tuple[int, str, float, int | None]]:
        """Rows without their vectors, by id; those that are gone are missing."""
        with self._held() as database:
            marks = ",".join("?" * len(ids))
            query = f"SELECT {_COLUMNS} FROM facts WHERE id IN ({marks})"
            return {row[0]: row for row in database.execute(query, ids)}

    def id_of(self, text: str) -> int | None:
        """The id of the fact with this text that is not replaced."""
        with self._held() as database:
            found = database.execute(
                "SELECT id FROM facts WHERE text = ? AND replaced_by IS NULL", (text,)
            ).fetchone()
        return found and int(found[0])

    def add(self, text: str, time: float, replaces: Sequence[int], row: tuple[bytes, bytes]) -> int:
        """Adds a fact in place of others; returns its id."""
        with self._transaction() as database:
            for replaced in replaces:
                if not database.execute("SELECT 1 FROM facts WHERE id = ?", (replaced,)).fetchone():
                    raise ValueError(f"there is no fact {replaced} to replace")
            fact = database.execute(
                "INSERT INTO facts (text, time, space, vector) VALUES (?, ?, ?, ?)",
                (text, time, *row),
            ).lastrowid
            assert fact is not None
            database.executemany(
                "UPDATE facts SET replaced_by = ? WHERE id = ?", [(fact, old) for old in replaces]
            )
        return fact

    def touch(self, fact: int, time: float) -> None:
        """Sets a fact's time."""
        with self._transaction() as database:
            database.execute("UPDATE facts SET time = ? WHERE id = ?", (time, fact))

    def set_vectors(self, space: bytes, rows: Sequence[tuple[int, bytes]]) -> None:
        """Replaces the vectors of facts, for another model."""
        with self._transaction() as database:
            database.executemany(
                "UPDATE facts SET space = ?, vector = ? WHERE id = ?",
                [(space, vector, fact) for fact, vector in rows],
            )

    def remove(self, ids: Sequence[int]) -> int:
        """Deletes facts and all that they replaced, and overwrites them; returns their number."""
        with self._held() as database:
            database.execute("PRAGMA secure_delete = ON")
        with self._transaction() as database:
            before = database.total_changes
            for fact in ids:
                database.execute(
                    "WITH RECURSIVE gone(id) AS (SELECT ? UNION SELECT facts.id FROM facts "
                    "JOIN gone ON facts.replaced_by = gone.id) "
                    "DELETE FROM facts WHERE id IN (SELECT id FROM gone)",
                    (fact,),
                )
            count = database.total_changes - before
        with self._held() as database:
            # The log still has the pages as they were; while others read it, it stays.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count


class Memory:
    """Facts that an agent remembers, in a file that several processes may use at once.

    Parameters
    ----------
    path : path-like
        The SQLite file, created if it does not exist; only its owner may read it.
    model : Embedder
        If it is another model than that of the last time, all facts are embedded again.
    max_bytes : int
        Maximum size of the file.

    Raises
    ------
    ValueError
        The file is not a memory, or of another version.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> memory = Memory("memory.sqlite", Embedder("mini"))                 # doctest: +SKIP
    >>> memory.remember("The build runs on Thursdays")                     # doctest: +SKIP
    1
    >>> memory.recall("when is the build?")[0].text                        # doctest: +SKIP
    'The build runs on Thursdays'
    """

    def __init__(
        self, path: str | os.PathLike[str], model: Embedder, max_bytes: int = 1 << 30
    ) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._file = _FactFile(path, max_bytes)
        self._model = model
        keys = CacheKeys(model.fingerprint, model.dim, True)
        (self._space,) = keys.of(model.prefix_of("document"), ["facts"])
        self._version = -1
        self._ids = np.empty(0, np.int64)
        self._replaced = np.empty(0, bool)
        self._rows = np.empty((0, model.dim), np.float32)
        self._words = WordCoverage()
        self._load()

    def __len__(self) -> int:
        """The number of facts, without those that are replaced."""
        self._load()
        return int((~self._replaced).sum())

    def close(self) -> None:
        """Closes the file. Idempotent."""
        self._file.close()

    def remember(self, text: str, replaces: Sequence[int] = ()) -> int:
        """Adds a fact; one that is known already gets the time of now.

        Parameters
        ----------
        text : str
        replaces : sequence of int
            Facts that this one takes the place of.

        Returns
        -------
        int
            The fact's id.

        Raises
        ------
        ValueError
            An empty text, or no fact of an id in `replaces`.
        sqlite3.Error
            The file can't be written; it may be full.
        """
        if not text.strip():
            raise ValueError("the text is empty, expected a fact")
        now = datetime.now(UTC).timestamp()
        known = self._file.id_of(text)
        if known is not None and not replaces:
            self._file.touch(known, now)
            return known
        row = self._model.encode_document([text])
        self._load()
        fact = self._file.add(text, now, replaces, (self._space, _blob(row)))
        self._ids = np.append(self._ids, fact)
        self._rows = np.concatenate([self._rows, row])
        self._words.add(text)
        self._replaced = np.append(self._replaced, False)
        self._replaced[np.isin(self._ids, replaces)] = True
        return fact

    def recall(
        self,
        query: str,
        top_k: int = 5,
        *,
        since: datetime | None = None,
        with_replaced: bool = False,
    ) -> list[Fact]:
        """The facts nearest to a query, best first; of equally near ones the newest.

        Parameters
        ----------
        query : str
        top_k : int
        since : datetime, optional
            Without older facts; a time without a zone is UTC.
        with_replaced : bool
            With the facts that others took the place of.
        """
        row = self._model.encode_query(query)
        self._load()
        if not len(self._ids):
            return []
        scores = combined(self._rows @ row, self._words.of(query))
        # A product's last bits depend on where a row lies: equal texts get equal scores again.
        order = np.lexsort((-self._ids, -scores.round(5)))
        if not with_replaced:
            order = order[~self._replaced[order]]
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        found: list[Fact] = []
        for start in range(0, len(order), 500):
            part = order[start : start + 500]
            facts = self._file.facts(self._ids[part].tolist())
            for i in part.tolist():
                if len(found) == top_k:
                    return found
                if (fact := facts.get(int(self._ids[i]))) is None:
                    continue  # forgotten by another process since `_load`
                time = datetime.fromtimestamp(fact[2], UTC)
                if since is None or time >= since:
                    found.append(Fact(fact[0], fact[1], time, fact[3], float(scores[i])))
        return found

    def forget(self, ids: Sequence[int]) -> int:
        """Deletes facts and those that they replaced, and overwrites their place in the file.

        Returns
        -------
        int
            How many; ids that are not there are passed over.
        """
        count = self._file.remove(ids)
        self._version = -1
        return count

    def _load(self) -> None:
        """Reads the rows if this is the first time or another process has written."""
        version = self._file.version()
        if version == self._version:
            return
        rows = self._file.rows()
        other = [fact for fact, *_, space, _ in rows if space != self._space]
        for start in range(0, len(other), _SLICE_FACTS):
            self._embed_again(other[start : start + _SLICE_FACTS])
        if other:
            rows = self._file.rows()
        vectors = b"".join(vector for *_, vector in rows)
        self._ids = np.array([fact for fact, *_ in rows], np.int64)
        self._replaced = np.array([replaced for _, _, replaced, *_ in rows], bool)
        self._rows = np.frombuffer(vectors, "<f4").reshape(len(rows), self._model.dim)
        self._words = WordCoverage(text for _, text, *_ in rows)
        self._version = version

    def _embed_again(self, ids: list[int]) -> None:
        facts = self._file.facts(ids)
        rows = self._model.encode_document([fact[1] for fact in facts.values()])
        blobs = [(fact, _blob(row)) for fact, row in zip(facts, rows, strict=True)]
        self._file.set_vectors(self._space, blobs)


def _blob(row: npt.NDArray[np.float32]) -> bytes:
    return row.astype("<f4", copy=False).tobytes()
