"""The baseline: BM25 over words and pairs of Chinese characters."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

import numpy as np

K1, B = 1.5, 0.75
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TERM = re.compile(r"[a-z]+|[0-9]+|[\u3400-\u9fff]+|[^\W\d_a-z\u3400-\u9fff]+")


def terms(text: str) -> list[str]:
    """Cut a text into lower-case words, parts of identifiers and Chinese pairs."""
    found = []
    for term in _TERM.findall(_CAMEL.sub(" ", text).lower()):
        if "\u3400" <= term[0] <= "\u9fff" and len(term) > 1:
            found += [term[i : i + 2] for i in range(len(term) - 1)]
        else:
            found.append(term)
    return found


def bm25(queries: list[str], documents: list[str]) -> np.ndarray:
    """Return the BM25 scores (n_queries, n_documents) fp32."""
    counts = [Counter(terms(text)) for text in documents]
    lengths = np.array([max(1, c.total()) for c in counts], dtype=np.float64)
    norm = K1 * (1 - B + B * lengths / lengths.mean())
    postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, counter in enumerate(counts):
        for term, n in counter.items():
            postings[term].append((i, n))
    scores = np.zeros((len(queries), len(documents)), dtype=np.float32)
    for row, query in enumerate(queries):
        for term, weight in Counter(terms(query)).items():
            found = postings.get(term)
            if not found:
                continue
            at = np.array([i for i, _ in found])
            n = np.array([n for _, n in found], dtype=np.float64)
            idf = math.log(1 + (len(documents) - len(found) + 0.5) / (len(found) + 0.5))
            scores[row, at] += weight * idf * n * (K1 + 1) / (n + norm[at])
    return scores
