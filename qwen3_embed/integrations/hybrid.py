"""Hybrid search: BM25 on words, vectors on meaning, fused by rank, then perhaps a reranker.

Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): a document's score is the sum of
1 / (60 + rank) over the lists that it is in, so that scores of different kinds need no scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import bm25s
import numpy as np

from ..embedder import Embedder
from ..encoding.texts import list_texts
from ..reranker import Reranker

__all__ = ["Hit", "HybridIndex", "character_bigrams", "fuse", "words"]

RRF_K = 60
_WORD = re.compile(r"\w+")
_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


def words(text: str) -> list[str]:
    """Lower-case words, as most languages with spaces need them."""
    return _WORD.findall(text.lower())


def character_bigrams(text: str) -> list[str]:
    """Words, but pairs of characters of scripts that are written without spaces.

    For Chinese, a segmenter such as `jieba.lcut` can be given in its place.

    Examples
    --------
    >>> character_bigrams("GPU 重力加速度")
    ['gpu', '重力', '力加', '加速', '速度']
    """
    found = []
    for word in words(text):
        if _WITHOUT_SPACES.search(word) and len(word) > 1:
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        else:
            found.append(word)
    return found


def fuse(rankings: Iterable[Sequence[int]], k: int = RRF_K) -> list[tuple[int, float]]:
    """Reciprocal rank fusion of lists of document numbers, best first.

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
    """A document found: its number, its score (fused, or the reranker's), its text."""

    document: int
    score: float
    text: str


class HybridIndex:
    """Texts that are searched by words and by meaning at once; exact, in memory.

    Parameters
    ----------
    model : Embedder
    texts : iterable of str
    dim : int, optional
        Floats per vector.
    tokenize : callable
        str to list of str, for BM25; `character_bigrams` or a segmenter for Chinese.

    Examples
    --------
    >>> index = HybridIndex(Embedder("mini"), texts)                       # doctest: +SKIP
    >>> index.search("ISO 9001 audit", top_k=5, reranker=ranker)           # doctest: +SKIP
    """

    def __init__(
        self,
        model: Embedder,
        texts: Iterable[str],
        *,
        dim: int | None = None,
        tokenize: Callable[[str], list[str]] = character_bigrams,
    ) -> None:
        self.texts = list_texts(texts)
        if not self.texts:
            raise ValueError("texts is empty, expected at least one")
        self._model = model
        self._dim = dim
        self._tokenize = tokenize
        self._vectors = model.encode_document(self.texts, dim=dim)
        tokens = [tokenize(text) for text in self.texts]
        self._bm25: bm25s.BM25 | None = None
        if any(tokens):
            self._bm25 = bm25s.BM25()
            self._bm25.index(tokens, show_progress=False)

    def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        candidates: int = 100,
        instruction: str | None = None,
        reranker: Reranker | None = None,
    ) -> list[Hit]:
        """The best documents, best first.

        Parameters
        ----------
        query : str
        top_k : int
            Documents to return.
        candidates : int
            Documents that each of the two searches hands on.
        instruction : str, optional
            For the query, and for the reranker.
        reranker : Reranker, optional
            Scores the best `candidates` of the fused list anew.
        """
        if type(top_k) is not int or top_k < 1:
            raise ValueError(f"top_k={top_k!r}, expected a positive int")
        candidates = max(candidates, top_k)
        fused = fuse(
            [self._by_words(query, candidates), self._by_meaning(query, candidates, instruction)]
        )
        hits = [Hit(i, score, self.texts[i]) for i, score in fused[:candidates]]
        if reranker is not None:
            texts = [hit.text for hit in hits]
            ranked = reranker.rank(query, texts, top_k=top_k, instruction=instruction)
            hits = [hits[entry["corpus_id"]]._replace(score=entry["score"]) for entry in ranked]
        return hits[:top_k]

    def _by_words(self, query: str, limit: int) -> list[int]:
        tokens = self._tokenize(query)
        if self._bm25 is None or not tokens:
            return []
        scores = self._bm25.get_scores(tokens)
        order = np.argsort(-scores, kind="stable")[:limit]
        return [int(i) for i in order if scores[i] > 0]

    def _by_meaning(self, query: str, limit: int, instruction: str | None) -> list[int]:
        row = self._model.encode_query(query, dim=self._dim, instruction=instruction)
        order = np.argsort(-(self._vectors @ row), kind="stable")[:limit]
        return [int(i) for i in order]
