"""`qwen3-embed encode` over many short lines: its memory, and its time beside the engine alone.

    python -m benchmarks.corpus --lines 1000000 --csv

Both are processes of their own; "alone" is one call of encode over the same texts. Memory is what
a process holds itself, in files not mapped, at its highest.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import resident
from benchmarks.record import model_folder, parser_of, record

ALONE = """
import sys
from qwen3_embed import Embedder
lines = open(sys.argv[1]).read().split("\\n")[:-1]
with Embedder(sys.argv[2], device="cpu") as model:
    model.encode(lines, dim=int(sys.argv[3]))
"""


def watch(command: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the highest anonymous memory in MB of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    peak_mb = 0.0
    while process.poll() is None:
        try:
            peak_mb = max(peak_mb, resident(process.pid)["RssAnon"] * 1024 / 1e6)
        except (OSError, KeyError):
            break
        time.sleep(0.05)
    assert process.wait() == 0
    taken = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, cpu_s, peak_mb


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    model = str(model_folder(arguments))
    with tempfile.TemporaryDirectory() as name:
        lines = Path(name) / "lines.txt"
        with open(lines, "w") as file:
            for i in range(arguments.lines):
                file.write(f"note {i}: {i * 7919 % 1000003:x}\n")
        output = Path(name) / "out.npy"
        command = [sys.executable, "-m", "qwen3_embed", "encode", str(lines), "-o", str(output)]
        command += ["--model", model, "--dim", str(arguments.dim)]
        alone = [sys.executable, "-c", ALONE, str(lines), model, str(arguments.dim)]
        run_s, run_cpu_s, run_mb = watch(command)
        alone_s, alone_cpu_s, _ = watch(alone)
    return {
        "lines": arguments.lines,
        "run_s": round(run_s, 1),
        "alone_s": round(alone_s, 1),
        "ratio": round(run_s / alone_s, 3),
        "cpu_ratio": round(run_cpu_s / alone_cpu_s, 3),
        "run_peak_mb": round(run_mb, 1),
    }


def main() -> None:
    parser = parser_of(__doc__, shape="tiny64")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=32)
    arguments = parser.parse_args()
    record("corpus", arguments, [measure(arguments)])


if __name__ == "__main__":
    main()
