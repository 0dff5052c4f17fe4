"""Does hybrid search ever hurt? nDCG@10 beside vectors, BM25 and reciprocal ranks; its speed.

python -m benchmarks.hybrid --work WORK --csv
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import bm25s
import numpy as np

from benchmarks.record import parser_of, record, seconds
from benchmarks.retrieval_sets import Floats, ndcg_at_10, read_sets
from qwen3_embed import Embedder
from qwen3_embed.integrations.hybrid import HybridIndex, character_bigrams, fuse

N_CANDIDATES = 100  # of each list, for reciprocal ranks
N_DOCUMENTS = 100_000
N_SEARCHES = 50


def by_words(queries: list[str], documents: list[str]) -> Floats:
    """BM25 of all documents for all queries."""
    index = bm25s.BM25()
    index.index([character_bigrams(text) for text in documents], show_progress=False)
    rows = []
    for query in queries:
        known = [token for token in character_bigrams(query) if token in index.vocab_dict]
        rows.append(index.get_scores(known) if known else np.zeros(len(documents), np.float32))
    return np.stack(rows)


def by_ranks(cosines: Floats, bm25: Floats) -> Floats:
    """Reciprocal rank fusion of the best of both lists."""
    scores = np.zeros_like(cosines)
    for row, cosine, words in zip(scores, cosines, bm25, strict=True):
        lists = [np.argsort(-x, kind="stable")[:N_CANDIDATES].tolist() for x in (words, cosine)]
        lists[0] = [i for i in lists[0] if words[i] > 0]
        for document, score in fuse(lists):
            row[document] = score
    return scores


def by_index(queries: list[str], vectors: Floats, documents: list[str], rows: Floats) -> Floats:
    """HybridIndex over vectors that are known already."""
    model = Mock(dim=rows.shape[1], encode_document=lambda texts, dim: rows)
    index = HybridIndex(model, documents)
    scores = np.full((len(queries), len(documents)), -np.inf, np.float32)
    for row, query, vector in zip(scores, queries, vectors, strict=True):
        model.encode_query = lambda text, vector=vector, **options: vector
        for hit in index.search(query, top_k=min(N_CANDIDATES, len(documents))):
            row[hit.document] = hit.score
    return scores


def speed(documents: list[str], rows: Floats, queries: list[str]) -> dict[str, Any]:
    """The median time of a search, the query's encoding included, in 10^5 documents."""
    times = -(-N_DOCUMENTS // len(documents))
    texts = [f"{text} {i}" for i in range(times) for text in documents][:N_DOCUMENTS]
    vectors = np.tile(rows, (times, 1))[:N_DOCUMENTS]
    with Embedder("mini") as model:
        known = Mock(wraps=model, dim=model.dim)
        known.encode_document = lambda texts, dim: vectors
        index = HybridIndex(known, texts)
        index.search(queries[0])  # indexes the words
        begin_s = time.process_time()
        taken = [seconds(lambda q=q: index.search(q)) for q in queries[:N_SEARCHES]]
        cpu_s = (time.process_time() - begin_s) / len(taken)
    return {
        "n_documents": len(index),
        "search_ms": round(1e3 * statistics.median(taken), 1),
        "cpu_ms": round(1e3 * cpu_s, 1),  # of all threads; another process does not change it
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of training/mini/build.py")
    arguments = parser.parse_args()
    results = []
    sets = list(read_sets(arguments.work))
    for task, queries, documents in sets:
        cosines, bm25 = queries @ documents.T, by_words(task.queries, task.documents)
        found = by_index(task.queries, queries, task.documents, documents)
        result: dict[str, Any] = {"set": task.name, "n_queries": len(queries)}
        result["n_documents"] = len(documents)
        for name, scores in (
            ("vectors", cosines),
            ("bm25", bm25),
            ("reciprocal_ranks", by_ranks(cosines, bm25)),
            ("hybrid", found),
        ):
            result[name] = round(float(ndcg_at_10(scores).mean()), 2)
        results.append(result)
        print(result, flush=True)
    record("hybrid", arguments, results)
    task, _, documents = sets[0]
    record("hybrid_speed", arguments, [speed(task.documents, documents, task.queries)])


if __name__ == "__main__":
    main()
