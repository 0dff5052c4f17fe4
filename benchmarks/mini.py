"""The embedded model: tokens per second from text to rows, and where the time goes.

    python -m benchmarks.mini --csv

The texts are windows into the parity tests' words, cut to the length asked for. Each result
is one way in: `encode` with texts, the tokenizer alone, `encode_tokens` with its ids, the
same ids with one thread, and one text per call. "percent_of_peak" is FLOP done over what a loop
over registers alone reaches in the same run, as in throughput.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import machine_limits, model_folder, n_cores, parser_of, record, seconds
from benchmarks.throughput import flop_counts
from qwen3_embed import Embedder
from tests.support.texts import parity_texts


def texts_of_length(model: Embedder, n_texts: int, n_tokens: int) -> list[str]:
    """Different texts of `n_tokens` each, the end token included, or one or two fewer."""
    words = " ".join(parity_texts()).split()
    texts: list[str] = []
    for i in range(n_texts):
        start = 97 * i % (len(words) - n_tokens)
        window = [f"{i}:", *words[start : start + n_tokens]]
        counts = model.count_tokens([" ".join(window[:n]) for n in range(1, len(window))])
        n_words = int(np.searchsorted(np.asarray(counts), n_tokens, side="right"))
        texts.append(" ".join(window[:n_words]))
    return texts


def ways_in(folder: Path, texts: list[str]) -> tuple[dict[str, Callable[[], Any]], int]:
    """The calls to time, by name, and the number of tokens that each one takes."""
    model, single = Embedder(folder, device="cpu"), Embedder(folder, device="cpu", num_threads=1)
    batch = model.tokenizer.encode(texts)
    ways: dict[str, Callable[[], Any]] = {
        "encode": lambda: model.encode(texts),
        "tokenizer": lambda: model.tokenizer.encode(texts),
        "encode_tokens": lambda: model.encode_tokens(batch.tokens, batch.cu_seqlens),
        "encode_tokens, 1 thread": lambda: single.encode_tokens(batch.tokens, batch.cu_seqlens),
        "encode, one text per call": lambda: [model.encode(text) for text in texts[:64]],
    }
    return ways, len(batch.tokens)


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(model=Path("mini"))
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64, help="in each text")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    folder = model_folder(arguments)
    with Embedder(folder) as model:
        texts = texts_of_length(model, arguments.texts, arguments.tokens)
        n_first = int(np.sum(model.count_tokens(texts[:64])))
    ways, n_tokens = ways_in(folder, texts)
    times = {name: [seconds(run)] for name, run in ways.items()}
    for _ in range(arguments.rounds):  # in turns, since machines drift
        for name, run in ways.items():
            times[name].append(seconds(run))
    config = json.loads((folder / "config.json").read_text())
    _, done = flop_counts(config, len(texts), n_tokens // len(texts))
    results = []
    for name, rounds in times.items():
        n_threads = 1 if "1 thread" in name else n_cores()
        computed = name.startswith("encode_tokens")
        share = done / min(rounds) / machine_limits(n_threads)[0] if computed else None
        results.append(
            {
                "way": name,
                "texts": len(texts),
                "tokens": round(n_tokens / len(texts), 1),
                "tokens_per_s": round((n_first if "one" in name else n_tokens) / min(rounds)),
                "percent_of_peak": "" if share is None else round(100 * share, 1),
            }
        )
    record("mini", arguments, results)


if __name__ == "__main__":
    main()
