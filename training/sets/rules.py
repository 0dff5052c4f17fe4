"""The rules that each set keeps, and the figures that show it.

BM25 is that of `qwen3_embed.integrations.hybrid`: bm25s with `character_bigrams`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise

import bm25s
import numpy as np

from qwen3_embed.integrations.hybrid import character_bigrams, words
from training.sets.source import Item

CANDIDATES = 16
BM25_TOP1_BELOW = 0.45
SHARED_BELOW = 0.5
KINDS = {"hard_zh": 8, "hard_en": 8, "zh_en": 2, "code": 3}
QUERIES_PER_KIND = {"hard_zh": 40, "hard_en": 6, "zh_en": 30, "code": 12}
QUERIES = {"hard_zh": 320, "hard_en": 60, "zh_en": 60, "code": 60}
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


def units(query: str) -> set[str]:
    """The units by which two queries are compared.

    Pairs of neighbouring characters, without spaces and punctuation, for a query with Chinese
    characters; pairs of neighbouring words for any other, because English sentences share half
    of their letter pairs by chance.
    """
    found = words(query)
    if not _CHINESE.search(query):
        return {f"{one} {other}" for one, other in pairwise(found)}
    return {one + other for one, other in pairwise("".join(found))}


def shared(one: str, other: str) -> float:
    """Containment: the common units as a share of the smaller set. It is never below Jaccard's."""
    a, b = units(one), units(other)
    return len(a & b) / max(1, min(len(a), len(b)))


def bm25_scores(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """BM25 of each query with its candidates, the answer first.

    Returns
    -------
    two float arrays [queries, 16]
        IDF from the query's 16 candidates; IDF from all candidates of the set.
    """
    texts = list(dict.fromkeys(text for item in items for text in item.candidates))
    position = {text: i for i, text in enumerate(texts)}
    whole = bm25s.BM25()
    whole.index([character_bigrams(text) for text in texts], show_progress=False)
    of_16, of_all = [], []
    for item in items:
        tokens = character_bigrams(item.query)
        own = bm25s.BM25()
        own.index([character_bigrams(text) for text in item.candidates], show_progress=False)
        of_16.append(own.get_scores(tokens))
        scores = whole.get_scores(tokens)
        of_all.append(scores[[position[text] for text in item.candidates]])
    return np.array(of_16), np.array(of_all)


def top1(scores: np.ndarray) -> np.ndarray:
    """Mask of the rows that the first column wins; a tie above zero counts as a win (strict)."""
    won: np.ndarray = (scores[:, 0] >= scores.max(1)) & (scores[:, 0] > 0)
    return won


def without_query(items: Sequence[Item]) -> dict[str, float]:
    """Top-1 of guesses that read no query: what the form of the candidates gives away."""
    lengths = np.array([[len(text) for text in item.candidates] for item in items])
    guesses: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "longest": lambda n: n.max(1, keepdims=True),
        "shortest": lambda n: n.min(1, keepdims=True),
    }
    found = {}
    for name, best in guesses.items():
        hits = lengths == best(lengths)
        found[name] = float((hits[:, 0] / hits.sum(1)).mean())
    return found


def broken(name: str, items: Sequence[Item]) -> Iterator[str]:
    """Each rule that the set breaks, in words."""
    kinds = {item.kind for item in items}
    if len(items) < QUERIES[name]:
        yield f"{name}: {len(items)} queries, expected {QUERIES[name]}"
    if len(kinds) < KINDS[name]:
        yield f"{name}: {len(kinds)} kinds, expected {KINDS[name]}"
    for kind in sorted(kinds):
        of_kind = [item for item in items if item.kind == kind]
        if len(of_kind) < QUERIES_PER_KIND[name]:
            yield f"{kind}: {len(of_kind)} queries, expected {QUERIES_PER_KIND[name]}"
        for one, other in combinations(of_kind, 2):
            if (share := shared(one.query, other.query)) >= SHARED_BELOW:
                yield f"{kind}: {one.query!r} and {other.query!r} share {share:.0%}"
    for item in items:
        texts = item.candidates
        if len(texts) != CANDIDATES or len(set(texts)) != CANDIDATES:
            yield f"{item.id}: {len(set(texts))} different candidates, expected {CANDIDATES}"
        if any(text != text.strip() or not text for text in (item.query, *texts)):
            yield f"{item.id}: a text is empty, or begins or ends with a space"
    for idf, scores in zip(("16 candidates", "the set"), bm25_scores(items), strict=True):
        if (share := top1(scores).mean()) >= BM25_TOP1_BELOW:
            yield f"{name}: BM25's Top-1 is {share:.1%} with the IDF of {idf}"


def report(name: str, items: Sequence[Item]) -> list[str]:
    """Prints the set's figures; returns the rules that it breaks."""
    if not items:
        return [f"{name} has no sources"]
    of_16, of_all = (top1(scores) for scores in bm25_scores(items))
    print(f"{name}: {len(items)} queries")
    print(f"  {'kind':<12} queries  BM25 Top-1 (IDF of 16, of all)  most shared by two queries")
    for kind in dict.fromkeys(item.kind for item in items):
        mask = np.array([item.kind == kind for item in items])
        queries = [item.query for item in items if item.kind == kind]
        most = max(shared(*pair) for pair in combinations(queries, 2))
        figures = f"{of_16[mask].mean():6.1%} {of_all[mask].mean():6.1%}"
        print(f"  {kind:<12} {mask.sum():7}  {figures:<31} {most:.0%}")
    print(f"  {'all':<12} {len(items):7}  {of_16.mean():6.1%} {of_all.mean():6.1%}")
    guesses = ", ".join(f"{guess} {share:.1%}" for guess, share in without_query(items).items())
    print(f"  Top-1 without the query: {guesses}; by chance {1 / CANDIDATES:.1%}")
    return list(broken(name, items))
