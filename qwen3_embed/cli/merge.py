"""`qwen3-embed merge`: make a model folder of a base and an adapter, or of several models."""

from __future__ import annotations

import argparse
from pathlib import Path

from .model_arguments import add_hub_arguments, hub_options

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  qwen3-embed merge --base Qwen3-Embedding-0.6B --adapter legal/ -o merged
  qwen3-embed merge --slerp first/ second/ -t 0.3 -o between"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--base", metavar="NAME", help="model to merge --adapter into")
    what.add_argument(
        "--slerp",
        nargs="+",
        metavar="NAME",
        help="two or more models of the same shape to interpolate",
    )
    parser.add_argument(
        "--adapter", metavar="NAME", help="LoRA adapter: a PEFT folder or owner/name on the hub"
    )
    parser.add_argument(
        "-t",
        nargs="+",
        type=float,
        metavar="T",
        help="weight of the second model, the third ... (default: equal shares)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="a new or empty folder",
    )
    add_hub_arguments(parser)
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Writes the folder and prints a summary."""
    if namespace.slerp and namespace.adapter:
        namespace.wrong("--adapter goes with --base, not with --slerp")
    if namespace.slerp and len(namespace.slerp) < 2:
        namespace.wrong("--slerp has 1 model, expected two or more")
    if namespace.base and (not namespace.adapter or namespace.t):
        namespace.wrong("--base goes with --adapter, and -t with --slerp")
    from ..adapters.merging import interpolate_models, merge_adapter

    hub = hub_options(namespace)
    if namespace.slerp:
        interpolate_models(namespace.slerp, namespace.output, namespace.t, hub)
        print(f"{namespace.output}: {len(namespace.slerp)} models interpolated")
        return 0
    adapter = merge_adapter(namespace.base, namespace.adapter, namespace.output, hub)
    print(
        f"{namespace.output}: {len(adapter.merged)} modules merged, "
        f"{len(adapter.replaced)} replaced"
    )
    return 0
