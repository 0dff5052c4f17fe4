"""`qwen3-embed encode`: the lines of a text file to a .npy file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..passages import decode_text
from .model_arguments import add_model_arguments, open_model

if TYPE_CHECKING:
    from ..embedder import Embedder

__all__ = ["add_arguments", "run"]

_NOT_TEXT = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".npy", ".gz", ".zip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.add_argument("input", metavar="INPUT", help="UTF-8, one text a line; - for stdin")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help=".npy file; - for stdout"
    )
    add_model_arguments(parser, "mini")
    parser.add_argument("--dim", type=int, help="dimensions to keep (default: all)")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--instruction", help="embed as queries with this instruction")
    prompt.add_argument("--prompt-name", metavar="NAME", help="e.g. query, legal, code")
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Encodes the lines; the output appears whole or not at all."""
    if namespace.input.lower().endswith(_NOT_TEXT):
        namespace.wrong(f"INPUT is {namespace.input}, expected a text file, one text a line")
    if namespace.output != "-" and not namespace.output.lower().endswith(".npy"):
        namespace.wrong(f"OUT is {namespace.output}, expected a name that ends in .npy, or -")
    texts = _read_lines(namespace.input)
    with open_model(namespace) as model:
        if namespace.output == "-":
            _write(model, texts, namespace, sys.stdout.buffer)
            return 0
        output = Path(namespace.output)
        part = output.with_name(f".{output.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                _write(model, texts, namespace, file)
            os.replace(part, output)
        finally:
            part.unlink(missing_ok=True)
    return 0


def _read_lines(name: str) -> list[str]:
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    lines = decode_text(content, name).split("\n")
    if lines[-1] == "":  # what stands after the last newline is no line
        lines.pop()
    return lines


def _write(
    model: Embedder, texts: list[str], namespace: argparse.Namespace, file: BinaryIO
) -> None:
    """Writes a .npy of (n, dim) float32, chunk by chunk."""
    from numpy.lib.format import write_array_header_1_0

    dim = model.dim if namespace.dim is None else namespace.dim
    chunks = model.encode_iter(
        texts,
        dim=namespace.dim,
        instruction=namespace.instruction,
        prompt_name=namespace.prompt_name,
        show_progress_bar=sys.stderr.isatty(),
    )
    write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (len(texts), dim)}
    )
    for rows in chunks:
        file.write(rows.data)
