"""class CorpusIndex: a file's or folder's passages with their vectors, as the disk has them now.

With a `CorpusVectors` only passages that are new are embedded: a file whose stamp is unchanged is
not even read, and in one that changed, or moved, the passages that stayed keep their vectors.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..cache import CacheKeys
from ..embedder import Embedder
from ..encoding.progress import progress
from ..stores.corpus_vectors import CorpusVectors, FileVectors
from .corpus_files import CorpusFile
from .passages import CUTTING_VERSION, Passage, read_files

__all__ = ["CorpusIndex", "FoundPassage"]

_SLICE_BYTES = 1 << 18  # of text between two writes: an interrupted run loses no more
_SOON_DONE = 100  # passages that need no progress bar


class FoundPassage(NamedTuple):
    """A passage and its score for a query."""

    score: float
    passage: Passage


class CorpusIndex:
    """All passages of a file or folder, searched exactly and in memory.

    Parameters
    ----------
    model : Embedder
    corpus : str or path-like
    files : list of CorpusFile
        Of `find_files(corpus)`.
    column : str
        Where a JSON-lines record has its text.
    encoding : str, optional
        Of files that are not UTF-8.
    dim : int, optional
        Floats per vector.
    store : CorpusVectors, optional
        Vectors of earlier searches, read and brought up to date.
    rebuild : bool
        Embed all passages again, whatever the store has.
    show_progress_bar : bool

    Attributes
    ----------
    n_passages : int
    n_computed : int
        Texts that had to be embedded.

    Raises
    ------
    OSError, ValueError
        As `read_files`, if the corpus is a file.

    Warns
    -----
    UserWarning
        For each file of a folder that is left out.
    RuntimeWarning
        The store can't be read or written; the result is the same without it.
    """

    def __init__(
        self,
        model: Embedder,
        corpus: str | os.PathLike[str],
        files: list[CorpusFile],
        *,
        column: str = "text",
        encoding: str | None = None,
        dim: int | None = None,
        store: CorpusVectors | None = None,
        rebuild: bool = False,
        show_progress_bar: bool = False,
    ) -> None:
        self._model = model
        self._column = column
        self._encoding = encoding
        self._is_folder = os.path.isdir(corpus)
        self._dim = model.dim if dim is None else dim
        self._keys = CacheKeys(model.fingerprint, self._dim, True)
        self._prefix = model.prefix_of("document")
        self._store = store
        read_as = column if encoding in (None, "utf-8") else f"{column} {encoding}"
        (self._space,) = self._keys.of(self._prefix, [f"passages {CUTTING_VERSION} {read_as}"])
        self.n_computed = 0

        paths = _absolute(os.fspath(corpus), files)
        stored = self._load(os.fsencode(os.path.realpath(corpus)))
        current: dict[str, FileVectors] = {}
        if not rebuild:
            for file, path in zip(files, paths, strict=True):
                entry = stored.get(path)
                if entry is not None and entry.stamp == file.stamp:
                    current[file.path] = entry
        changed = [(f, p) for f, p in zip(files, paths, strict=True) if f.path not in current]
        known = _rows_by_key(stored, current) if changed and not rebuild else {}
        current.update(self._updated(changed, known, show_progress_bar))
        self._forget(stored.keys() - set(paths))

        self._files = [file for file in files if file.path in current]
        self._entries = [current[file.path] for file in self._files]
        self._ends = np.array([*accumulate(len(e.vectors) for e in self._entries)], np.int64)
        self.n_passages = int(self._ends[-1]) if len(self._ends) else 0

    def nearest(self, query: npt.NDArray[np.float32], top_k: int) -> list[FoundPassage]:
        """The passages with the highest dot products, best first; of equal ones, the first.

        Parameters
        ----------
        query : ndarray
            (dim,) float32.
        top_k : int

        Returns
        -------
        list of FoundPassage

        Warns
        -----
        UserWarning
            A file changed since the index was made, so that its hits are left out.
        """
        if not self.n_passages:
            return []
        # File by file: one matrix would be a copy of all vectors.
        scores = np.concatenate([entry.vectors @ query for entry in self._entries])
        # A product's last bits depend on where a row lies: equal texts get equal scores again.
        order = (-scores.round(6)).argsort(kind="stable")[:top_k]
        numbers = np.searchsorted(self._ends, order, side="right")
        passages: dict[int, list[Passage]] = {}
        hits = []
        for i, number in zip(order.tolist(), numbers.tolist(), strict=True):
            if number not in passages:
                passages[number] = self._passages_of(number)
            if passages[number]:
                within = i - int(self._ends[number])  # counted from the last
                hits.append(FoundPassage(float(scores[i]), passages[number][within]))
        return hits

    def _load(self, path: bytes) -> dict[bytes, FileVectors]:
        if self._store is None:
            return {}
        try:
            return self._store.get(self._space, path, self._dim)
        except sqlite3.Error as error:
            self._warn("read", error)
            self._store = None
            return {}

    def _updated(
        self,
        changed: list[tuple[CorpusFile, bytes]],
        known: dict[bytes, npt.NDArray[np.float32]],
        show_progress_bar: bool,
    ) -> Iterator[tuple[str, FileVectors]]:
        """Reads files, embeds what is not known, and writes it to the store, slice by slice."""
        paths = {file.path: path for file, path in changed}
        read = [
            (file, [passage.in_context for passage in passages])
            for file, passages in read_files(
                (file for file, _ in changed),
                self._column,
                encoding=self._encoding,
                leaves_out=self._is_folder,
            )
        ]
        n_texts = sum(len(texts) for _, texts in read)
        with progress(show_progress_bar and n_texts > _SOON_DONE, n_texts) as on_done:
            for part in _slices(read):
                entries = self._embedded(part, known)
                self._save([(paths[file.path], entry) for file, entry in entries])
                yield from ((file.path, entry) for file, entry in entries)
                on_done(sum(len(texts) for _, texts in part))

    def _embedded(
        self,
        part: list[tuple[CorpusFile, list[str]]],
        known: dict[bytes, npt.NDArray[np.float32]],
    ) -> list[tuple[CorpusFile, FileVectors]]:
        """The vectors of files' texts; those computed are added to `known`."""
        keys = [self._keys.of(self._prefix, texts) for _, texts in part]
        missing = {
            key: text
            for own, (_, texts) in zip(keys, part, strict=True)
            for key, text in zip(own, texts, strict=True)
            if key not in known
        }
        if missing:
            rows = self._model.encode_document(
                list(missing.values()), dim=self._dim, normalize=True, show_progress_bar=False
            )
            known.update(zip(missing, rows, strict=True))
            self.n_computed += len(missing)
        entries = []
        for own, (file, _) in zip(keys, part, strict=True):
            rows = np.array([known[key] for key in own], np.float32).reshape(-1, self._dim)
            stamp = file.stamp if file.is_settled else ""
            entries.append((file, FileVectors(stamp, b"".join(own), rows)))
        return entries

    def _save(self, entries: list[tuple[bytes, FileVectors]]) -> None:
        if self._store is not None:
            try:
                self._store.put(self._space, entries)
            except (sqlite3.Error, OverflowError) as error:
                self._warn("written", error)
                self._store = None

    def _forget(self, paths: set[bytes]) -> None:
        """Forgets files that are gone; others, such as ignored ones, may belong to other calls."""
        gone = [path for path in paths if not os.path.lexists(path)]
        if self._store is not None and gone:
            try:
                self._store.remove(self._space, gone)
            except sqlite3.Error as error:
                self._warn("written", error)

    def _warn(self, verb: str, error: Exception) -> None:
        assert self._store is not None
        warnings.warn(
            f"the {self._store.KIND} {str(self._store.path)!r} could not be {verb} ({error}): the "
            f"results are right, but the next search is no faster; if the file is damaged, delete "
            f"it",
            RuntimeWarning,
            stacklevel=4,
        )

    def _passages_of(self, number: int) -> list[Passage]:
        """The passages of a file, or none if it is not as it was when it was embedded."""
        file = self._files[number]
        try:
            ((_, passages),) = read_files([file], self._column, encoding=self._encoding)
        except (OSError, ValueError):
            passages = []
        keys = self._keys.of(self._prefix, [passage.in_context for passage in passages])
        if b"".join(keys) != self._entries[number].keys:
            warnings.warn(
                f"{file.path} changed since it was read and is left out: search again, in Python "
                f"with a new CorpusIndex",
                stacklevel=3,
            )
            return []
        return passages


def _absolute(corpus: str, files: list[CorpusFile]) -> list[bytes]:
    """The absolute paths of a corpus' files, by which a store knows them."""
    root = os.path.realpath(corpus)
    if not os.path.isdir(corpus):
        return [os.fsencode(root)]
    n_before = len(os.path.join(corpus, ""))
    return [os.fsencode(os.path.join(root, file.path[n_before:])) for file in files]


def _rows_by_key(
    stored: dict[bytes, FileVectors], current: dict[str, FileVectors]
) -> dict[bytes, npt.NDArray[np.float32]]:
    """The vectors of files that changed or are gone, whose passages may be found elsewhere."""
    used = {id(entry) for entry in current.values()}
    return {
        key: row
        for entry in stored.values()
        if id(entry) not in used
        for key, row in entry.by_key()
    }


def _slices(
    read: list[tuple[CorpusFile, list[str]]],
) -> Iterator[list[tuple[CorpusFile, list[str]]]]:
    """Cuts a list of files into parts of about `_SLICE_BYTES` of text."""
    part: list[tuple[CorpusFile, list[str]]] = []
    n_bytes = 0
    for file, texts in read:
        part.append((file, texts))
        n_bytes += sum(map(len, texts))
        if n_bytes > _SLICE_BYTES:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part
