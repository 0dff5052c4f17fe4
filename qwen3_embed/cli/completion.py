"""`qwen3-embed completion`: print a script that completes commands in a shell."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]

_FILES = ("FILE", "INPUT", "OUT", "CORPUS", "DATA")
_MODELS = ("model", "adapter", "base", "slerp", "rerank", "reranker")  # names, or folders
_EPILOG = """examples, for the current user; open a new shell afterwards:
  qwen3-embed completion bash \\
    > ~/.local/share/bash-completion/completions/qwen3-embed
  qwen3-embed completion zsh > ~/.zfunc/_qwen3-embed    with ~/.zfunc in fpath
  qwen3-embed completion fish > ~/.config/fish/completions/qwen3-embed.fish

Write the script again after an update."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL")


def run(namespace: argparse.Namespace) -> int:
    """Prints the script."""
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            f"the completion command needs shtab ({error}): "
            f"pip install 'qwen3-embed-native[completion]'"
        ) from None
    from . import command_parser

    parser = command_parser()
    for command in parser.commands.values():
        for argument in command.arguments:
            if argument.metavar in _FILES:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
            elif argument.metavar == "DIR" or argument.dest in _MODELS:
                argument.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=namespace.shell))
    return 0
