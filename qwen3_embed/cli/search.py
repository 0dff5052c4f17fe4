"""`qwen3-embed search`: find the passages of a file or folder that answer a query.

The search is exact and in memory: every passage is compared with the query. Their vectors are kept
in the user's cache folder, so the next search embeds only what is new. A reranker can reorder the
best passages.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, nullcontext
from itertools import islice
from textwrap import dedent
from typing import TYPE_CHECKING

from .colours import BOLD, CYAN, paint
from .columns import cut_to_width, display_width, printable, wrap
from .messages import json_line
from .model_arguments import add_model_arguments, encoding_name, model_settings, positive

if TYPE_CHECKING:
    from ..retrieval.corpus_index import FoundPassage
    from ..stores.corpus_vectors import CorpusVectors

__all__ = ["add_arguments", "run", "user_store"]

_CANDIDATES = 50  # passages that a reranker reads
_MAX_LINES = 6  # of a passage on the terminal
_INDENT = " " * 4
_MIN_COLUMNS = 20
_FENCES = ("```", "~~~")
_EPILOG = """examples:
  qwen3-embed search notes/ "how long do eggs boil" --top-k 3
  qwen3-embed search src/ "where are retries counted" --prompt-name code
  qwen3-embed search notes/ "eggs" --rerank Qwen3-Reranker-0.6B --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "corpus", metavar="CORPUS", help="text, code, Markdown or JSON Lines file, or a folder"
    )
    parser.add_argument("query", metavar="QUERY", help="the question, in plain words")
    parser.add_argument(
        "--column",
        default="text",
        metavar="NAME",
        help="field of JSON Lines with the text (default: text)",
    )
    parser.add_argument(
        "--encoding",
        default="utf-8",
        type=encoding_name,
        metavar="NAME",
        help="of files that are not UTF-8, e.g. gb18030 or cp1252",
    )
    asked = parser.add_argument_group("search")
    asked.add_argument("--dim", type=positive, help="dimensions to compare (default: all)")
    prompt = asked.add_mutually_exclusive_group()
    prompt.add_argument(
        "--instruction", help="the task, in one sentence (default: the model's own)"
    )
    prompt.add_argument(
        "--prompt-name", metavar="NAME", help="a named instruction: see info --instructions"
    )
    asked.add_argument(
        "--rerank",
        metavar="MODEL",
        help=f"reorder the best {_CANDIDATES} with this reranker and show its scores",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top-k", type=positive, default=5, metavar="N", help="passages to show (default: 5)"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object per line")
    kept = parser.add_argument_group("remembered vectors")
    kept.add_argument(
        "--cache",
        metavar="FILE",
        help="keep them in this SQLite file (default: in the user's cache folder)",
    )
    kept.add_argument("--rebuild", action="store_true", help="embed all passages again")
    add_model_arguments(parser, "mini", takes_cache=False)
    parser.add_argument(
        "--projection", metavar="FILE", help="domain map of fit_domain, fitted for this model"
    )
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Prints the best passages, best first."""
    if not namespace.query.strip():
        namespace.wrong("QUERY is empty")
    hits = _nearest(namespace)
    if namespace.rerank is not None:
        hits = _reranked(hits, namespace)
    if namespace.json:
        for rank, hit in enumerate(hits, 1):
            print(json_line(_record(rank, hit)))
    else:
        print("\n".join(_lines(hits, shutil.get_terminal_size().columns)))
    return 0


def _nearest(namespace: argparse.Namespace) -> list[FoundPassage]:
    """The passages whose vectors are closest to the query's; the first of equal ones."""
    from ..embedder import Embedder
    from ..retrieval.corpus_files import find_files
    from ..retrieval.corpus_index import CorpusIndex

    files = find_files(namespace.corpus)
    n_hits = namespace.top_k if namespace.rerank is None else max(namespace.top_k, _CANDIDATES)
    settings = model_settings(namespace) | {"projection": namespace.projection}
    with Embedder(namespace.model, adapter=namespace.adapter, **settings) as model:
        query = model.encode_query(
            namespace.query,
            dim=namespace.dim,
            instruction=namespace.instruction,
            prompt_name=namespace.prompt_name,
        )
        store = user_store(namespace.cache)
        with closing(store) if store else nullcontext():
            index = CorpusIndex(
                model,
                namespace.corpus,
                files,
                column=namespace.column,
                encoding=namespace.encoding,
                dim=namespace.dim,
                store=store,
                rebuild=namespace.rebuild,
                show_progress_bar=sys.stderr.isatty(),
            )
    if not index.n_passages:
        raise ValueError(f"{namespace.corpus} holds no text")
    return index.nearest(query, n_hits)


def user_store(path: str | None) -> CorpusVectors | None:
    """The file that was asked for, or the user's own if that can be written."""
    from ..loading.user_cache import cache_folder
    from ..stores.corpus_vectors import CorpusVectors

    if path is not None:
        return CorpusVectors(path)
    folder = cache_folder("search")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return CorpusVectors(folder / "vectors.sqlite")
    except OSError as error:
        warnings.warn(f"the next search will be no faster: {error}", stacklevel=1)
        return None


def _reranked(hits: list[FoundPassage], namespace: argparse.Namespace) -> list[FoundPassage]:
    """The best candidates, in the order of the reranker's scores."""
    from ..reranker import Reranker
    from ..retrieval.corpus_index import FoundPassage
    from ..templates import INSTRUCTIONS

    with Reranker(
        namespace.rerank,
        device=namespace.device,
        split=namespace.model_split,
        dtype=namespace.dtype,
        embedding=namespace.embedding,
        num_threads=namespace.threads,
        batch_tokens=namespace.batch_tokens,
        local_files_only=namespace.offline,
        hub=namespace.hub,
    ) as ranker:
        ranks = ranker.rank(
            namespace.query,
            [hit.passage.in_context for hit in hits],
            top_k=namespace.top_k,
            instruction=namespace.instruction or INSTRUCTIONS.get(namespace.prompt_name or ""),
            show_progress_bar=sys.stderr.isatty(),
        )
    return [FoundPassage(rank["score"], hits[rank["corpus_id"]].passage) for rank in ranks]


def _record(rank: int, hit: FoundPassage) -> dict[str, str | int | float]:
    passage = hit.passage
    return {
        "rank": rank,
        "score": round(hit.score, 4),
        "file": passage.path,
        "line": passage.line,
        "last_line": passage.last_line,
        "heading": passage.heading,
        "text": passage.text,
    }


def _lines(hits: list[FoundPassage], n_columns: int) -> Iterator[str]:
    """The hits for a person: rank, score, file:line and heading, with the text below."""
    n_columns = max(n_columns, _MIN_COLUMNS)
    for rank, (score, passage) in enumerate(hits, 1):
        if rank > 1:
            yield ""
        head = f"{rank:2}  {score:.3f}  "
        place = f"{printable(passage.path)}:{passage.line}"
        room = n_columns - display_width(head + place) - 2
        title = f"  {cut_to_width(printable(passage.heading), room)}" if room > 8 else ""
        head, place = paint(head, BOLD, sys.stdout), paint(place, CYAN, sys.stdout)
        yield (head + place + title).rstrip()
        for text in _body(passage.text, n_columns - len(_INDENT)):
            yield _INDENT + text


def _body(text: str, n_columns: int) -> list[str]:
    """The first lines of a text, none wider than `n_columns`."""
    lines = [printable(line).rstrip() for line in dedent(text).splitlines() if line.strip()]
    if not text.startswith(_FENCES):
        lines = _reflowed(lines, n_columns)
    parts = (part for line in lines for part in wrap(line, n_columns))
    shown = list(islice(parts, _MAX_LINES + 1))
    if len(shown) > _MAX_LINES:
        shown.pop()
        shown[-1] = cut_to_width(shown[-1] + " …", n_columns)
    return shown


def _reflowed(lines: list[str], n_columns: int) -> list[str]:
    """Joins what follows to a line that will break anyway; otherwise line ends mean something."""
    joined: list[str] = []
    for line in lines:
        follows = line.lstrip()
        if joined and follows[:1].isalpha() and display_width(joined[-1]) > n_columns:
            joined[-1] += " " * (follows[0].isascii() or joined[-1][-1].isascii()) + follows
        else:
            joined.append(line)
    return joined
