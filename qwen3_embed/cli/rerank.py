"""`qwen3-embed rerank`: the lines of a text file, ordered by how well they answer a query."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .model_arguments import add_model_arguments, open_reranker

__all__ = ["add_arguments", "run"]

_DEFAULT_MODEL = "Qwen3-Reranker-0.6B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("query", metavar="QUERY", help="what is looked for, in plain words")
    parser.add_argument(
        "input", metavar="INPUT", help="a text file, one document a line; - is stdin"
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="N", help="lines to print")
    add_model_arguments(parser, _DEFAULT_MODEL, takes_cache=False)
    parser.add_argument("--instruction", help="what makes a document right (default: web search's)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Prints rank, score and text, best first."""
    if namespace.top_k < 1:
        namespace.wrong(f"--top-k is {namespace.top_k}, expected at least 1")
    if namespace.input == "-":
        text = sys.stdin.buffer.read().decode("utf-8")
    else:
        text = Path(namespace.input).read_text("utf-8")
    documents = [line for line in text.splitlines() if line.strip()]
    with open_reranker(namespace, namespace.model) as ranker:
        hits = ranker.rank(
            namespace.query,
            documents,
            namespace.top_k,
            return_documents=True,
            instruction=namespace.instruction,
            show_progress_bar=sys.stderr.isatty(),
        )
    for rank, hit in enumerate(hits, 1):
        if namespace.json:
            score = round(hit["score"], 4)
            record = {"rank": rank, "score": score, "index": hit["corpus_id"], "text": hit["text"]}
            print(json.dumps(record, ensure_ascii=False))
        else:
            print(f"{rank:2}  {hit['score']:.3f}  {hit['text']}")
    return 0
