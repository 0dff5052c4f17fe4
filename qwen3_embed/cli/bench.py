"""`qwen3-embed bench`: measure a model's speed and compare it with the device's limits."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from .columns import fitted
from .model_arguments import add_model_arguments, open_model

if TYPE_CHECKING:
    from ..checks.bench import Bench

__all__ = ["add_arguments", "run"]

_EPILOG = """example:
  qwen3-embed bench --model Qwen3-Embedding-0.6B --seconds 3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds to measure each text length (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_model_arguments(parser, "mini", takes_cache=False)
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Prints a table, or JSON."""
    from ..checks.bench import as_dict, run_bench

    if not namespace.seconds > 0:
        namespace.wrong(f"--seconds is {namespace.seconds}, expected more than 0")

    def on_step(step: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{step:20}", end="", file=sys.stderr, flush=True)

    bench = run_bench(
        lambda: open_model(namespace, namespace.model), seconds=namespace.seconds, on_step=on_step
    )
    on_step("\r")
    if namespace.json:
        print(json.dumps(as_dict(bench), indent=1))
    else:
        _print_table(bench)
    return 0


def _print_table(bench: Bench) -> None:
    ceiling, query = bench.ceiling, bench.query
    print(f"{bench.model} in {bench.dtype} on {bench.device} ({bench.kernels})")
    unit = "TOP/s in int8" if bench.dtype == "int8" else "TFLOP/s in bf16"
    print(f"ceiling: {ceiling.tflops:.2f} {unit}, {ceiling.gb_per_s:.0f} GB/s")
    print(f"load:    {bench.load_s:.2f} s, {bench.load_gb_per_s:.2f} GB/s")
    told = (
        f"query:   {query.median_ms:.2f} ms (best {query.best_ms:.2f}) for {query.n_tokens} "
        f"tokens, str to vector; reading the weights once takes {query.floor_ms:.2f}"
    )
    print(fitted(told, len("query:   ")))
    print(f"{'texts x tokens':>16}  {'tokens/s':>10}  {'TFLOP/s':>8}  of ceiling")
    for row in bench.throughput:
        print(
            f"{row.n_texts:>8} x {row.n_tokens:<5}  {row.tokens_per_s:10.0f}  "
            f"{row.tflops:8.2f}  {row.of_ceiling:9.0%}"
        )
