"""Words as evidence beside vectors: how texts are cut into words, and how both are combined."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["SMOOTHING", "WordCoverage", "character_bigrams", "combined", "idf", "words"]

_WORD = re.compile(r"\w+")
_INSIDE_IDENTIFIER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")

# Weights of the words, in standard deviations of a query's cosines; see `combined`.
_COVERAGE = 2.0
_LEAD = 6.0
_LEAD_OVER = 5  # the rank, by coverage, of the document that the lead is measured from

SMOOTHING = 4.0
"""IDF added to every query's, as if it had one more word, which never matches."""


def words(text: str) -> list[str]:
    """Lower-case words; identifiers are cut at underscores and where the case changes.

    Examples
    --------
    >>> words("The readTextFile of read_file")
    ['the', 'read', 'text', 'file', 'of', 'read', 'file']
    """
    return _WORD.findall(_INSIDE_IDENTIFIER.sub(" ", text).lower())


def character_bigrams(text: str) -> list[str]:
    """Words, but pairs of characters in scripts that are written without spaces.

    For Chinese, a segmenter such as `jieba.lcut` can be given instead.

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


def idf(n_documents: int, n_containing: int) -> float:
    """Lucene's inverse document frequency of a word, as of bm25s."""
    return float(np.log1p((n_documents - n_containing + 0.5) / (n_containing + 0.5)))


def combined(
    cosines: npt.NDArray[np.float32], coverage: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Scores of documents by meaning and by words: z + 2 c + 6 max(0, c - c5).

    `HybridIndex` explains the formula.

    Parameters
    ----------
    cosines, coverage : ndarray
        (n,) float32, n at least 1.
    """
    scores = cosines - cosines.mean()
    deviation = cosines.std()
    if deviation > 0:
        scores /= deviation
    kth = max(0, len(coverage) - _LEAD_OVER)
    lead = np.maximum(0, coverage - np.partition(coverage, kth)[kth])
    total: npt.NDArray[np.float32] = scores + _COVERAGE * coverage + _LEAD * lead
    return total


class WordCoverage:
    """The share of a query's words, weighted by IDF, that each of many short texts contains.

    BM25 without counts, which say little about a sentence: a text is added in constant time, while
    BM25's index would be built again. Words of the query that no text contains are not counted:
    where texts are few, "where" and "the" may be among them. Texts have the numbers 0, 1, 2, ...
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._containing: dict[str, list[int]] = defaultdict(list)
        self._n_texts = 0
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds a text under the next number."""
        for word in set(character_bigrams(text)):
            self._containing[word].append(self._n_texts)
        self._n_texts += 1

    def of(self, query: str) -> npt.NDArray[np.float32]:
        """(n_texts,) float32 in 0..1."""
        coverage = np.zeros(self._n_texts, np.float32)
        total = SMOOTHING
        for word in set(character_bigrams(query)):
            if containing := self._containing.get(word):
                weight = idf(self._n_texts, len(containing))
                coverage[containing] += weight
                total += weight
        return coverage / np.float32(total)
