"""Losses of int8 codes and of bits: nDCG@10 of codes, recall@10 of bits rescored by codes.

python -m benchmarks.vectors --work WORK --csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import parser_of, record
from benchmarks.retrieval_sets import Floats, ndcg_at_10, read_sets
from qwen3_embed import Quantizer, staged_search
from qwen3_embed.retrieval.quantizer import default_quantizer, quantize_binary
from qwen3_embed.retrieval.similarity import similarity

OVERSAMPLING = (2, 4, 10, 20)
N_QUERIES = 500  # of each set, for recall


def scores_of(a: Floats, b: Floats) -> dict[str, Floats]:
    """Dot product, cosine and negated squared L2 distance of all rows, without rounding."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    dots = left @ right.T
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)
    return {"dot": dots, "cosine": similarity(a, b), "l2": 2 * dots - squares}


def quality(name: str, queries: Floats, documents: Floats) -> list[dict[str, Any]]:
    """nDCG@10 of codes less that of vectors, and the standard error of the difference."""
    exact = ndcg_at_10(queries @ documents.T)
    results = []
    for label, quantizer in (
        ("fitted", Quantizer.fit(documents)),
        ("mini's constant", default_quantizer("mini", documents.shape[1])),
        ("formula", default_quantizer("another model", documents.shape[1])),
        ("ranges", Quantizer.fit(documents, kind="ranges")),
    ):
        codes = [quantizer.quantize(x, "int8").astype(np.float32) for x in (queries, documents)]
        result = {"set": name, "quantizer": label, "float32": round(float(exact.mean()), 2)}
        for metric, scores in scores_of(*codes).items():
            change = ndcg_at_10(scores) - exact
            result[metric] = round(float(change.mean()), 2)
            result[metric + "_error"] = round(float(change.std() / len(change) ** 0.5), 2)
        results.append(result)
    return results


def recall(name: str, queries: Floats, documents: Floats) -> list[dict[str, Any]]:
    """Share of the ten nearest by vectors that a search in bits finds, rescored twice."""
    queries = queries[:N_QUERIES]
    bits = quantize_binary(documents, "ubinary")
    codes = default_quantizer("mini", documents.shape[1]).quantize(documents, "int8")
    exact = np.argsort(-(queries @ documents.T), axis=1)[:, :10]
    results = []
    for oversample in OVERSAMPLING:
        result: dict[str, Any] = {"set": name, "oversample": oversample}
        for label, second in (("int8", codes), ("float32", documents)):
            found = staged_search(queries, bits, second, 10, oversample)[1]
            shared = (found[:, :, None] == exact[:, None, :]).any(axis=2)
            result[f"recall_{label}"] = round(100 * float(shared.mean()), 2)
        results.append(result)
    return results


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of training/mini/build.py")
    arguments = parser.parse_args()
    sets = list(read_sets(arguments.work))
    record("int8", arguments, [result for t, q, d in sets for result in quality(t.name, q, d)])
    record(
        "staged_search", arguments, [result for t, q, d in sets for result in recall(t.name, q, d)]
    )


if __name__ == "__main__":
    main()
