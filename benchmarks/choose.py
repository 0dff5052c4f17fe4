"""`choose` on random halves: chosen on one half of the queries, checked on the other.

python -m benchmarks.choose --work WORK [--halves 40] [--csv]

Per set: how often the choice reaches the target on the other half, how often it costs at most
twice the cheapest setting that reaches it there, and the same for choices by pseudo-queries,
which are checked on the set's own queries.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from benchmarks.record import parser_of, record
from benchmarks.retrieval_sets import read_sets
from qwen3_embed import Embedder
from qwen3_embed.evaluation.bootstrap import ratio_bounds
from qwen3_embed.evaluation.choice import choose
from qwen3_embed.evaluation.choice_report import Cost, cost_of
from qwen3_embed.evaluation.pseudo_queries import take_sentences
from qwen3_embed.evaluation.rankings import Index, Setting

TARGETS = (0.98, 0.95)
DIMS = (256, 192, 128, 96, 64, 48, 32)
OVERSAMPLES = (2, 4, 10, 20)

Values = npt.NDArray[np.float64]


def settings(n_documents: int) -> list[Setting]:
    """The grid of `choose`; full vectors first."""
    found = [Setting(dim, p) for dim in DIMS for p in ("float32", "int8", "binary")]  # type: ignore[arg-type]
    kept = [o for o in OVERSAMPLES if 10 * o <= n_documents / 10]
    return found + [Setting(dim, "binary+int8", o) for dim in DIMS for o in kept]


def quality(queries: Any, documents: Any, grid: list[Setting]) -> Values:
    """(n_queries, n_settings): nDCG@10 where document i is right for query i."""
    columns = []
    for setting in grid:
        rankings = Index(documents, setting, "mini").rank(queries, 10)
        places = [np.flatnonzero(ranking[:10] == i) for i, ranking in enumerate(rankings)]
        columns.append([1 / np.log2(2 + place[0]) if len(place) else 0.0 for place in places])
    return np.array(columns).T


def cheapest(grid: list[Setting], reaches: npt.NDArray[np.bool_], minimise: Cost) -> int:
    return min(np.flatnonzero(reaches).tolist(), key=lambda i: cost_of(grid[i], minimise))


def halves(values: Values, n_halves: int) -> list[tuple[Values, Values]]:
    """Per split, (n_settings,) bounds on one half and ratios on the other."""
    found = []
    for seed in range(n_halves):
        order = np.random.default_rng(seed).permutation(len(values))
        own, other = np.array_split(values[order], 2)
        found.append((ratio_bounds(own)[1], other.mean(axis=0) / other[:, 0].mean()))
    return found


def result_of(
    splits: list[tuple[Values, Values]], grid: list[Setting], target: float, minimise: Cost
) -> dict[str, Any]:
    n_reach, ratios, picks = 0, [], []
    for bounds, true in splits:
        chosen = cheapest(grid, bounds >= target, minimise)
        best = cheapest(grid, true >= target, minimise)
        n_reach += bool(true[chosen] >= target)
        ratios.append(cost_of(grid[chosen], minimise)[0] / cost_of(grid[best], minimise)[0])
        picks.append(str(grid[chosen]))
    return {
        "target": target,
        "minimise": minimise,
        "halves": len(splits),
        "reach": n_reach,
        "at_most_twice": sum(ratio <= 2 for ratio in ratios),
        "median_cost_ratio": round(statistics.median(ratios), 2),
        "most_often": statistics.mode(picks),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of training/mini/build.py")
    parser.add_argument("--halves", type=int, default=40)
    arguments = parser.parse_args()
    results, pseudo = [], []
    with Embedder("mini") as model:
        for task, queries, documents in read_sets(arguments.work):
            grid = settings(len(documents))
            values = quality(queries, documents, grid)
            splits = halves(values, arguments.halves)
            about = {"set": task.name, "queries_per_half": len(values) // 2}
            for target in TARGETS:
                for minimise in get_args(Cost):
                    results.append(about | result_of(splits, grid, target, minimise))
                    print(results[-1], flush=True)
            true = dict(zip(grid, values.mean(axis=0) / values[:, 0].mean(), strict=True))
            sentences = take_sentences(task.name, list(task.documents))
            try:
                choice = choose(sentences, model, target=0.95)
            except ValueError as error:  # nothing is found by its sentences
                print(f"{task.name}: {error}")
                continue
            setting = choice.chosen.setting
            pseudo.append(
                {
                    "set": task.name,
                    "pseudo_queries": choice.n_queries,
                    "target": 0.95,
                    "chosen": str(setting),
                    "ratio_on_pseudo_queries": round(choice.chosen.ratio, 4),
                    "ratio_on_own_queries": round(float(true[setting]), 4),
                }
            )
            print(pseudo[-1], flush=True)
    record("choose", arguments, results)
    record("choose_pseudo_queries", arguments, pseudo)


if __name__ == "__main__":
    main()
