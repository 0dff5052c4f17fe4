"""A funnel over dimensions whose candidate sets depend on the query, against one of fixed sets.

python -m benchmarks.dynamic_dimension --work WORK [--csv]

Both compare all documents at 32 dims and candidates at 64, 128 and 256. The fixed funnel keeps c,
c/2 and c/4 documents (ten at least); the dynamic one keeps those whose cosine is within a margin
of the tenth best, so that it goes on only while the margin is small. Per stage the margin is set
so that both read as many dimensions, averaged over all query-document pairs. Then the same with
the two stages of staged_search: bits of all documents, vectors of c candidates. A bit is 1/32 of
a dimension.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import parser_of, record
from benchmarks.retrieval_sets import Floats, read_sets
from qwen3_embed.evaluation.bootstrap import Bootstrap

DIMS = (32, 64, 128, 256)
CANDIDATES = (20, 40, 80, 160)
TOP_K = 10


def scores_at(queries: Floats, documents: Floats, dim: int) -> Floats:
    cut = [
        rows[:, :dim] / np.linalg.norm(rows[:, :dim], axis=1)[:, None]
        for rows in (queries, documents)
    ]
    return cut[0] @ cut[1].T


def tenth_best(scores: Floats, alive: Any) -> Floats:
    shown = np.where(alive, scores, -np.inf)
    return -np.partition(-shown, TOP_K - 1, axis=1)[:, TOP_K - 1 : TOP_K]


def fixed(scores: Floats, alive: Any, n_kept: int) -> Any:
    shown = np.where(alive, scores, -np.inf)
    order = np.argsort(-shown, axis=1, kind="stable")[:, :n_kept]
    kept = np.zeros_like(alive)
    np.put_along_axis(kept, order, True, axis=1)
    return kept & alive


def within_margin(scores: Floats, alive: Any, n_kept: int) -> Any:
    """Those near the tenth best; `n_kept` is the mean over queries. Random ones of equal margin."""
    below = np.where(alive, tenth_best(scores, alive) - scores, np.inf)
    n_all = n_kept * len(scores)
    margin = np.sort(below, axis=None)[n_all - 1]
    kept = below < margin
    ties = np.flatnonzero(below == margin)
    kept.reshape(-1)[np.random.default_rng(0).permutation(ties)[: n_all - kept.sum()]] = True
    return kept


def funnel(stages: list[tuple[float, Floats]], n_first: int, keep: Any) -> tuple[Floats, float]:
    """Scores of the last stage, -inf for documents left behind; dimensions read per pair."""
    alive = np.ones_like(stages[0][1], bool)
    cost = stages[0][0]
    for number, ((dims, scores), (next_dims, _)) in enumerate(pairwise(stages)):
        alive = keep(scores, alive, max(TOP_K, n_first >> number))
        cost += float(alive.mean()) * (next_dims - (dims if dims >= 1 << 5 else 0))
    return np.where(alive, stages[-1][1], -np.inf).astype(np.float32), cost


def quality(scores: Floats, exact: Any) -> tuple[Any, Any]:
    """Per query: nDCG@10 where document i is right for query i; recall of the exact ten."""
    right = np.take_along_axis(scores, np.arange(len(scores))[:, None], axis=1)
    ranks = (scores >= right).sum(axis=1)
    found = np.isfinite(right[:, 0]) & (ranks <= TOP_K)
    gains = np.where(found, 100 / np.log2(1 + ranks), 0)
    return gains, 100 * np.isfinite(np.take_along_axis(scores, exact, axis=1)).mean(axis=1)


def compared(stages: list[tuple[float, Floats]], n_first: int, exact: Any) -> dict[str, Any]:
    """The result of both funnels with `n_first` candidates."""
    by_count, cost = funnel(stages, n_first, fixed)
    by_margin, dynamic_cost = funnel(stages, n_first, within_margin)
    gains, recalls = quality(by_count, exact)
    dynamic_gains, dynamic_recalls = quality(by_margin, exact)
    difference = (dynamic_gains - gains)[:, None]
    (low,), (high,) = Bootstrap(len(gains)).intervals(difference).tolist()
    return {
        "candidates": n_first,
        "fixed_dims_per_pair": round(cost, 2),
        "dynamic_dims_per_pair": round(dynamic_cost, 2),
        "fixed": round(float(gains.mean()), 2),
        "dynamic": round(float(dynamic_gains.mean()), 2),
        "difference": round(float(difference.mean()), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "fixed_recall": round(float(recalls.mean()), 2),
        "dynamic_recall": round(float(dynamic_recalls.mean()), 2),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of training/mini/build.py")
    arguments = parser.parse_args()
    results = []
    for task, queries, documents in read_sets(arguments.work):
        cosines = [(float(dim), scores_at(queries, documents, dim)) for dim in DIMS]
        signs = [np.where(rows > 0, 1, -1).astype(np.float32) for rows in (queries, documents)]
        bits = (queries.shape[1] / 32, signs[0] @ signs[1].T)
        exact = np.argsort(-cosines[-1][1], axis=1)[:, :TOP_K]
        for first, stages in (("32 dims", cosines), ("bits", [bits, cosines[-1]])):
            for n_first in CANDIDATES:
                about = {"set": task.name, "queries": len(queries), "first_stage": first}
                results.append(about | compared(stages, n_first, exact))
    record("dynamic_dimension", arguments, results)


if __name__ == "__main__":
    main()
