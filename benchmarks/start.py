"""Seconds from a new process to its first vector, with the files in the page cache.

    python -m benchmarks.start --csv
    python -m benchmarks.start --model mini --csv

Import, model, tokenizer and the encoding of one short text included; the parent's clock.
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.record import model_folder, parser_of, record

CHILD = """
import sys, time
begin = time.perf_counter()
from qwen3_embed import Embedder
imported = time.perf_counter()
model = Embedder(sys.argv[1], device="cpu")
opened = time.perf_counter()
assert model.encode("What is the capital of China?").shape == (model.dim,)
print(imported - begin, opened - imported, time.perf_counter() - opened)
"""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    folder = model_folder(arguments)
    for path in folder.iterdir():
        if path.is_file():
            path.read_bytes()  # into the page cache
    steps: list[list[float]] = []
    walls: list[float] = []
    command = [sys.executable, "-c", CHILD, str(folder)]
    for _ in range(arguments.rounds):
        begin = time.perf_counter()
        printed = subprocess.check_output(command, text=True)
        walls.append(time.perf_counter() - begin)
        steps.append([float(word) for word in printed.split()])
    imported, opened, encoded = (median(step) for step in zip(*steps, strict=True))
    record(
        "start",
        arguments,
        [
            {
                "best_s": round(min(walls), 3),
                "median_s": round(median(walls), 3),
                "import_s": round(imported, 3),
                "open_s": round(opened, 3),
                "encode_s": round(encoded, 3),
            }
        ],
    )


if __name__ == "__main__":
    main()
