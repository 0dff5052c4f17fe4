"""`qwen3-embed choose`: the cheapest dimension and precision that keep the quality."""

from __future__ import annotations

import argparse
import sys

from .model_arguments import add_model_arguments, model_settings, positive

__all__ = ["add_arguments", "run"]

_EPILOG = """example:
  qwen3-embed choose notes/ --target 0.98 --documents 10000000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "data",
        metavar="DATA",
        help="queries and documents as evaluate takes them; or texts without queries as search "
        "takes them, whose sentences then serve as queries",
    )
    parser.add_argument(
        "--target",
        type=float,
        default=0.98,
        metavar="SHARE",
        help="of the nDCG@10 of full float32 vectors (default: 0.98)",
    )
    parser.add_argument(
        "--documents", type=positive, metavar="N", help="documents that sizes are given for"
    )
    parser.add_argument(
        "--minimise",
        choices=("bytes", "memory"),
        default="bytes",
        help="all stored bytes, or those that every search reads (default: bytes)",
    )
    parser.add_argument(
        "--dims",
        type=positive,
        nargs="+",
        metavar="N",
        help="dimensions (default: the model's, its halves, and three quarters of each)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["float32", "int8", "binary", "binary+int8"],
        choices=("float32", "int8", "binary", "binary+int8", "binary+float32"),
        help="of the vectors (default: all but binary+float32)",
    )
    parser.add_argument(
        "--oversample",
        type=float,
        nargs="+",
        default=[2.0, 4.0, 10.0, 20.0],
        metavar="N",
        help="candidates of binary+... per document of a search for ten (default: 2 4 10 20)",
    )
    parser.add_argument(
        "--instruction",
        default="default",
        metavar="NAME",
        help="for queries: none, default, a name such as web_search or legal, or a sentence",
    )
    parser.add_argument("--split", default="test", help="of BEIR's judgments (default: test)")
    parser.add_argument("-o", "--output", metavar="DIR", help="write choice.md and choice.json")
    add_model_arguments(parser, "mini", takes_split=False)


def run(namespace: argparse.Namespace) -> int:
    """Prints the choice; writes the report."""
    from ..evaluation.choice import choose

    choice = choose(
        namespace.data,
        namespace.model,
        target=namespace.target,
        n_documents=namespace.documents,
        minimise=namespace.minimise,
        dims=namespace.dims,
        precisions=namespace.precision,
        oversamples=namespace.oversample,
        instruction=namespace.instruction,
        split=namespace.split,
        show_progress_bar=sys.stderr.isatty(),
        adapter=namespace.adapter,
        cache=namespace.cache,
        projection=namespace.projection,
        **model_settings(namespace),
    )
    print(choice)
    if namespace.output is not None:
        for path in choice.save(namespace.output):
            print(f"wrote {path}", file=sys.stderr)
    return 0
