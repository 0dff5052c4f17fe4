"""Speed and bits of this build against another build of the package, in turns.

    python -m tests.cuda.against FOLDER [ROUNDS]

FOLDER holds the other build's package `qwen3_embed`. Each build runs in a process of its own,
on one model, and calls alternate between the two. Prints the median of the ratios.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.make_model import make_model

# name -> lengths of the texts of a call, calls per round
CALLS = {
    "query, 16 tokens": ([16], 40),
    "8 texts, 240 tokens": ([30] * 8, 40),
    "new shape each time": ([], 40),
    "16,896 tokens": ([128] * 132, 3),
    "4 texts of 2,048": ([2048] * 4, 3),
}


def serve() -> None:
    """The process of one build: reads names of calls, prints seconds and a hash of the rows."""
    from tests.cuda.reference_cuda import open_cuda
    from tests.support.engines import embed, random_texts

    engine = open_cuda(Path(sys.argv[2]))
    n_new = 0
    for line in sys.stdin:
        lengths, n_calls = CALLS[line.strip()]
        digest = hashlib.sha256()
        seconds = 0.0
        for _ in range(n_calls):
            own = lengths
            if not own:
                own = [1 + n_new * 7 % 97, 1 + n_new * 31 % 89, 3 + n_new % 50]
                n_new += 1
            texts = random_texts(own)
            begin = time.perf_counter()
            rows = embed(engine, texts, 1024)
            seconds += time.perf_counter() - begin
            digest.update(rows.tobytes())
        print(seconds, digest.hexdigest(), flush=True)


class Build:
    """One build's process. Its package is the first on the path, the tests are ours."""

    def __init__(self, folder: Path, model: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path.cwd()}"}
        command = [sys.executable, "-P", "-m", "tests.cuda.against", "--serve", str(model)]
        self.process: Any = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, name: str) -> tuple[float, str]:
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        seconds, digest = self.process.stdout.readline().split()
        return float(seconds), digest


def main() -> None:
    if sys.argv[1] == "--serve":
        serve()
        return
    n_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), "0.6B", vocab_size=1000, tokenizer="byte")
        builds = [Build(path.resolve(), model) for path in (Path(), Path(sys.argv[1]))]
        for name in CALLS:
            for build in builds * 3:
                build.call(name)  # loads kernels, tries plans, records graphs
            ratios, ours, same = [], [], True
            for i in range(n_rounds):
                order = builds if i % 2 == 0 else builds[::-1]
                found = {id(build): build.call(name) for build in order}
                (own_s, own_digest), (other_s, other_digest) = (found[id(b)] for b in builds)
                ratios.append(own_s / other_s)
                ours.append(own_s / CALLS[name][1])
                same = same and own_digest == other_digest
            print(
                f"{name}: {1e3 * median(ours):.3f} ms, {median(ratios):.4f} of the other build's "
                f"time ({min(ratios):.3f} to {max(ratios):.3f}), same bits: {same}",
                flush=True,
            )
        for build in builds:
            build.process.stdin.close()
            build.process.wait()


if __name__ == "__main__":
    main()
