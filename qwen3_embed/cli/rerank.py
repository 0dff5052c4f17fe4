"""`qwen3-embed rerank`: order the lines of a text file by how well they answer a query."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .columns import printable
from .messages import json_line
from .model_arguments import add_model_arguments, encoding_name, open_reranker, positive

__all__ = ["add_arguments", "run"]

_DEFAULT_MODEL = "Qwen3-Reranker-0.6B"
_EPILOG = """examples:
  qwen3-embed rerank "capital of China" notes.txt --top-k 3
  grep -i china notes.txt | qwen3-embed rerank "capital of China" - --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("query", metavar="QUERY", help="the question, in plain words")
    parser.add_argument(
        "input", metavar="INPUT", help="text file with one document per line; - for stdin"
    )
    parser.add_argument(
        "--encoding",
        default="utf-8",
        type=encoding_name,
        metavar="NAME",
        help="of INPUT if it is not UTF-8, e.g. gb18030 or cp1252",
    )
    parser.add_argument(
        "--instruction", help="what makes a document relevant (default: that of web search)"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top-k", type=positive, default=10, metavar="N", help="lines to print (default: 10)"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object per line")
    add_model_arguments(parser, _DEFAULT_MODEL, takes_cache=False)
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Prints rank, score and text, best first."""
    from ..retrieval.passages import decode_text

    if not namespace.query.strip():
        namespace.wrong("QUERY is empty")
    from_stdin = namespace.input == "-"
    content = sys.stdin.buffer.read() if from_stdin else Path(namespace.input).read_bytes()
    name = "stdin" if from_stdin else namespace.input
    lines = decode_text(content, name, namespace.encoding).split("\n")
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    documents = [lines[number - 1] for number in numbers]
    if not documents:
        raise ValueError(f"{namespace.input} holds no text")
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
            record = {
                "rank": rank,
                "score": round(hit["score"], 4),
                "index": hit["corpus_id"],
                "line": numbers[hit["corpus_id"]],
                "text": hit["text"],
            }
            print(json_line(record))
        else:
            print(f"{rank:2}  {hit['score']:.3f}  {printable(hit['text'])}")
    return 0
