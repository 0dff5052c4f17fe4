"""Shared by all benchmarks: the model, the CSV files of figures, the description of the machine.

A benchmark prints its figures; with --csv it also appends them to
benchmarks/results/NAME.csv, with date, commit, machine, versions and command.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen3_embed import _core
from tests.support.make_model import SHAPES, make_model

ROOT = Path(__file__).resolve().parents[1]

RESULTS = ROOT / "benchmarks" / "results"
MACHINE_SOURCES = (
    "benchmarks/machine.c",
    "csrc/cpu/peak.c",
    "csrc/cpu/threads.c",
    "csrc/error.c",
)
PACKAGES = ("qwen3-embed-native", "numpy", "tokenizers", "torch", "transformers")


def parser_of(description: str | None, *, shape: str = "0.6B") -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default=shape, help="of the random weights")
    parser.add_argument("--model", type=Path, help="a folder or mini, instead of random weights")
    parser.add_argument("--csv", action="store_true", help="append to benchmarks/results")
    return parser


def model_folder(arguments: argparse.Namespace) -> Path:
    """The folder asked for, or one of random weights, made once and kept."""
    if arguments.model == Path("mini"):
        return ROOT / "qwen3_embed" / "models" / "mini"
    if arguments.model:
        return Path(arguments.model)
    folder = Path(tempfile.gettempdir()) / "qwen3-embed-models" / arguments.shape
    if not (folder / "complete").exists():
        make_model(folder, arguments.shape)
        (folder / "complete").touch()
    return folder


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine_words() -> str:
    return f"{cpu_name()}, {n_cores()} cores, {_core.instruction_sets()[0]}"


def version_words() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def commit_words() -> str:
    """The commit, with a plus where the tree differs from it; "none" outside a clone."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "csrc", "qwen3_embed", "benchmarks/*.py")
    return (git("rev-parse", "--short", "HEAD") or "none") + ("+" if changed else "")


def record(
    name: str,
    arguments: argparse.Namespace,
    results: list[dict[str, Any]],
    machine: str | None = None,
) -> None:
    """Prints results as a table and, with --csv, appends them to results/NAME.csv."""
    print_table(results)
    if not arguments.csv:
        return
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit_words(),
        "machine": machine or machine_words(),
        "versions": version_words(),
        "command": " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    columns = [*about, *results[0]]
    if path.exists() and path.read_text().splitlines()[0] != ",".join(columns):
        raise SystemExit(f"error: {path.name} has other columns; rename the old file")
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(about | result for result in results)


def print_table(results: list[dict[str, Any]]) -> None:
    cells = [list(results[0]), *([str(value) for value in result.values()] for result in results)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def machine_limits(n_threads: int) -> tuple[float, float]:
    """FLOP/s of the engine's instruction set on registers alone, and bytes/s read."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "machine")
        compiler = [os.environ.get("CC", "cc"), "-std=c11", "-O2", "-pthread", "-o", program]
        sources = [str(ROOT / source) for source in MACHINE_SOURCES]
        subprocess.run([*compiler, *sources], check=True)
        isa = os.environ.get("QWEN3_EMBED_ISA") or _core.instruction_sets()[0]
        printed = subprocess.run(
            [program, isa, str(n_threads)], check=True, capture_output=True, text=True
        ).stdout
    flops, bytes_per_s = map(float, printed.split())
    return flops, bytes_per_s
