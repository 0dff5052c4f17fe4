"""The arguments with which every command opens a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..reranker import Reranker

__all__ = ["add_model_arguments", "open_model", "open_reranker"]


def add_model_arguments(
    parser: argparse.ArgumentParser, default_model: str | None, *, many: bool = False
) -> None:
    """Adds --model and what goes with it; `default_model` None: no model unless asked for."""
    parser.add_argument(
        "--model",
        default=[default_model] if many else default_model,
        nargs="+" if many else None,
        metavar="NAME",
        help="folder, official short name, owner/name on the hub, or mini"
        + (f" (default: {default_model})" if default_model else ""),
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or cuda:all (default: auto)"
    )
    parser.add_argument("--adapter", metavar="NAME", help="LoRA adapter: PEFT folder or owner/name")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="cut texts here")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU engine")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--cache", metavar="FILE", help="keep vectors in this SQLite file")
    parser.add_argument("--offline", action="store_true", help="never use the network")


def open_model(namespace: argparse.Namespace) -> Embedder:
    """The model that the command line names."""
    from ..embedder import Embedder

    return Embedder(
        namespace.model,
        device=namespace.device,
        max_length=namespace.max_length,
        num_threads=namespace.threads,
        adapter=namespace.adapter,
        revision=namespace.revision,
        local_files_only=namespace.offline,
        cache=namespace.cache,
    )


def open_reranker(namespace: argparse.Namespace, model: str) -> Reranker:
    """A reranker, with the other arguments of the command line."""
    from ..reranker import Reranker

    return Reranker(
        model,
        device=namespace.device,
        max_length=namespace.max_length,
        num_threads=namespace.threads,
        adapter=namespace.adapter,
        revision=namespace.revision,
        local_files_only=namespace.offline,
    )
