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
from typing import Any, NamedTuple

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
        );
        CREATE INDEX facts_by_text ON facts (text)
    """

    def version(self) -> int:
        """Changes when another process has written."""
        with self._held() as database:
            return int(database.execute("PRAGMA data_version").fetchone()[0])

    def rows(self) -> list[tuple[int, str, float, bool, bytes, bytes]]:
        """(id, text, time, is_replaced, space, vector) of every fact."""
        with self._held() as database:
            return database.execute(
                "SELECT id, text, time, replaced_by IS NOT NULL, space, vector FROM facts "
                "ORDER BY id"
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
        self._index = _Index(model.dim)
        self._load()

    def __len__(self) -> int:
        """The number of facts, without those that are replaced."""
        self._load()
        return int((~self._index.facts["replaced"]).sum())

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
            self._index.facts["time"][self._index.facts["id"] == known] = now
            return known
        row = self._model.encode_document([text])
        self._load()
        fact = self._file.add(text, now, replaces, (self._space, _blob(row)))
        self._index.add([(fact, now, False)], row, [text])
        self._index.replace(replaces)
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
        if since is None:
            since = datetime.fromtimestamp(0, UTC)
        elif since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        best = self._index.best(query, row, top_k, since.timestamp(), with_replaced)
        kept = self._file.facts([fact for fact, _ in best])
        return [
            Fact(fact, text, datetime.fromtimestamp(time, UTC), replaced_by, score)
            for fact, score in best
            if fact in kept  # another process may have forgotten it since `_load`
            for _, text, time, replaced_by in [kept[fact]]
        ]

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
        self._index = _Index(self._model.dim)
        vectors = np.frombuffer(b"".join(vector for *_, vector in rows), "<f4")
        self._index.add(
            [(fact, time, bool(replaced)) for fact, _, time, replaced, *_ in rows],
            vectors.reshape(len(rows), self._model.dim),
            [text for _, text, *_ in rows],
        )
        self._version = version

    def _embed_again(self, ids: list[int]) -> None:
        facts = self._file.facts(ids)
        rows = self._model.encode_document([fact[1] for fact in facts.values()])
        blobs = [(fact, _blob(row)) for fact, row in zip(facts, rows, strict=True)]
        self._file.set_vectors(self._space, blobs)


class _Index:
    """Facts and vectors in memory, in arrays that grow by doubling.

    Attributes
    ----------
    facts : ndarray
        (n,) records of id, time and replaced, in order of their ids.
    """

    def __init__(self, dim: int) -> None:
        self._n = 0
        self._facts = np.empty(0, [("id", np.int64), ("time", np.float64), ("replaced", bool)])
        self._rows = np.empty((0, dim), np.float32)
        self._words = WordCoverage()

    @property
    def facts(self) -> npt.NDArray[Any]:
        return self._facts[: self._n]

    def add(
        self,
        facts: list[tuple[int, float, bool]],
        rows: npt.NDArray[np.float32],
        texts: Sequence[str],
    ) -> None:
        """Adds facts: n of (id, time, is_replaced), their (n, dim) vectors and n texts."""
        n = self._n + len(facts)
        if n > len(self._rows):
            room = max(n, 2 * len(self._rows)) - self._n
            self._facts = np.append(self.facts, np.empty(room, self._facts.dtype))
            unused = np.empty((room, self._rows.shape[1]), np.float32)
            self._rows = np.concatenate([self._rows[: self._n], unused])
        self._facts[self._n : n] = facts
        self._rows[self._n : n] = rows
        self._n = n
        for text in texts:
            self._words.add(text)

    def replace(self, ids: Sequence[int]) -> None:
        """Marks facts as replaced."""
        self.facts["replaced"][np.isin(self.facts["id"], ids)] = True

    def best(
        self,
        query: str,
        row: npt.NDArray[np.float32],
        top_k: int,
        since: float,
        with_replaced: bool,
    ) -> list[tuple[int, float]]:
        """(id, score) of the best facts; of equal ones the newest first."""
        facts = self.facts
        chosen = facts["time"] >= since
        if not with_replaced:
            chosen &= ~facts["replaced"]
        (places,) = chosen.nonzero()
        if not len(places):
            return []
        # A product's last bits depend on where a row lies: equal texts get equal scores again.
        scores = combined(self._rows[: self._n] @ row, self._words.of(query)).round(5)[places]
        ids = facts["id"][places]
        if top_k < len(scores):
            near = scores >= np.partition(scores, -top_k)[-top_k]
            scores, ids = scores[near], ids[near]
        order = np.lexsort((-ids, -scores))[:top_k]
        return [(int(ids[i]), float(scores[i])) for i in order]


def _blob(row: npt.NDArray[np.float32]) -> bytes:
    return row.astype("<f4", copy=False).tobytes()
