"""`qwen3-embed encode`: files of texts to a file of vectors."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .model_arguments import add_model_arguments, open_model, positive

__all__ = ["add_arguments", "run"]

_OUTPUTS = {".npy": "npy", ".jsonl": "jsonl", ".parquet": "parquet"}
_FORMATS = ("text", "csv", "tsv", "jsonl", "parquet")

_EPILOG = """
Identical texts are computed once. A row that can't be read, or whose vector isn't finite, is
written with its reason to OUT.bad.jsonl; in a .npy its vector is NaN, elsewhere it is left out and
the column "row" tells where the others stood. What is finished is kept in OUT.job, so that --resume
goes on where a run was stopped, however it was, with the same result.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="text (one a line), .csv, .tsv, .jsonl, .parquet; a folder or a pattern of such; "
        "- for stdin",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=".npy, .jsonl or .parquet file; - for a .npy on stdout",
    )
    parser.add_argument("--format", choices=_FORMATS, help="of INPUT, whatever its name says")
    parser.add_argument("--column", metavar="NAME", help="where the text is (default: text)")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="carry this column over"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    add_model_arguments(parser, "mini")
    parser.add_argument("--dim", type=positive, help="dimensions to keep (default: all)")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--instruction", help="embed as queries with this instruction")
    prompt.add_argument("--prompt-name", metavar="NAME", help="e.g. query, legal, code")
    parser.set_defaults(wrong=parser.error)


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
            f"{folder} is left from a run that was stopped: go on with --resume, or delete it"
        )
    if namespace.resume and not folder.exists() and output.exists():
        print(f"nothing to resume: {output} is whole", file=sys.stderr)
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

    sources = find_sources(namespace.input, namespace.format)
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
        )
        max_length = model.max_length
    truncation = summary.truncation
    if truncation.n_cut:
        sentence = truncation.sentence(max_length, "texts", f"record {truncation.longest_index}")
        print(f"warning: {sentence}", file=sys.stderr)
    if summary.n_bad:
        where = "above" if namespace.output == "-" else f"{namespace.output}.bad.jsonl"
        print(
            f"warning: {summary.n_bad} of {summary.n_records} records were bad, see {where}",
            file=sys.stderr,
        )
