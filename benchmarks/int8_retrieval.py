"""nDCG@10 of the embedded model in bf16 and in int8, on its five held-out tasks.

    python -m benchmarks.int8_retrieval --work WORK --csv

WORK is the folder that training/mini/build.py fills. `difference` is int8 less bf16 in points of
100, with its paired 95 % interval over queries; a task's first --queries queries are asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import model_folder, parser_of, record
from qwen3_embed import Embedder
from qwen3_embed.evaluation.bootstrap import Bootstrap
from training.mini.evaluate import read_tasks

DEPTH = 10


def values_of(model: Embedder, queries: list[str], documents: list[str]) -> Any:
    """(queries,) nDCG@10: query i has one right document, i."""
    scores = model.encode_query(queries) @ model.encode(documents).T
    right = scores[np.arange(len(queries)), np.arange(len(queries))]
    ranks = (scores > right[:, None]).sum(axis=1)
    return np.where(ranks < DEPTH, 1 / np.log2(ranks + 2), 0.0)


def result_of(name: str, bf16: Any, int8: Any) -> dict[str, Any]:
    low, high = Bootstrap(len(bf16)).intervals((int8 - bf16)[:, None])[:, 0] * 100
    return {
        "task": name,
        "queries": len(bf16),
        "bf16": round(100 * float(bf16.mean()), 2),
        "int8": round(100 * float(int8.mean()), 2),
        "difference": round(100 * float((int8 - bf16).mean()), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=1 << 30, help="of each task, at most")
    parser.add_argument("--documents", type=int, default=1 << 30, help="of each task, at most")
    arguments = parser.parse_args()
    arguments.model = arguments.model or Path("mini")
    folder = model_folder(arguments)
    results, all_bf16, all_int8 = [], [], []
    with (
        Embedder(folder, device="cpu") as plain,
        Embedder(folder, device="cpu", dtype="int8") as model,
    ):
        for task in read_tasks(arguments.work):
            queries = task.queries[: arguments.queries]
            documents = task.documents[: max(arguments.documents, len(queries))]
            bf16, int8 = (values_of(each, queries, documents) for each in (plain, model))
            results.append(result_of(task.name, bf16, int8))
            print(results[-1], flush=True)
            all_bf16.append(bf16)
            all_int8.append(int8)
    results.append(result_of("all", np.concatenate(all_bf16), np.concatenate(all_int8)))
    record("int8_retrieval", arguments, results)


if __name__ == "__main__":
    main()
