"""The command line: one module per command.

Results go to standard output or the file, progress and warnings to standard error. Exit status:
0 done, 1 a failure (one line `error: ...`), 2 a wrong command line, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from ..version import __version__
from .messages import with_options

__all__ = ["main"]

_COMMANDS = {
    "encode": "turn files of texts into a file of vectors",
    "search": "find the passages of a file or folder that answer a query",
    "serve": "serve models over HTTP to clients of OpenAI, Cohere and TEI",
    "mcp": "give an agent a memory and search in folders, over MCP",
    "rerank": "order the lines of a text file by how well they answer a query",
    "merge": "merge an adapter into its base model, or interpolate models",
    "quantize": "write a model folder with int8 weights, half the size",
    "evaluate": "compare models, dimensions, precisions and instructions on your own queries",
    "choose": "find the cheapest dimension and precision that keep the quality you ask for",
    "verify": "compare a model's vectors with published numbers; exit status 1 on a miss",
    "bench": "measure throughput, latency and load time beside the device's limits",
    "info": "show the version, instruction sets, GPUs, instructions and a model's settings",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe in ASCII or GBK can't show every text: show an escape, go on.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    namespace = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = _module(namespace.command).run(namespace)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has left, as `head` does; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if namespace.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {with_options(message)}", file=sys.stderr)
        return 1


def _module(command: str) -> ModuleType:
    return import_module(f".{command}", __name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen3-embed",
        description="Text to vectors with Qwen3-Embedding, without PyTorch.",
        epilog="`qwen3-embed COMMAND --help` shows a command's options and an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qwen3-embed {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # else a mistyped option is taken for another one
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        _module(name).add_arguments(command)
    return parser


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {with_options(str(message))}", file=sys.stderr)
