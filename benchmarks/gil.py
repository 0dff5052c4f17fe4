"""The speed of a pure-Python thread while another one encodes, and its longest stall.

    python -m benchmarks.gil --csv

The engine gets all cores but one, so that the counting thread has a core to itself; what
it loses then is the GIL's doing. Alone and beside take turns; the stall alone is the
noise of the machine.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from benchmarks.record import model_folder, n_cores, parser_of, record
from qwen3_embed import Embedder
from tests.support.texts import text_of


@dataclass(frozen=True)
class Count:
    per_s: float
    longest_stall_ms: float


def count_until(stop: threading.Event) -> Count:
    """Counts in steps of 1,000 and watches the clock between them."""
    n, longest = 0, 0.0
    begin = last = time.perf_counter()
    while not stop.is_set():
        for _ in range(1000):
            n += 1
        now = time.perf_counter()
        longest = max(longest, now - last)
        last = now
    return Count(n / (last - begin), 1e3 * longest)


def count_alone(seconds: float) -> Count:
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    return count_until(stop)


def count_beside(model: Embedder, texts: list[str]) -> Count:
    """Counts on this thread while another encodes the texts."""
    stop = threading.Event()

    def encode() -> None:
        try:
            model.encode(texts)
        finally:
            stop.set()

    thread = threading.Thread(target=encode)
    thread.start()
    count = count_until(stop)
    thread.join()
    return count


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    texts = [text_of(0, arguments.tokens, seed) for seed in range(arguments.texts)]
    alone, beside = [], []
    n_threads = max(1, n_cores() - 1)
    with Embedder(model_folder(arguments), device="cpu", num_threads=n_threads) as model:
        model.encode(texts[:2])
        for _ in range(arguments.rounds):
            alone.append(count_alone(3.0))
            beside.append(count_beside(model, texts))
    best_alone = max(count.per_s for count in alone)
    best_beside = max(count.per_s for count in beside)
    record(
        "gil",
        arguments,
        [
            {
                "engine_threads": n_threads,
                "alone_million_per_s": round(best_alone / 1e6, 2),
                "beside_million_per_s": round(best_beside / 1e6, 2),
                "percent": round(100 * best_beside / best_alone, 1),
                "stall_alone_ms": round(min(count.longest_stall_ms for count in alone), 1),
                "stall_beside_ms": round(min(count.longest_stall_ms for count in beside), 1),
                "worst_stall_beside_ms": round(max(count.longest_stall_ms for count in beside), 1),
            }
        ],
    )


if __name__ == "__main__":
    main()
