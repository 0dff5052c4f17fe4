"""Domain maps: gain on idioms, declines where a map hurts, and the linter's set of training/lora.

python -m benchmarks.domain --work WORK [--csv]

WORK is the folder of benchmarks.retrieval_sets. A map is fitted on 300 texts, queries and documents
alike, and measured by its gate on other pairs; `test` is the effect on the queries of neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import parser_of, record
from benchmarks.retrieval_sets import idiom_pairs, ndcg_at_10, read_sets
from qwen3_embed import DomainMap, Embedder, fit_domain

N_SPLITS = 20
N_TEXTS = 300
N_GATE = 200
MIN_QUERIES = 500


class Stored:
    """Looks vectors up that were encoded before; queries and documents by their own text."""

    name = "stored"
    fingerprint = "stored"
    projection = None

    def __init__(self, queries: dict[str, Any], documents: dict[str, Any]) -> None:
        self._queries = queries
        self._documents = {**queries, **documents}
        self.dim = len(next(iter(documents.values())))

    def encode_query(self, texts: list[str]) -> Any:
        return np.array([self._queries[text] for text in texts])

    def encode_document(self, texts: list[str]) -> Any:
        return np.array([self._documents[text] for text in texts])


def effect(domain: DomainMap, power: float, queries: Any, documents: Any) -> Any:
    """nDCG@10 of each query with the map, kept or not."""
    from qwen3_embed.retrieval.whitening import FixedMatrix, apply_matrix, fit_matrix

    matrix = FixedMatrix.of(fit_matrix(domain.moments, power))
    mapped = [
        apply_matrix(rows, matrix, rows.shape[1], normalize=True) for rows in (queries, documents)
    ]
    return ndcg_at_10(mapped[0] @ mapped[1].T)


def splits(name: str, texts: list[str], answers: list[str], queries: Any, documents: Any) -> Any:
    model = Stored(
        dict(zip(texts, queries, strict=True)), dict(zip(answers, documents, strict=False))
    )
    kept, gains = 0, []
    before = ndcg_at_10(queries @ documents.T)
    for seed in range(N_SPLITS):
        order = np.random.default_rng(seed).permutation(len(texts))
        fit, gate = order[: N_TEXTS // 2], order[N_TEXTS // 2 : N_TEXTS // 2 + N_GATE]
        examples = [text for i in fit for text in (texts[i], answers[i])]
        domain = fit_domain(model, examples, held_out=[(texts[i], answers[i]) for i in gate])
        kept += domain.matrix is not None
        rest = order[N_TEXTS // 2 + N_GATE :]
        gains.append((effect(domain, 0.25, queries, documents) - before)[rest].mean())
    return {
        "set": name,
        "texts": N_TEXTS,
        "gate_pairs": N_GATE,
        "splits": N_SPLITS,
        "kept": kept,
        "declined": N_SPLITS - kept,
        "test_gain": round(float(np.mean(gains)), 2),
        "test_gain_lowest": round(float(np.min(gains)), 2),
        "test_gain_highest": round(float(np.max(gains)), 2),
    }


def idioms(model: Embedder, pairs: list[tuple[str, str]], queries: Any, documents: Any) -> Any:
    """The gain on the 800 test queries, of maps from other idioms."""
    before = ndcg_at_10(queries @ documents.T).mean()
    for kind, n in (
        ("texts", 100),
        ("texts", 300),
        ("texts", 1000),
        ("pairs", 300),
        ("pairs", 2000),
    ):
        examples: Any = pairs[3000 : 3000 + (n if kind == "pairs" else n // 2)]
        held_out = None
        if kind == "texts":
            examples = [text for pair in examples for text in pair]
            held_out = pairs[5000:5200]
        domain = fit_domain(model, examples, held_out=held_out)
        after = effect(domain, 0.25, queries, documents).mean()
        yield {
            "examples": f"{n} {kind}",
            "test_queries": len(queries),
            "before": round(float(before), 2),
            "after": round(float(after), 2),
            "report": domain.report,
        }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    results, found = [], []
    for task, queries, documents in read_sets(arguments.work):
        if task.name == "idioms":
            with Embedder("mini") as model:
                pairs = idiom_pairs(arguments.work / "idiom.csv")
                for result in idioms(model, pairs, queries, documents):
                    found.append(result)
                    print(result, flush=True)
        if len(task.queries) >= MIN_QUERIES:
            answers = list(task.documents)
            results.append(splits(task.name, list(task.queries), answers, queries, documents))
            print(results[-1], flush=True)
    record("domain_splits", arguments, results)
    record("domain_idioms", arguments, found)


if __name__ == "__main__":
    main()
