"""Quality of a model and of BM25 on the built-in sets: Top-1/3/5 and nDCG@10 over 16 candidates.

python -m training.sets.measure [--model mini] [hard_zh ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from qwen3_embed import Embedder
from training.sets import rules, source
from training.sets.source import Item

CUTS = (1, 3, 5)
NDCG_AT = 10


def metrics(scores: np.ndarray) -> np.ndarray:
    """Top-1, Top-3, Top-5 and nDCG@10 of each query, as expected if ties fall by chance.

    Parameters
    ----------
    scores : float array [queries, candidates]
        The answer first. One relevant document: its gain at rank r is 1 / log2(r + 1), the ideal 1.

    Returns
    -------
    float array [queries, 4]
    """
    better = (scores > scores[:, :1]).sum(1)
    equal = (scores == scores[:, :1]).sum(1)
    ranks = np.arange(1, scores.shape[1] + 1)
    gains = [np.where(ranks <= cut, 1.0, 0.0) for cut in CUTS]
    gains.append(np.where(ranks <= NDCG_AT, 1 / np.log2(ranks + 1), 0.0))
    rows = []
    for first, count in zip(better, equal, strict=True):
        rows.append([gain[first : first + count].mean() for gain in gains])
    return np.array(rows)


def model_scores(model: Embedder, items: Sequence[Item]) -> np.ndarray:
    """Cosines [queries, 16]."""
    texts = list(dict.fromkeys(text for item in items for text in item.candidates))
    position = {text: i for i, text in enumerate(texts)}
    vectors = model.encode_document(texts)
    queries = model.encode_query([item.query for item in items])
    rows = [vectors[[position[text] for text in item.candidates]] for item in items]
    cosines: np.ndarray = np.einsum("qcd,qd->qc", np.array(rows), queries)
    return cosines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help="sets (default: all)")
    parser.add_argument("--model", nargs="+", default=["mini"])
    arguments = parser.parse_args()
    models = {name: Embedder(name) for name in arguments.model}
    print(f"{'set':<8} {'kind':<18} {'model':<6} queries  Top-1  Top-3  Top-5  nDCG@10")
    for name in arguments.names or source.SETS:
        items = source.read_items(source.SHIPPED / f"{name}.jsonl")
        systems = {"BM25": rules.bm25_scores(items)[0]}
        systems |= {key: model_scores(model, items) for key, model in models.items()}
        kinds = np.array([item.kind for item in items])
        for kind in [*dict.fromkeys(kinds.tolist()), "all"]:
            mask = (kinds == kind) | (kind == "all")
            for system, scores in systems.items():
                figures = metrics(scores[mask]).mean(0) * 100
                row = "  ".join(f"{figure:5.1f}" for figure in figures)
                print(f"{name:<8} {kind:<18} {system:<6} {mask.sum():7}  {row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
