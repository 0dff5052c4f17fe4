"""`qwen3-embed mcp`: a memory and search in folders as tools of an agent, over MCP."""

from __future__ import annotations

import argparse
import os
from contextlib import closing

from .model_arguments import add_model_arguments, open_model
from .search import user_store

__all__ = ["add_arguments", "run"]

_EPILOG = """example:
  qwen3-embed mcp --store ~/.agent-memory --folder ~/notes"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--store", required=True, metavar="DIR", help="folder of the memory, made if missing"
    )
    parser.add_argument(
        "--folder",
        action="append",
        default=[],
        metavar="DIR",
        help="let the agent search the text and code files of this folder (repeatable)",
    )
    add_model_arguments(parser, "mini", takes_cache=False)


def run(namespace: argparse.Namespace) -> int:
    """Serves one client until it closes standard input."""
    try:
        from ..integrations.mcp import make_server
    except ImportError as error:
        raise ImportError(
            f"the mcp command needs the mcp package ({error}): "
            f'pip install "qwen3-embed-native[mcp]"'
        ) from None
    from ..stores.memory import Memory

    for folder in namespace.folder:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {folder!r}")
    os.makedirs(namespace.store, mode=0o700, exist_ok=True)
    with open_model(namespace, namespace.model) as model:
        memory = Memory(os.path.join(namespace.store, "memory.sqlite"), model)
        with closing(memory):
            store = user_store(None) if namespace.folder else None
            make_server(model, memory, namespace.folder, store).run()
    return 0
