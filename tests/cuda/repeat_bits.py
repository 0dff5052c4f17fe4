"""The same calls again and again: how many repetitions have other bits than the first.

    python -m tests.cuda.repeat_bits [REPETITIONS]

A kernel that reads before its predecessor has written shows as other bits now and then.
Exits with 1 if there are any.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.cuda.reference_cuda import open_cuda
from tests.support.engines import embed, random_texts
from tests.support.make_model import make_model

# Small batches are graphs from their second time on; large ones never are.
LENGTHS = ([1], [16], [30], [17] * 4, [60] * 8, [33] * 15, [129, 300, 70], [200] * 40, [5] * 2000)


def main() -> None:
    n_repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    n_other = 0
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(
            Path(folder), "0.6B", num_hidden_layers=6, vocab_size=1000, tokenizer="byte"
        )
        engine = open_cuda(model)
        calls = [random_texts(lengths) for lengths in LENGTHS]
        first = [embed(engine, texts, 1024) for texts in calls]
        begin = time.perf_counter()
        for _ in range(n_repetitions):
            rows = [embed(engine, texts, 1024) for texts in calls]
            n_other += not all(map(np.array_equal, rows, first))
        seconds = time.perf_counter() - begin
        print(
            f"{n_other} of {n_repetitions} repetitions with other bits, {seconds:.1f} s; "
            f"kernels {engine.info['kernels']}, note {engine.info['note']!r}"
        )
        engine.close()
    sys.exit(n_other > 0)


if __name__ == "__main__":
    main()
