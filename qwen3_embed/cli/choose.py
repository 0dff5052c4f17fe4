"""`qwen3-embed choose`: the cheapest dimension and precision that keep the quality."""

from __future__ import annotations

import argparse
import sys

from .columns import fitted
from .model_arguments import add_model_arguments, model_settings, positive

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  qwen3-embed choose hard-zh
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
    wanted = parser.add_argument_group("wanted")
    wanted.add_argument(
        "--target",
        type=float,
        default=0.98,
        metavar="SHARE",
        help="of the nDCG@10 of full float32 vectors (default: 0.98)",
    )
    wanted.add_argument(
        "--documents", type=positive, metavar="N", help="documents that sizes are given for"
    )
    wanted.add_argument(
        "--minimise",
        choices=("bytes", "memory"),
        default="bytes",
        help="all stored bytes, or those that every search reads (default: bytes)",
    )
    tried = parser.add_argument_group("tried")
    tried.add_argument(
        "--dims",
        type=positive,
        nargs="+",
        metavar="N",
        help="dimensions (default: the model's, its halves, and three quarters of each)",
    )
    tried.add_argument(
        "--precision",
        nargs="+",
        default=["float32", "int8", "binary", "binary+int8"],
        choices=("float32", "int8", "binary", "binary+int8", "binary+float32"),
        metavar="NAME",
        help="float32, int8, binary, binary+int8, binary+float32 (default: all but the last)",
    )
    tried.add_argument(
        "--oversample",
        type=float,
        nargs="+",
        default=[2.0, 4.0, 10.0, 20.0],
        metavar="N",
        help="candidates of binary+... per document of a search for ten (default: 2 4 10 20)",
    )
    tried.add_argument(
        "--instruction",
        default="default",
        metavar="NAME",
        help="for queries: none, default, a name such as web_search or legal, or a sentence",
    )
    tried.add_argument("--split", default="test", help="of BEIR's judgments (default: test)")
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
        show_progress_bar=sys.stderr.isatty(),
        adapter=namespace.adapter,
        cache=namespace.cache,
        projection=namespace.projection,
        # Of BEIR's judgments, instead of a model's over several GPUs.
        **(model_settings(namespace) | {"split": namespace.split}),
    )
    print(fitted(str(choice)))
    if namespace.output is not None:
        for path in choice.save(namespace.output):
            print(f"wrote {path}", file=sys.stderr)
    return 0
