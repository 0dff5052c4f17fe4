"""Options shared by the commands that open a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..loading.hub_options import HUBS, HubOptions

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..reranker import Reranker

__all__ = [
    "add_hub_arguments",
    "add_model_arguments",
    "encoding_name",
    "hub_options",
    "model_settings",
    "open_model",
    "open_reranker",
    "positive",
]


def positive(text: str) -> int:
    """The type of an option that counts something: an int from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected at least 1")
    return value


def encoding_name(name: str) -> str:
    """The type of --encoding: lines are found by their byte 10, so ASCII has to be part of it."""
    try:
        is_ascii = "\n,0aZ".encode(name) == b"\n,0aZ"
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"{name!r} is not an encoding that Python knows, expected e.g. gb18030 or cp1252"
        ) from None
    if not is_ascii:
        raise argparse.ArgumentTypeError(
            f"{name} doesn't contain ASCII: convert the files, e.g. iconv -f {name} -t UTF-8"
        )
    return name


def add_model_arguments(
    parser: argparse.ArgumentParser,
    default_model: str | None,
    *,
    many: bool = False,
    takes_cache: bool = True,
    named_adapters: bool = False,
    takes_split: bool = True,
) -> None:
    """Adds --model and the options that go with it.

    Parameters
    ----------
    parser : ArgumentParser
    default_model : str or None
        None: no model is opened unless --model names one.
    many : bool
        Whether --model takes several names.
    takes_cache : bool
        False for commands that measure or check the engine itself.
    named_adapters : bool
        Whether --adapter is repeatable and takes names, for servers.
    takes_split : bool
        False for commands whose --split names a part of a dataset.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=[default_model] if many else default_model,
        nargs="+" if many else None,
        metavar="NAME",
        help="mini, an official short name, owner/name on the hub, or a folder"
        + (f" (default: {default_model})" if default_model else ""),
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1, cuda:0,cuda:1 or cuda:all (default: auto)",
    )
    if takes_split:
        group.add_argument(
            "--split",
            dest="model_split",
            choices=("layers",),
            help="share the model's layers among the GPUs of --device (default: all GPUs)",
        )
    else:
        parser.set_defaults(model_split=None)
    group.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float8", "int8", "int8-weights"),
        help="of the weights; float8 and int8-weights need a GPU, int8 the CPU (default: bfloat16)",
    )
    group.add_argument(
        "--embedding",
        default="auto",
        choices=("auto", "device", "host"),
        help="where a GPU keeps the token embeddings (default: on the host if memory is short)",
    )
    adapter = "LoRA adapter: a PEFT folder or owner/name on the hub"
    if named_adapters:
        group.add_argument(
            "--adapter",
            action="append",
            default=[],
            metavar="[NAME=]ADAPTER",
            help=adapter + "; with NAME= it serves requests for MODEL:NAME (repeatable), without "
            "it all of the model's",
        )
    else:
        group.add_argument("--adapter", metavar="NAME", help=adapter)
    group.add_argument(
        "--max-length",
        type=positive,
        metavar="TOKENS",
        help="cut longer texts to this length (default: the model's)",
    )
    group.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: the usable cores)"
    )
    group.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="TOKENS",
        help="tokens per forward pass; fewer take less memory (default: chosen for the device)",
    )
    if takes_cache:
        group.add_argument("--cache", metavar="FILE", help="keep vectors in this SQLite file")
        group.add_argument(
            "--projection", metavar="FILE", help="domain map of fit_domain, fitted for this model"
        )
    else:
        parser.set_defaults(cache=None, projection=None)
    add_hub_arguments(parser)


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for looking up models by name."""
    group = parser.add_argument_group("model names")
    group.add_argument(
        "--hub",
        choices=HUBS,
        help="hub to look up owner/name on (default: QWEN3_EMBED_HUB, else huggingface)",
    )
    group.add_argument("--revision", help="branch, tag or commit of the model on the hub")
    group.add_argument("--offline", action="store_true", help="never use the network")


def hub_options(namespace: argparse.Namespace) -> HubOptions:
    """The options of `add_hub_arguments`."""
    return HubOptions(namespace.revision, local_files_only=namespace.offline, hub=namespace.hub)


def open_model(namespace: argparse.Namespace, model: str) -> Embedder:
    """Opens an embedder with the model options of the command line."""
    from ..embedder import Embedder

    settings = model_settings(namespace)
    settings |= {"cache": namespace.cache, "projection": namespace.projection}
    return Embedder(model, adapter=namespace.adapter, **settings)


def open_reranker(namespace: argparse.Namespace, model: str) -> Reranker:
    """Opens a reranker with the model options of the command line."""
    from ..reranker import Reranker

    return Reranker(model, adapter=namespace.adapter, **model_settings(namespace))


def model_settings(namespace: argparse.Namespace) -> dict[str, Any]:
    """The options that apply to every model of a command; an adapter belongs to one base."""
    return {
        "device": namespace.device,
        "split": namespace.model_split,
        "dtype": namespace.dtype,
        "embedding": namespace.embedding,
        "max_length": namespace.max_length,
        "num_threads": namespace.threads,
        "batch_tokens": namespace.batch_tokens,
        "revision": namespace.revision,
        "local_files_only": namespace.offline,
        "hub": namespace.hub,
    }
