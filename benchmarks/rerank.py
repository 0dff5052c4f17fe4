"""A query's documents scored with their shared part computed once, and each on its own.

    python benchmarks/rerank.py --csv
    python benchmarks/rerank.py --parity --csv

Without sharing, every prompt begins with a token of its own, so that nothing is alike;
that must cost no more than `encode` at the same length. --parity compares logit
differences with Transformers fp32, beside Transformers bf16's own error.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from record import parser_of, record, seconds
from rerankers import NO, YES, make_reranker

from qwen3_embed import Reranker
from qwen3_embed.templates import DEFAULT_INSTRUCTION, reranker_body

QUERY = "What is the capital of China?"
WORDS = ("the", "capital", "of", "a", "country", "is", "where", "its", "government", "sits")


def reranker_folder(arguments: argparse.Namespace) -> Path:
    """The folder asked for, or one of random weights, made once and kept."""
    if arguments.model:
        return Path(arguments.model)
    folder = Path(tempfile.gettempdir()) / "qwen3-embed-models" / f"reranker-{arguments.shape}"
    if not (folder / "complete").exists():
        make_reranker(folder, arguments.shape, lm_head=arguments.shape == "8B")
        (folder / "complete").touch()
    return folder


def documents_of(ranker: Reranker, n: int, n_tokens: int) -> list[str]:
    """Random texts of this many tokens each, in a prompt."""
    source = np.random.default_rng(7)
    texts = []
    for _ in range(n):
        words = " ".join(source.choice(WORDS, 2 * n_tokens))
        encoding = ranker.tokenizer._fast.encode(words, add_special_tokens=False)
        texts.append(words[: encoding.offsets[n_tokens - 1][1]])
    return texts


def measure_speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with Reranker(reranker_folder(arguments), device=arguments.device) as ranker:
        documents = documents_of(ranker, arguments.documents, arguments.tokens)
        bodies = [reranker_body(DEFAULT_INSTRUCTION, QUERY, d) for d in documents]
        batch = ranker.tokenizer.encode(bodies)
        apart = batch.tokens.copy()
        apart[batch.cu_seqlens[:-1]] = np.arange(len(documents))
        lengths = np.diff(batch.cu_seqlens)
        random = np.random.default_rng(8).integers(0, 150_000, len(apart)).astype(np.int32)
        rows = ranker._engines.rows(len(documents), ranker.dim)

        def submit(tokens: npt.NDArray[np.int32]) -> None:
            ranker._engines.submit(tokens, batch.cu_seqlens, rows, 0, False).wait()

        ranker.rank(QUERY, documents[:8])
        times: dict[str, list[float]] = {"rank": [], "apart": [], "encode": []}
        for _ in range(arguments.rounds):
            times["rank"].append(seconds(lambda: ranker.rank(QUERY, documents)))
            times["apart"].append(seconds(lambda: submit(apart)))
            times["encode"].append(seconds(lambda: submit(random)))
    best = {name: min(values) for name, values in times.items()}
    return [
        {
            "documents": len(documents),
            "document_tokens": arguments.tokens,
            "prompt_tokens": float(lengths.mean()),
            "rank_s": round(best["rank"], 3),
            "apart_s": round(best["apart"], 3),
            "encode_s": round(best["encode"], 3),
            "sharing_gain": round(best["apart"] / best["rank"], 3),
            "apart_of_encode": round(best["encode"] / best["apart"], 3),
        }
    ]


def measure_parity(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import torch
    import transformers

    folder = reranker_folder(arguments)
    with Reranker(folder, device=arguments.device) as ranker:
        documents = documents_of(ranker, 12, arguments.tokens)
        pairs = [(QUERY, document) for document in documents]
        found = np.asarray(ranker.predict(pairs, activation=None))
        bodies = [reranker_body(DEFAULT_INSTRUCTION, *pair) for pair in pairs]
        batch = ranker.tokenizer.encode(bodies)
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        rows = []
        with torch.no_grad():
            for start, stop in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
                ids = torch.tensor(batch.tokens[start:stop][None].astype(np.int64))
                row = model(ids, logits_to_keep=1).logits[0, -1].float()
                rows.append(float(row[YES] - row[NO]))
        logits[dtype] = np.array(rows)
        del model
    exact = logits[torch.float32]
    ours = float(np.sqrt(np.mean((found - exact) ** 2)))
    theirs = float(np.sqrt(np.mean((logits[torch.bfloat16] - exact) ** 2)))
    return [
        {
            "pairs": len(pairs),
            "spread": round(float(exact.std()), 4),
            "our_rms_error": round(ours, 6),
            "transformers_bf16_rms_error": round(theirs, 6),
            "ratio": round(ours / theirs, 3),
        }
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=128, help="of each document")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parity", action="store_true")
    arguments = parser.parse_args()
    if arguments.parity:
        record("rerank_parity", arguments, measure_parity(arguments))
    else:
        record("rerank", arguments, measure_speed(arguments))


if __name__ == "__main__":
    main()
