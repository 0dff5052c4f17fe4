"""Two builds of the engine side by side: the bits of their rows, and the time they take.

    python -m benchmarks.builds . build/wheel --csv

Each folder holds a built package `qwen3_embed`: a clone, or an unpacked wheel. Both run in
processes of their own, in turns; on the CPU with one thread, on each instruction set of the
machine, and in processor time. "ratio" is the second's least time over the first's; "pairs" is the
median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import ROOT, parser_of, record
from qwen3_embed import _core
from tests.support.make_model import make_model

WORKER = ROOT / "benchmarks" / "build_worker.py"
DTYPES = {"cpu": ("bfloat16", "int8"), "cuda": ("bfloat16", "float8", "int8-weights")}


class Build:
    """A process that imports one build and computes on request."""

    def __init__(self, build: Path, model: Path, about: dict[str, str]) -> None:
        path = os.pathsep.join(
            [str(build.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self.process = subprocess.Popen(
            [sys.executable, "-P", WORKER, model, about["device"], about["dtype"]],
            env=os.environ | {"PYTHONPATH": path, "QWEN3_EMBED_ISA": about["isa"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = json.loads(self.ask(""))
        if not Path(said["file"]).is_relative_to(build.resolve()):
            raise SystemExit(f"error: {build} has no package qwen3_embed: {said['file']} was used")
        self.workloads: list[str] = said["workloads"]

    def ask(self, workload: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if workload:
            print(workload, file=self.process.stdin, flush=True)
        return self.process.stdout.readline()

    def run(self, workload: str) -> tuple[float, str]:
        """(seconds of processor time, hash of the rows) of one call."""
        taken, digest = self.ask(workload).split()
        return float(taken), digest

    def close(self) -> None:
        self.process.communicate()


def compare(
    arguments: argparse.Namespace, model: Path, about: dict[str, str]
) -> list[dict[str, Any]]:
    """A result per workload of one model on one instruction set."""
    places = (arguments.first, arguments.second)
    builds = [Build(place, model, about) for place in places]
    results = []
    for workload in builds[0].workloads:
        first, second = [[build.run(workload)] for build in builds]  # the first is for warming up
        for _ in range(arguments.rounds):
            first.append(builds[0].run(workload))
            second.append(builds[1].run(workload))
        times = [[seconds for seconds, _ in runs[1:]] for runs in (first, second)]
        result = about | {
            "texts": workload,
            "first_ms": round(1e3 * min(times[0]), 2),
            "second_ms": round(1e3 * min(times[1]), 2),
            "ratio": round(min(times[1]) / min(times[0]), 3),
            "pairs": round(median(b / a for a, b in zip(*times, strict=True)), 3),
            "same_bits": len({digest for _, digest in first + second}) == 1,
        }
        print(result, file=sys.stderr, flush=True)
        results.append(result)
    for build in builds:
        build.close()
    return results


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--isa", nargs="*", default=_core.instruction_sets())
    arguments = parser.parse_args()
    folder = ROOT / "build" / "models" / "layers4"
    if not (folder / "complete").exists():
        make_model(folder, "0.6B", tokenizer="byte", num_hidden_layers=4, vocab_size=320)
        (folder / "complete").touch()
    models = {"mini": ROOT / "qwen3_embed/models/mini", "0.6B, 4 layers": folder}
    settings = [
        {"device": arguments.device, "model": name, "dtype": dtype, "isa": isa}
        for name in models
        for dtype in DTYPES[arguments.device]
        for isa in (arguments.isa if arguments.device == "cpu" else arguments.isa[:1])
    ]
    record(
        "builds",
        arguments,
        [
            result
            for about in settings
            for result in compare(arguments, models[about["model"]], about)
        ],
    )


if __name__ == "__main__":
    main()
