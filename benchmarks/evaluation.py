"""Time that `evaluate` takes beyond encoding: rankings, metrics, intervals, report and plots.

python -m benchmarks.evaluation [--documents 10000] [--queries 1000] [--csv]

Documents are passages of random words with `mini`; one system, then a grid of 12 (three dimensions,
two precisions, two instructions).
"""

from __future__ import annotations

import random
import tempfile
import time
from typing import Any

from benchmarks.record import parser_of, record
from qwen3_embed import Embedder
from qwen3_embed.evaluation import Dataset, evaluate
from qwen3_embed.evaluation.datasets import Query

WORDS = [
    f"{a}{b}" for a in ("river", "market", "winter", "garden") for b in ("side", "s", "ly", "er")
]


class Timed(Embedder):
    """A model that counts the seconds of its calls."""

    seconds = 0.0

    def encode_document(self, texts: Any, **options: Any) -> Any:
        return self._timed(super().encode_document, texts, options)

    def encode_query(self, texts: Any, **options: Any) -> Any:
        return self._timed(super().encode_query, texts, options)

    def _timed(self, encode: Any, texts: Any, options: Any) -> Any:
        start = time.perf_counter()
        rows = encode(texts, **options)
        self.seconds += time.perf_counter() - start
        return rows


def random_data(n_documents: int, n_queries: int) -> Dataset:
    """Passages of 30 to 90 words; queries of six words of one of them."""
    chance = random.Random(18)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(30, 90))) for _ in range(n_documents)]
    queries = []
    for _ in range(n_queries):
        answer = chance.randrange(n_documents)
        queries.append(Query(" ".join(texts[answer].split()[:6]), {str(answer): 1}))
    return Dataset.of("random", queries, {str(i): text for i, text in enumerate(texts)})


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=1000)
    arguments = parser.parse_args()
    data = random_data(arguments.documents, arguments.queries)
    grid = {
        "dims": [256, 128, 64],
        "precisions": ["float32", "binary"],
        "instructions": ["none", "default"],
    }
    results = []
    for options in ({}, grid):
        with Timed("mini") as model, tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            report = evaluate(data, [model], **options)
            report.save(folder)
            beyond_s = time.perf_counter() - start - model.seconds
            results.append(
                {
                    "documents": len(data.documents),
                    "queries": len(data.queries),
                    "systems": len(report.rows),
                    "encoding_s": round(model.seconds, 2),
                    "beyond_s": round(beyond_s, 2),
                    "share": round(beyond_s / model.seconds, 4),
                }
            )
    record("evaluation", arguments, results)


if __name__ == "__main__":
    main()
