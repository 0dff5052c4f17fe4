"""`qwen3-embed encode`: turn files of texts into a file of vectors."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .messages import with_options
from .model_arguments import add_model_arguments, encoding_name, open_model, positive

__all__ = ["add_arguments", "run"]

_OUTPUTS = {".npy": "npy", ".jsonl": "jsonl", ".parquet": "parquet"}
_FORMATS = ("text", "csv", "tsv", "jsonl", "parquet")

_EPILOG = """examples:
  qwen3-embed encode notes.txt -o notes.npy
  qwen3-embed encode notes.csv -o notes.parquet --column body --keep id
  qwen3-embed encode corpus/ -o corpus.parquet --model Qwen3-Embedding-0.6B

Identical texts are computed once. A row that can't be read, or whose vector
isn't finite, is listed with its reason in OUT.bad.jsonl; in a .npy its vector
is NaN, in other formats it is left out, and the column "row" holds the row's
number in the input. Finished work is kept in OUT.job: after an interruption
--resume continues, and the result is the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    source = parser.add_argument_group("input")
    source.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="text file (one text per line), .csv, .tsv, .jsonl or .parquet; a folder or a "
        "pattern of them; - for stdin",
    )
    source.add_argument(
        "--format", choices=_FORMATS, help="format of INPUT (default: by the file name)"
    )
    source.add_argument(
        "--encoding",
        default="utf-8",
        type=encoding_name,
        metavar="NAME",
        help="of INPUT, e.g. gb18030 or cp1252 (default: utf-8)",
    )
    source.add_argument("--column", metavar="NAME", help="column of the texts (default: text)")
    source.add_argument(
        "--max-bad",
        type=_count,
        metavar="N",
        help="fail if more than N records are bad (default: only if all are)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=".npy, .jsonl or .parquet file; - for a .npy on stdout",
    )
    output.add_argument("--dim", type=positive, help="dimensions to keep (default: all)")
    output.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="copy this column to OUT (repeatable)",
    )
    output.add_argument("--resume", action="store_true", help="continue an unfinished run")
    prompts = parser.add_argument_group("prompt")
    prompt = prompts.add_mutually_exclusive_group()
    prompt.add_argument("--instruction", help="embed as queries with this instruction")
    prompt.add_argument(
        "--prompt-name", metavar="NAME", help="a named instruction: see info --instructions"
    )
    add_model_arguments(parser, "mini")
    parser.set_defaults(wrong=parser.error)


def _count(text: str) -> int:
    """The type of an option that may be zero."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}, expected at least 0")
    return value


def run(namespace: argparse.Namespace) -> int:
    """Encodes the records; the output appears whole or not at all."""
    to_stdout = namespace.output == "-"
    output = Path(namespace.output)
    if not to_stdout and output.suffix.lower() not in _OUTPUTS:
        namespace.wrong(
            f"OUT is {namespace.output}, expected a name that ends in {', '.join(_OUTPUTS)}, or -"
        )
    if namespace.resume and to_stdout:
        namespace.wrong("--resume needs an output file")
    if namespace.keep and (to_stdout or output.suffix.lower() == ".npy"):
        namespace.wrong("--keep needs a .jsonl or .parquet output: a .npy holds vectors only")
    if to_stdout:
        with tempfile.TemporaryDirectory() as scratch:
            _encode(namespace, Path(scratch) / "job", "npy", _to_stdout)
        return 0
    folder = output.with_name(output.name + ".job")
    if folder.exists() and not namespace.resume:
        raise FileExistsError(
            f"{folder} is left from a run that was stopped: continue with --resume, or delete it"
        )
    if namespace.resume and not folder.exists() and output.exists():
        print(f"nothing to resume: {output} is complete", file=sys.stderr)
        return 0

    def to_file(write: Callable[[IO[bytes]], None], bad: Path) -> None:
        part = folder / "result"
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside = output.with_name(output.name + ".bad.jsonl")
        if bad.stat().st_size:
            copy = folder / "bad.copy"
            copy.unlink(missing_ok=True)
            os.link(bad, copy)
            os.replace(copy, aside)
        else:
            aside.unlink(missing_ok=True)
        os.replace(part, output)

    _encode(namespace, folder, _OUTPUTS[output.suffix.lower()], to_file)
    return 0


def _to_stdout(write: Callable[[IO[bytes]], None], bad: Path) -> None:
    write(sys.stdout.buffer)
    sys.stderr.buffer.write(bad.read_bytes())


def _encode(
    namespace: argparse.Namespace,
    folder: Path,
    format: str,
    publish: Callable[[Callable[[IO[bytes]], None], Path], None],
) -> None:
    from ..corpus.records import count_records, find_sources
    from ..corpus.run import Corpus, run_corpus
    from ..encoding.progress import progress

    sources = find_sources(namespace.input, namespace.format, namespace.encoding)
    show = sys.stderr.isatty()
    with (
        open_model(namespace, namespace.model) as model,
        progress(show, count_records(sources) if show else 0) as done,
    ):
        summary = run_corpus(
            model,
            Corpus(sources, namespace.column, namespace.keep),
            folder,
            publish,
            format=format,
            dim=namespace.dim,
            prefix=model.prefix_of(
                instruction=namespace.instruction, prompt_name=namespace.prompt_name
            ),
            on_done=done,
            max_bad=namespace.max_bad,
        )
        max_length = model.max_length
    truncation = summary.truncation
    if truncation.n_cut:
        sentence = truncation.sentence(max_length, "texts", f"record {truncation.longest_index}")
        print(f"warning: {with_options(sentence)}", file=sys.stderr)
    if summary.n_empty:
        print(
            f"warning: {summary.n_empty} of {summary.n_records} records are empty texts",
            file=sys.stderr,
        )
    if summary.n_bad:
        where = "above" if namespace.output == "-" else f"{namespace.output}.bad.jsonl"
        print(
            f"warning: {summary.n_bad} of {summary.n_records} records were bad, see {where}",
            file=sys.stderr,
        )
