"""A query's documents scored with their shared part computed once, and each on its own.

    python -m benchmarks.rerank --csv
    python -m benchmarks.rerank --parity --csv
    python -m benchmarks.rerank --shape 4B --device cuda --rivals --rounds 5 --csv

Without sharing, every prompt begins with a token of its own, so that nothing is alike;
that must cost no more than `encode` at the same length. --rivals compares with
sentence-transformers' CrossEncoder in bf16 in the same run, --parity logit differences
with Transformers fp32, beside Transformers bf16's own error.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import parser_of, record, seconds
from qwen3_embed import Reranker
from qwen3_embed.templates import DEFAULT_INSTRUCTION, reranker_body
from tests.support.rerankers import NO, YES, make_reranker

QUERY = "What is the capital of China?"
WORDS = ("the", "capital", "of", "a", "country", "is", "where", "its", "government", "sits")
RANDOM_TOKENS = np.random.default_rng(8).integers(0, 150_000, 1 << 20, dtype=np.int32)

Tokens = npt.NDArray[np.int32]


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
        places = [place for _, place in ranker.tokenizer.pieces(words) if place is not None]
        texts.append(words[: places[n_tokens - 1][1]])
    return texts


def unchanged(tokens: Tokens, cu_seqlens: Tokens) -> Tokens:
    return tokens


def nothing_alike(tokens: Tokens, cu_seqlens: Tokens) -> Tokens:
    """Every prompt begins with a token of its own."""
    changed = tokens.copy()
    changed[cu_seqlens[:-1]] = np.arange(len(cu_seqlens) - 1)
    return changed


def random_tokens(tokens: Tokens, cu_seqlens: Tokens) -> Tokens:
    return RANDOM_TOKENS[: len(tokens)]


def best_seconds(ranker: Reranker, documents: list[str], n_rounds: int) -> dict[str, float]:
    """Seconds from texts to scores, in turns: with the tokens of `rank`, with nothing to share,
    and with random ones, which is what `encode` would take for texts of that length."""
    ways = {"rank": unchanged, "apart": nothing_alike, "encode": random_tokens}

    def score(change: Callable[[Tokens, Tokens], Tokens]) -> None:
        batch = ranker.tokenizer.encode([ranker.body_of(QUERY, text) for text in documents])
        tokens = change(batch.tokens, batch.cu_seqlens)
        rows, job = ranker.submit_tokens(tokens, batch.cu_seqlens, normalize=False, waits=True)
        job.wait()
        ranker.logits_of(rows)

    best = dict.fromkeys(ways, np.inf)
    for _ in range(n_rounds):
        for name, change in ways.items():
            best[name] = min(best[name], seconds(lambda change=change: score(change)))
    return best


def measure_speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with Reranker(reranker_folder(arguments), device=arguments.device) as ranker:
        documents = documents_of(ranker, arguments.documents or 100, arguments.tokens)
        bodies = [reranker_body(DEFAULT_INSTRUCTION, QUERY, d) for d in documents]
        lengths = ranker.tokenizer.encode(bodies).lengths
        best = best_seconds(ranker, documents, arguments.rounds)
    return [
        {
            "documents": len(documents),
            "document_tokens": arguments.tokens,
            "prompt_tokens": float(lengths.mean()),
            "rank_s": round(best["rank"], 4),
            "apart_s": round(best["apart"], 4),
            "encode_s": round(best["encode"], 4),
            "sharing_gain": round(best["apart"] / best["rank"], 3),
            "apart_of_encode": round(best["encode"] / best["apart"], 3),
        }
    ]


def measure_rivals(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours and sentence-transformers' CrossEncoder in bf16, in turns, texts to scores."""
    from benchmarks.gpu_rivals import CROSS_BATCH_SIZES, CrossEncoderRival

    folder = reranker_folder(arguments)
    rival = CrossEncoderRival(folder, arguments.device)
    with Reranker(folder, device=arguments.device, special_tokens_in_text=True) as ranker:
        documents = documents_of(ranker, arguments.documents or 100, arguments.tokens)
        pairs = [(QUERY, document) for document in documents]
        batch = ranker.tokenizer.encode([reranker_body(DEFAULT_INSTRUCTION, *pairs[0])])
        assert rival.tokens(*pairs[0]) == batch.tokens.tolist(), "the rival reads another prompt"
        found = np.asarray(ranker.predict(pairs, activation=None))
        ours_s, rival_s = np.inf, dict.fromkeys(CROSS_BATCH_SIZES, np.inf)
        for _ in range(arguments.rounds):
            ours_s = min(ours_s, seconds(lambda: ranker.rank(QUERY, documents)))
            for n in rival_s:
                rival_s[n] = min(rival_s[n], seconds(lambda n=n: rival.scores(pairs, n)))
        theirs = rival.scores(pairs, 1)
    best = min(rival_s, key=lambda n: rival_s[n])
    return [
        {
            "documents": len(documents),
            "document_tokens": arguments.tokens,
            "rank_s": round(ours_s, 4),
            "rival": f"sentence-transformers CrossEncoder, bf16, batches of {best}",
            "rival_s": round(rival_s[best], 4),
            "ratio": round(rival_s[best] / ours_s, 3),
            "logit_rms_difference": round(float(np.sqrt(np.mean((found - theirs) ** 2))), 4),
        }
    ]


def measure_parity(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import torch
    import transformers

    folder = reranker_folder(arguments)
    with Reranker(folder, device=arguments.device) as ranker:
        documents = documents_of(ranker, arguments.documents or 12, arguments.tokens)
        pairs = [(QUERY, document) for document in documents]
        found = np.asarray(ranker.predict(pairs, activation=None))
        bodies = [reranker_body(DEFAULT_INSTRUCTION, *pair) for pair in pairs]
        batch = ranker.tokenizer.encode(bodies)
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        options = {"device_map": arguments.device} if arguments.device != "cpu" else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
        model.eval()
        rows = []
        with torch.no_grad():
            for start, stop in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
                ids = torch.tensor(batch.tokens[start:stop][None].astype(np.int64))
                ids = ids.to(arguments.device)
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
    parser.add_argument("--documents", type=int, help="100, or 12 for --parity")
    parser.add_argument("--tokens", type=int, default=128, help="of each document")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--rivals", action="store_true")
    arguments = parser.parse_args()
    machine = None
    if arguments.device != "cpu":
        from benchmarks.gpu_rivals import gpu_words

        machine = gpu_words()
    if arguments.parity:
        record("rerank_parity", arguments, measure_parity(arguments), machine)
    elif arguments.rivals:
        record("rerank_rivals", arguments, measure_rivals(arguments), machine)
    else:
        record("rerank", arguments, measure_speed(arguments), machine)


if __name__ == "__main__":
    main()
