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
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType

from ..version import __version__
from .colours import RED, YELLOW, paint
from .messages import with_options

__all__ = ["command_parser", "main"]

# Command: its arguments in the usage line, and what it does.
_GROUPS = {
    "vectors and search": {
        "encode": ("INPUT ... -o OUT", "turn files of texts into a file of vectors"),
        "search": ("CORPUS QUERY", "find the passages of a file or folder that answer a query"),
        "rerank": ("QUERY INPUT", "order a file's lines by how well they answer a query"),
    },
    "serving": {
        "serve": ("", "serve models over HTTP to clients of OpenAI, Cohere and TEI"),
        "mcp": ("--store DIR", "give an agent a memory and search in folders, over MCP"),
    },
    "choosing and checking": {
        "evaluate": ("DATA", "compare models, dimensions and precisions on your own queries"),
        "choose": ("DATA", "find the cheapest dimension and precision that are good enough"),
        "verify": ("", "compare a model's vectors with published numbers"),
        "bench": ("", "measure speed beside the limits of the device"),
        "info": ("", "show the version, the GPUs, the instructions, a model's settings"),
    },
    "making models": {
        "quantize": ("MODEL -o DIR", "write a model folder with int8 weights, half the size"),
        "merge": ("--base NAME --adapter NAME -o DIR", "merge an adapter, or several models"),
    },
    "shell": {
        "completion": ("SHELL", "print a script that completes commands with the TAB key"),
    },
}
_USAGE = "qwen3-embed COMMAND [OPTION ...]"
_ABOUT = "Text to vectors with Qwen3-Embedding, without PyTorch."
_OPTIONS = """options:
  --help      show this text
  --version   show the version

`qwen3-embed COMMAND --help` shows a command's options and examples.
"""
_START = f"""usage: {_USAGE}

{_ABOUT}

To begin, with the small model that is built in:
  qwen3-embed search notes/ "how long do eggs boil"   passages that answer
  qwen3-embed encode notes.txt -o notes.npy           a vector per line
  qwen3-embed serve                                   an HTTP server

With an official model, downloaded once (or from ModelScope: --hub modelscope):
  qwen3-embed search notes/ "how long do eggs boil" --model Qwen3-Embedding-0.6B

`qwen3-embed --help` lists all commands, `qwen3-embed COMMAND --help` a
command's options and examples.
"""


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
    parser = command_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.exit(2, _START)
    namespace = parser.parse_args(arguments)
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
        print(f"{paint('error:', RED, sys.stderr)} {with_options(message)}", file=sys.stderr)
        return 1


def _module(command: str) -> ModuleType:
    return import_module(f".{command}", __name__)


class _Command(argparse.ArgumentParser):
    """The parser of one command."""

    @property
    def arguments(self) -> list[argparse.Action]:
        """All that it takes, for scripts of shells."""
        return self._actions


class _Program(argparse.ArgumentParser):
    """The parser above the commands, whose help lists them in groups.

    Attributes
    ----------
    commands : mapping of str to _Command
    """

    commands: Mapping[str, _Command]

    def format_help(self) -> str:
        lines = [f"usage: {_USAGE}", "", _ABOUT]
        for title, commands in _GROUPS.items():
            lines += ["", f"{title}:"]
            lines += [f"  {name:12}{does}" for name, (_, does) in commands.items()]
        return "\n".join(lines) + f"\n\n{_OPTIONS}"


def command_parser() -> _Program:
    """The parser of the whole command line."""
    parser = _Program(prog="qwen3-embed", usage=_USAGE, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"qwen3-embed {__version__}")
    added = parser.add_subparsers(
        prog=parser.prog,
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=_Command,
    )
    for commands in _GROUPS.values():
        for name, (needed, does) in commands.items():
            command = added.add_parser(
                name,
                help=does,
                usage=" ".join(f"qwen3-embed {name} {needed} [OPTION ...]".split()),
                description=f"{does[0].upper()}{does[1:]}.",
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,  # else a mistyped option is taken for another one
            )
            command.add_argument(
                "--debug", action="store_true", help="show the traceback of an error"
            )
            _module(name).add_arguments(command)
    parser.commands = added.choices
    return parser


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    word = paint("warning:", YELLOW, sys.stderr)
    print(f"{word} {with_options(str(message))}", file=sys.stderr)
