"""encode_iter over a stream of 1,000,000 short texts: bounded memory, and how fast.

    python -m benchmarks.million --csv

The texts are made as they are asked for. Memory is what the process holds itself, in
files not mapped, after the first chunk and at its highest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from benchmarks.memory import resident
from benchmarks.record import model_folder, parser_of, record
from qwen3_embed import Embedder


def own_mb() -> float:
    return resident(os.getpid())["RssAnon"] * 1024 / 1e6


def short_texts(n_texts: int) -> Iterator[str]:
    for i in range(n_texts):
        yield f"note {i}: {i * 7919 % 1000003:x}"


def main() -> None:
    parser = parser_of(__doc__, shape="tiny64")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=10_000)
    arguments = parser.parse_args()
    n_rows, first_mb, peak_mb = 0, 0.0, 0.0
    begin = time.perf_counter()
    with Embedder(model_folder(arguments), device="cpu") as model:
        stream = short_texts(arguments.texts)
        for rows in model.encode_iter(stream, chunk=arguments.chunk, dim=32):
            n_rows += len(rows)
            first_mb = first_mb or own_mb()
            peak_mb = max(peak_mb, own_mb())
    taken = time.perf_counter() - begin
    assert n_rows == arguments.texts
    record(
        "million",
        arguments,
        [
            {
                "texts": n_rows,
                "texts_per_s": round(n_rows / taken),
                "first_chunk_mb": round(first_mb, 1),
                "peak_mb": round(peak_mb, 1),
                "growth_mb": round(peak_mb - first_mb, 1),
            }
        ],
    )


if __name__ == "__main__":
    main()
