"""A model's ranking: nDCG@10 of pairs, and hard negatives mined for them.

    python -m training.lora.ranking mine pairs.jsonl -o with_negatives.jsonl --model mini
    python -m training.lora.ranking evaluate held_out.jsonl --model mini --adapter FOLDER

Both run on this package's own engine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen3_embed import Embedder, Reranker
from training.lora.pairs import Pair, read_pairs, write_pairs

CHUNK = 1024  # queries whose cosines with all documents are held at a time


def corpus_of(pairs: Sequence[Pair]) -> list[str]:
    """Every document once, in order of first appearance."""
    return list(dict.fromkeys(d for pair in pairs for d in (pair.positive, *pair.negatives)))


def query_rows(model: Embedder, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
    return model.encode([pair.prompted for pair in pairs], prompt="")


def ndcg_at_10(model: Embedder, pairs: Sequence[Pair]) -> float:
    """Mean over the queries; a query's positives are those of all pairs with its text."""
    documents = corpus_of(pairs)
    place = {text: i for i, text in enumerate(documents)}
    answers: dict[str, set[int]] = {}
    for pair in pairs:
        answers.setdefault(pair.prompted, set()).add(place[pair.positive])
    asked = list({pair.prompted: pair for pair in pairs}.values())
    rows = model.encode_document(documents)
    queries = query_rows(model, asked)
    discounts = 1 / np.log2(np.arange(2, 12))
    total = 0.0
    for start in range(0, len(asked), CHUNK):
        cosines = queries[start : start + CHUNK] @ rows.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
        for pair, ranked in zip(asked[start : start + CHUNK], best, strict=True):
            right = answers[pair.prompted]
            gains = np.array([int(i) in right for i in ranked]) @ discounts[: len(ranked)]
            total += gains / discounts[: min(10, len(right))].sum()
    return total / len(asked)


def mine(
    model: Embedder,
    pairs: Sequence[Pair],
    n_negatives: int,
    *,
    below: float = 0.95,
    ranker: Reranker | None = None,
    relevant: float = 0.5,
) -> list[Pair]:
    """The pairs with the nearest documents that don't answer them, beside those they have.

    A document is left out when its cosine is more than `below` times the positive's, since
    it may be an answer that nobody has marked; and when `ranker` gives it a probability
    over `relevant`.
    """
    documents = corpus_of(pairs)
    place = {text: i for i, text in enumerate(documents)}
    positives: dict[str, set[int]] = {}
    for pair in pairs:
        positives.setdefault(pair.query, set()).add(place[pair.positive])
    rows = model.encode_document(documents)
    mined = []
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        cosines = query_rows(model, part) @ rows.T
        for pair, scores in zip(part, cosines, strict=True):
            limit = below * scores[place[pair.positive]]
            order = np.argsort(-scores, kind="stable").tolist()
            found = [i for i in order if scores[i] < limit and i not in positives[pair.query]]
            if ranker is not None:
                found = found[: 4 * n_negatives]
                asked = [(pair.query, documents[i]) for i in found]
                answers = ranker.predict(asked, instruction=pair.instruction)
                found = [
                    i for i, p in zip(found, np.atleast_1d(answers), strict=True) if p <= relevant
                ]
            texts = [documents[i] for i in found[:n_negatives]]
            mined.append(replace(pair, negatives=tuple(dict.fromkeys((*pair.negatives, *texts)))))
    return mined


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("mine", "evaluate"))
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--adapter")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--negatives", type=int, default=4, help="to mine for each pair")
    parser.add_argument("--below", type=float, default=0.95, help="of the positive's cosine")
    parser.add_argument("--check", metavar="RERANKER", help="drops negatives it finds relevant")
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.pairs)
    with Embedder(arguments.model, adapter=arguments.adapter) as model:
        if arguments.what == "evaluate":
            print(f"nDCG@10 {ndcg_at_10(model, pairs):.4f} of {len(pairs)} pairs")
            return
        if arguments.output is None:
            parser.error("mine needs --output")
        ranker = Reranker(arguments.check) if arguments.check else None
        options = {"below": arguments.below, "ranker": ranker}
        write_pairs(arguments.output, mine(model, pairs, arguments.negatives, **options))


if __name__ == "__main__":
    main()
