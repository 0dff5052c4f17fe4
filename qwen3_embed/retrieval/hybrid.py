"""Hybrid search: vectors on meaning and BM25 on words, then perhaps a reranker.

BM25 is bm25s', which computes every word's score for every document when it indexes. A change of
the texts therefore only marks the words as stale; the next search indexes them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

try:
    import bm25s
except ModuleNotFoundError:
    raise ImportError(
        "hybrid search needs bm25s: pip install 'qwen3-embed-native[hybrid]'"
    ) from None
import numpy as np
import numpy.typing as npt

from ..embedder import Embedder
from ..encoding.texts import list_texts
from ..reranker import Reranker
from .npz import load_arrays, save_arrays
from .words import SMOOTHING, character_bigrams, combined, idf, words

__all__ = ["Hit", "HybridIndex", "character_bigrams", "fuse", "words"]

RRF_K = 60
_FORMAT = 1  # of the file


def fuse(rankings: Iterable[Sequence[int]], k: int = RRF_K) -> list[tuple[int, float]]:
    """Reciprocal rank fusion of lists of document numbers, best first.

    A document's score is the sum of 1 / (k + rank) over the lists that contain it (Cormack,
    Clarke and Buettcher, SIGIR 2009). It gives every list the same weight; `HybridIndex` does
    not use it, because that hurts where words are weak evidence.

    Returns
    -------
    list of (int, float)
        Document and score, best first; equal scores by number.

    Examples
    --------
    >>> [document for document, _ in fuse([[3, 1], [1, 2]])]
    [1, 3, 2]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(ranking, 1):
            scores[document] = scores.get(document, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))


class Hit(NamedTuple):
    """A search result: document number, score (hybrid, or the reranker's) and text."""

    document: int
    score: float
    text: str


class _Saved(NamedTuple):
    """The documents of a file: texts by number, (n, dim) vectors, the next document's number."""

    texts: dict[int, str]
    vectors: npt.NDArray[np.float32]
    next_number: int


class HybridIndex:
    """Texts, searched by meaning and by words at once; exact, in memory.

    A document's score is z + 2 c + 6 max(0, c - c5). z is its cosine with the query, less the mean
    and divided by the standard deviation of all documents' cosines, so that models with narrow
    and wide cosines count alike. c is the coverage of the query's words: the document's BM25
    score as a share of the summed IDF of the query's words, those that no document contains
    included, plus 4. It is near 1 if a document contains all of the query often, and near 0 for
    a query in another script, or of stop words. c5 is the fifth best document's coverage: a
    few documents that lead all others by their words are better evidence than words that many
    share. So words decide where they tell documents apart, and vectors elsewhere.
    docs/vectors.md has the measurements, and the sets that the weights were chosen on.

    Parameters
    ----------
    model : Embedder
    texts : iterable of str
        May be empty; their document numbers are 0, 1, 2, ...
    dim : int, optional
        Floats per vector.
    tokenize : callable
        str to list of str, for BM25; `character_bigrams`, or a segmenter for Chinese.

    Examples
    --------
    >>> index = HybridIndex(Embedder("mini"), texts)                       # doctest: +SKIP
    >>> index.search("ISO 9001 audit", top_k=5, reranker=ranker)           # doctest: +SKIP
    """

    def __init__(
        self,
        model: Embedder,
        texts: Iterable[str] = (),
        *,
        dim: int | None = None,
        tokenize: Callable[[str], list[str]] = character_bigrams,
        _saved: _Saved | None = None,
    ) -> None:
        self._model = model
        self._dim = model.dim if dim is None else dim
        self._tokenize = tokenize
        saved = _saved or _Saved({}, np.empty((0, self._dim), np.float32), 0)
        self._texts, self._vectors, self._next_number = saved
        self._words: _Words | None = None  # None: stale
        self.add(texts)

    def __len__(self) -> int:
        """Documents in the index."""
        return len(self._texts)

    @property
    def texts(self) -> dict[int, str]:
        """A copy of the texts by document number."""
        return dict(self._texts)

    def add(self, texts: Iterable[str]) -> list[int]:
        """Adds documents.

        Parameters
        ----------
        texts : iterable of str

        Returns
        -------
        list of int
            Their numbers, which no other document ever gets.
        """
        items = list_texts(texts)
        if not items:
            return []
        rows = self._model.encode_document(items, dim=self._dim)
        numbers = list(range(self._next_number, self._next_number + len(items)))
        self._vectors = np.concatenate([self._vectors, rows])
        self._texts.update(zip(numbers, items, strict=True))
        self._next_number += len(items)
        self._words = None
        return numbers

    def delete(self, documents: Iterable[int]) -> None:
        """Removes documents; the other documents keep their numbers.

        Parameters
        ----------
        documents : iterable of int
            Document numbers.

        Raises
        ------
        KeyError
            A number that is not in the index; nothing is removed then.
        """
        gone = set(documents)
        for number in gone:
            if number not in self._texts:
                raise KeyError(f"document {number!r} is not in the index")
        self._vectors = self._vectors[[number not in gone for number in self._texts]]
        self._texts = {n: text for n, text in self._texts.items() if n not in gone}
        self._words = None

    def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        candidates: int = 100,
        instruction: str | None = None,
        reranker: Reranker | None = None,
    ) -> list[Hit]:
        """The best documents, best first; equal scores by number.

        Parameters
        ----------
        query : str
        top_k : int
            Documents to return.
        candidates : int
            Documents that the reranker reads, at least `top_k`.
        instruction : str, optional
            For the query, and for the reranker.
        reranker : Reranker, optional
            Scores the best `candidates` again.

        Returns
        -------
        list of Hit
            Their scores compare within one query only.

        Raises
        ------
        ValueError
            `top_k` below 1.
        TypeError
            A reranker that is not a Reranker, such as a name.
        """
        if type(top_k) is not int or top_k < 1:
            raise ValueError(f"top_k={top_k!r}, expected a positive int")
        if not (reranker is None or isinstance(reranker, Reranker)):
            raise TypeError(f"reranker is {type(reranker).__name__}, expected a Reranker or None")
        row = self._model.encode_query(query, dim=self._dim, instruction=instruction)
        if not self._texts:
            return []
        scores = self._scores(query, row)
        best = _best(scores, top_k if reranker is None else max(candidates, top_k))
        numbers = list(self._texts)
        hits = [Hit(numbers[i], float(scores[i]), self._texts[numbers[i]]) for i in best.tolist()]
        if reranker is not None:
            texts = [hit.text for hit in hits]
            ranked = reranker.rank(query, texts, top_k=top_k, instruction=instruction)
            hits = [hits[entry["corpus_id"]]._replace(score=entry["score"]) for entry in ranked]
        return hits

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes texts and vectors to an .npz file; words are indexed again after `load`.

        Parameters
        ----------
        path : path-like
            The file, replaced in one step if it exists.
        """
        encoded = [text.encode() for text in self._texts.values()]
        save_arrays(
            path,
            format=_FORMAT,
            fingerprint=self._model.fingerprint,
            next_number=self._next_number,
            numbers=np.fromiter(self._texts, np.int64, len(self._texts)),
            vectors=self._vectors,
            text_bytes=np.frombuffer(b"".join(encoded), np.uint8),
            text_ends=np.cumsum([len(text) for text in encoded], dtype=np.int64),
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Embedder,
        *,
        tokenize: Callable[[str], list[str]] = character_bigrams,
    ) -> HybridIndex:
        """Reads a file that `save` wrote; no text is encoded again.

        Parameters
        ----------
        path : path-like
            The .npz file. Pickled content is never read.
        model : Embedder
            The model that the index was made with, by its fingerprint.
        tokenize : callable
            As for a new index; the file does not contain it.

        Returns
        -------
        HybridIndex

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a HybridIndex file, a damaged one, or one of another model.
        """
        arrays = load_arrays(path, "HybridIndex")
        try:
            texts = _checked_texts(arrays)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: not a HybridIndex file: {error}") from None
        if str(arrays["fingerprint"]) != model.fingerprint:
            raise ValueError(
                f"{path} was made with another model than {model.name}: open that model, or make "
                f"a new index"
            )
        saved = _Saved(texts, arrays["vectors"], int(arrays["next_number"]))
        return cls(model, dim=saved.vectors.shape[1], tokenize=tokenize, _saved=saved)

    def _scores(self, query: str, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The score of each document, in the order of `_texts`."""
        if self._words is None:
            self._words = _Words([self._tokenize(text) for text in self._texts.values()])
        return combined(self._vectors @ row, self._words.coverage(self._tokenize(query)))


class _Words:
    """BM25 of documents, and the IDF of their words.

    Parameters
    ----------
    documents : list of list of str
        Tokens per document.
    """

    def __init__(self, documents: list[list[str]]) -> None:
        self._n_documents = len(documents)
        self._bm25: bm25s.BM25 | None = None
        if any(documents):
            self._bm25 = bm25s.BM25(method="lucene")
            self._bm25.index(documents, show_progress=False)
            # Column i of bm25s' sparse scores holds the documents that contain word i.
            self._n_containing = np.diff(self._bm25.scores["indptr"])

    def coverage(self, tokens: list[str]) -> npt.NDArray[np.float32]:
        """BM25 over the query's summed IDF plus 4: (n_documents,) float32 in 0..1.

        Lucene's BM25 of one word is its IDF times a saturated count below 1.
        """
        if self._bm25 is None:
            return np.zeros(self._n_documents, np.float32)
        known = [token for token in tokens if token in self._bm25.vocab_dict]
        if not known:
            return np.zeros(self._n_documents, np.float32)
        total = sum(self._idf(token) for token in tokens)
        scores: npt.NDArray[np.float32] = self._bm25.get_scores(known)
        return scores / np.float32(total + SMOOTHING)

    def _idf(self, token: str) -> float:
        column = self._bm25.vocab_dict.get(token) if self._bm25 is not None else None
        n = 0 if column is None else int(self._n_containing[column])
        return idf(self._n_documents, n)


def _best(scores: npt.NDArray[np.float32], limit: int) -> npt.NDArray[np.intp]:
    """Indices of the `limit` highest scores, highest first; equal ones in their order."""
    chosen = np.arange(len(scores))
    if limit < len(scores):
        kth = len(scores) - limit
        # Scores that equal the last one taken stay in, for the stable sort to choose from.
        chosen = np.flatnonzero(scores >= np.partition(scores, kth)[kth])
    return chosen[np.argsort(-scores[chosen], kind="stable")[:limit]]


def _checked_texts(arrays: dict[str, npt.NDArray[np.generic]]) -> dict[int, str]:
    """The texts by number, if all arrays of a file agree; else ValueError says what does not."""
    if arrays["format"].tolist() != _FORMAT:
        raise ValueError(f"format {arrays['format']}, expected {_FORMAT}")
    numbers, ends = arrays["numbers"], arrays["text_ends"]
    vectors, text_bytes = arrays["vectors"], arrays["text_bytes"]
    n = len(numbers)
    for name, array, dtype, shape in (
        ("numbers", numbers, np.int64, (n,)),
        ("text_ends", ends, np.int64, (n,)),
        ("vectors", vectors, np.float32, (n, *vectors.shape[1:2])),
        ("text_bytes", text_bytes, np.uint8, text_bytes.shape[:1]),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    keys = [int(number) for number in numbers]
    next_number = int(arrays["next_number"])
    if keys != sorted(set(keys)) or (keys and not 0 <= keys[0] <= keys[-1] < next_number):
        raise ValueError("document numbers are not increasing")
    if not np.isfinite(vectors.astype(np.float32)).all() or vectors.ndim != 2:
        raise ValueError("vectors are not finite")
    return dict(zip(keys, _texts_of(text_bytes.tobytes(), ends.tolist()), strict=True))


def _texts_of(content: bytes, ends: list[int]) -> Iterator[str]:
    if ends != sorted(ends) or (ends[-1] if ends else 0) != len(content):
        raise ValueError("the ends of texts do not fit their bytes")
    begin = 0
    for end in ends:
        yield content[begin:end].decode()
        begin = end
