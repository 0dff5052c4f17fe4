"""`qwen3-embed evaluate`: which model, dimension, precision and instruction on one's own data."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .columns import fitted, terminal_columns
from .model_arguments import add_model_arguments, model_settings, open_reranker, positive

if TYPE_CHECKING:
    from ..evaluation import Dataset

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  qwen3-embed evaluate hard-en --precision float32 int8 binary
  qwen3-embed evaluate hard-zh --model mini --dims 256 128 -o report"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder in BEIR's layout; JSON lines of query, positives, negatives; a CSV file of "
        "query, document, relevance; or a built-in set: hard-zh, hard-en, zh-en, code",
    )
    compared = parser.add_argument_group("compared")
    compared.add_argument(
        "--no-model", action="store_true", help="only what --vectors and --server bring"
    )
    compared.add_argument(
        "--dims", type=positive, nargs="+", metavar="N", help="dimensions (default: the model's)"
    )
    compared.add_argument(
        "--precision",
        nargs="+",
        default=["float32"],
        choices=("float32", "int8", "binary", "binary+int8", "binary+float32"),
        metavar="NAME",
        help="float32, int8, binary, binary+int8 or binary+float32; binary+... finds candidates "
        "by bits and rescores them (default: float32)",
    )
    compared.add_argument(
        "--oversample",
        type=float,
        default=10.0,
        metavar="N",
        help="candidates of binary+... per document of a search for ten (default: 10)",
    )
    compared.add_argument(
        "--instruction",
        nargs="+",
        default=["default"],
        metavar="NAME",
        help="for queries: none, default, a name such as web_search or legal, or a sentence",
    )
    compared.add_argument("--rerank", metavar="MODEL", help="also rerank with this reranker")
    compared.add_argument(
        "--rerank-top", type=positive, default=50, metavar="N", help="documents it reads per query"
    )
    compared.add_argument(
        "--vectors",
        action="append",
        default=[],
        type=_vectors,
        metavar="NAME=DOCS.npy,QUERIES.npy",
        help="vectors made elsewhere, a row per text of --write-texts (repeatable)",
    )
    compared.add_argument(
        "--server",
        action="append",
        default=[],
        type=_server,
        metavar="MODEL@URL",
        help="an OpenAI-compatible server, e.g. m@http://127.0.0.1:8000/v1; its key is read from "
        "OPENAI_API_KEY (repeatable)",
    )
    scored = parser.add_argument_group("scoring")
    scored.add_argument("--split", default="test", help="of BEIR's judgments (default: test)")
    scored.add_argument(
        "--all-documents",
        action="store_true",
        help="rank all documents, not each query's own positives and negatives",
    )
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="DIR", help="write Markdown, CSV, JSON and plots")
    output.add_argument(
        "--write-texts",
        metavar="DIR",
        help="write documents.jsonl and queries.jsonl, in the order of --vectors, and stop",
    )
    add_model_arguments(parser, "mini", many=True, takes_split=False)
    parser.set_defaults(wrong=parser.error)


def _vectors(text: str) -> tuple[str, tuple[str, str]]:
    name, _, paths = text.partition("=")
    documents, _, queries = paths.partition(",")
    if not (name and documents and queries):
        raise argparse.ArgumentTypeError(f"{text!r}, expected NAME=DOCS.npy,QUERIES.npy")
    return name, (documents, queries)


def _server(text: str) -> tuple[str, tuple[str, str]]:
    model, _, url = text.partition("@")
    if not model or not url.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r}, expected MODEL@URL")
    return text, (url, model)


def run(namespace: argparse.Namespace) -> int:
    """Prints the table and the conclusions; writes the report."""
    from ..evaluation import evaluate, read_dataset

    if namespace.no_model and not (namespace.vectors or namespace.server):
        namespace.wrong("--no-model needs --vectors or --server")
    data = read_dataset(
        namespace.data, split=namespace.split, all_documents=namespace.all_documents
    )
    if namespace.write_texts is not None:
        _write_texts(data, Path(namespace.write_texts))
        return 0
    reranker = None if namespace.rerank is None else open_reranker(namespace, namespace.rerank)
    report = evaluate(
        data,
        [] if namespace.no_model else namespace.model,
        dims=namespace.dims,
        precisions=namespace.precision,
        oversample=namespace.oversample,
        instructions=namespace.instruction,
        reranker=reranker,
        rerank_top=namespace.rerank_top,
        vectors=dict(namespace.vectors),
        servers=dict(namespace.server),
        show_progress_bar=sys.stderr.isatty(),
        adapter=namespace.adapter,
        cache=namespace.cache,
        projection=namespace.projection,
        **model_settings(namespace),
    )
    print(fitted(report.to_text(terminal_columns())))
    if namespace.output is not None:
        for path in report.save(namespace.output):
            print(f"wrote {path}", file=sys.stderr)
    return 0


def _write_texts(data: Dataset, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("documents", data.documents), ("queries", data.queries)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        print(f"wrote {len(texts)} {name} to {folder / name}.jsonl", file=sys.stderr)
