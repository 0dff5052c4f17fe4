"""Eight Python threads with one text per call, against one thread with eight texts per call.

    python -m benchmarks.threads --csv

The engine batches what waits together, so threads should lose little. Both ways take
turns and count by their best round.
"""

from __future__ import annotations

import threading

import numpy as np

from benchmarks.record import model_folder, parser_of, record, seconds
from benchmarks.rivals import Texts, random_texts
from qwen3_embed import Embedder


def encode_together(model: Embedder, texts: Texts, group: int) -> None:
    """One thread, `group` texts per call."""
    for begin in range(0, len(texts), group):
        part = texts[begin : begin + group]
        cu_seqlens = np.cumsum([0, *(len(text) for text in part)], dtype=np.int32)
        model.encode_tokens(np.concatenate(part), cu_seqlens)


def encode_from_threads(model: Embedder, texts: Texts, n_threads: int) -> None:
    """`n_threads` threads, one text per call."""
    threads = [
        threading.Thread(target=encode_together, args=(model, texts[i::n_threads], 1))
        for i in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=200, help="of each thread")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    folder = model_folder(arguments)
    n_threads, n_texts = arguments.threads, arguments.threads * arguments.calls
    texts = random_texts(folder, n_texts, arguments.tokens)
    with Embedder(folder, device="cpu") as model:
        encode_together(model, texts[:n_threads], n_threads)
        alone, shared = [], []
        for _ in range(arguments.rounds):
            alone.append(seconds(lambda: encode_together(model, texts, n_threads)))
            shared.append(seconds(lambda: encode_from_threads(model, texts, n_threads)))
    n_tokens = n_texts * arguments.tokens
    record(
        "threads",
        arguments,
        [
            {
                "shape": arguments.shape,
                "threads": n_threads,
                "calls": arguments.calls,
                "tokens": arguments.tokens,
                "together_tokens_per_s": round(n_tokens / min(alone), 1),
                "threads_tokens_per_s": round(n_tokens / min(shared), 1),
                "ratio": round(min(alone) / min(shared), 3),
            }
        ],
    )


if __name__ == "__main__":
    main()
