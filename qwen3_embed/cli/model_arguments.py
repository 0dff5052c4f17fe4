"""The arguments with which every command opens a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..reranker import Reranker

__all__ = ["add_model_arguments", "model_settings", "open_model", "open_reranker", "positive"]


def positive(text: str) -> int:
    """An argument that counts something, from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected at least 1")
    return value


def add_model_arguments(
    parser: argparse.ArgumentParser,
    default_model: str | None,
    *,
    many: bool = False,
    takes_cache: bool = True,
) -> None:
    """Adds --model and what goes with it; `default_model` None: no model unless asked for.

    A command that measures or checks the engine itself takes no cache.
    """
    parser.add_argument(
        "--model",
        default=[default_model] if many else default_model,
        nargs="+" if many else None,
        metavar="NAME",
        help="folder, official short name, or owner/name on the hub"
        + (f" (default: {default_model})" if default_model else ""),
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or cuda:all (default: auto)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float8"),
        help="float8 is for GPUs (default: bfloat16)",
    )
    parser.add_argument("--adapter", metavar="NAME", help="LoRA adapter: PEFT folder or owner/name")
    parser.add_argument("--max-length", type=positive, metavar="TOKENS", help="cut texts here")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of the CPU engine")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    if takes_cache:
        parser.add_argument("--cache", metavar="FILE", help="keep vectors in this SQLite file")
    else:
        parser.set_defaults(cache=None)
    parser.add_argument("--offline", action="store_true", help="never use the network")


def open_model(namespace: argparse.Namespace, model: str) -> Embedder:
    """An embedder, with the other arguments of the command line."""
    from ..embedder import Embedder

    settings = model_settings(namespace)
    return Embedder(model, adapter=namespace.adapter, cache=namespace.cache, **settings)


def open_reranker(namespace: argparse.Namespace, model: str) -> Reranker:
    """A reranker, with the other arguments of the command line."""
    from ..reranker import Reranker

    return Reranker(model, adapter=namespace.adapter, **model_settings(namespace))


def model_settings(namespace: argparse.Namespace) -> dict[str, Any]:
    """Settings shared by all models of a command; an adapter is not one, it fits one base alone."""
    return {
        "device": namespace.device,
        "dtype": namespace.dtype,
        "max_length": namespace.max_length,
        "num_threads": namespace.threads,
        "revision": namespace.revision,
        "local_files_only": namespace.offline,
    }
