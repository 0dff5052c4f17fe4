"""`qwen3-embed quantize`: write a model folder with int8 weights."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .model_arguments import add_hub_arguments, hub_options, positive

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  qwen3-embed quantize Qwen3-Embedding-0.6B -o embedding-int8
  qwen3-embed search notes/ "how long do eggs boil" --model ./embedding-int8"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "model", metavar="MODEL", help="an official short name, owner/name on the hub, or a folder"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="a new or empty folder",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: the usable cores)"
    )
    add_hub_arguments(parser)


def run(namespace: argparse.Namespace) -> int:
    """Writes the folder and prints a summary."""
    from ..adapters.quantizing import quantize_model

    hub = hub_options(namespace)
    begin = time.monotonic()
    n_bytes = quantize_model(namespace.model, namespace.output, hub, num_threads=namespace.threads)
    seconds = time.monotonic() - begin
    print(f"{namespace.output}: {n_bytes / 1e6:.1f} MB of weights in int8, in {seconds:.1f} s")
    return 0
