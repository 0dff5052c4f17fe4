"""One build of the engine, for builds.py: computes on request, and says how long that took.

It imports the package that PYTHONPATH names. A line of stdin names a workload; a line of stdout has
seconds of processor time (on a GPU: of the clock), and a hash of the bits of the rows.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import qwen3_embed
from qwen3_embed import Embedder


def workload(
    model: Embedder, n_texts: int, n_tokens: int, n_calls: int
) -> Callable[[], np.ndarray[Any, Any]]:
    """A call that computes texts of random ids, several times for the clock's sake."""
    rng = np.random.default_rng(n_texts * n_tokens)
    ids = rng.integers(0, 256, n_texts * n_tokens).astype(np.int32)
    cuts = np.arange(0, n_texts * n_tokens + 1, n_tokens, dtype=np.int32)
    return lambda: np.stack([model.encode_tokens(ids, cuts) for _ in range(n_calls)])


def main() -> None:
    folder, device, dtype = sys.argv[1:]
    model = Embedder(folder, device=device, num_threads=1, dtype=dtype)
    clock = time.process_time if device == "cpu" else time.perf_counter
    calls = {
        "4 x 128": workload(model, 4, 128, 1),
        "16 x 32": workload(model, 16, 32, 1),
        "1 x 512": workload(model, 1, 512, 1),
        "1 x 16": workload(model, 1, 16, 16),
        "1 x 20": workload(model, 1, 20, 16),
    }
    about = {"file": qwen3_embed.__file__, "workloads": list(calls)}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        begin = clock()
        rows = calls[line.strip()]()
        taken = clock() - begin
        print(taken, hashlib.sha256(rows.tobytes()).hexdigest(), flush=True)


if __name__ == "__main__":
    main()
