"""`qwen3-embed serve`: models over HTTP."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from .model_arguments import add_model_arguments, model_settings, open_model, positive

if TYPE_CHECKING:
    from ..server.registry import Registry

__all__ = ["add_arguments", "run"]

_LOCAL = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    add_model_arguments(parser, "mini", many=True)
    parser.add_argument(
        "--reranker", action="append", default=[], metavar="NAME", help="serve this one too"
    )
    parser.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="ALIAS=NAME",
        help="another name for a model, e.g. for clients that insist on one",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any (default: 8000)")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="the keys that clients may show, one a line",
    )
    parser.add_argument(
        "--no-key", action="store_true", help="let everyone in who reaches --host, without a key"
    )
    parser.add_argument(
        "--token-ids",
        choices=("model", "cl100k_base"),
        default="model",
        help="what token ids in /v1/embeddings are: the model's own, or OpenAI's, as LangChain's "
        "OpenAIEmbeddings sends them (default: model)",
    )
    parser.add_argument(
        "--truncate", action="store_true", help="cut long texts unless a request says otherwise"
    )
    parser.add_argument(
        "--max-body-mb", type=positive, default=16, help="of one request (default: 16)"
    )
    parser.add_argument(
        "--max-inputs", type=positive, default=2048, help="texts of one request (default: 2048)"
    )
    parser.add_argument(
        "--max-queue", type=positive, default=512, help="requests at once (default: 512)"
    )
    parser.add_argument(
        "--max-connections", type=positive, default=1024, help="at once (default: 1024)"
    )
    parser.add_argument(
        "--client-seconds",
        type=float,
        default=60,
        metavar="S",
        help="time for a client's header, and for its body (default: 60)",
    )
    parser.add_argument("--log-level", default="info", choices=("info", "warning", "error"))
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C; requests that were begun are finished first."""
    if namespace.host not in _LOCAL and namespace.api_key_file is None and not namespace.no_key:
        namespace.wrong(
            f"--host {namespace.host} can be reached from elsewhere: pass --api-key-file, or "
            f"--no-key if everyone may ask"
        )
    if not namespace.client_seconds > 0:
        namespace.wrong(f"--client-seconds is {namespace.client_seconds}, expected more than 0")
    if not 0 <= namespace.port < 1 << 16:
        namespace.wrong(f"--port is {namespace.port}, expected 0..65535")
    try:
        from ..server.application import Application
        from ..server.foreign_ids import ForeignIds
        from ..server.keys import Keys
        from ..server.listening import listen
        from ..server.logs import log_as_json
        from ..server.settings import Settings
    except ImportError as error:
        raise ImportError(
            f"serve needs {error.name}: pip install 'qwen3-embed-native[server]'"
        ) from None
    settings = Settings(
        max_body_bytes=namespace.max_body_mb << 20,
        max_inputs=namespace.max_inputs,
        max_requests=namespace.max_queue,
        max_connections=namespace.max_connections,
        header_s=namespace.client_seconds,
        body_s=namespace.client_seconds,
        truncate=namespace.truncate,
    )
    foreign_ids = None if namespace.token_ids == "model" else ForeignIds(namespace.token_ids)
    keys = Keys(namespace.api_key_file) if namespace.api_key_file else None
    log_as_json(namespace.log_level)
    with contextlib.ExitStack() as opened:
        registry = _open_models(namespace, opened)
        application = Application(registry, keys, settings, foreign_ids)
        listen(application, namespace.host, namespace.port)
    return 0


def _open_models(namespace: argparse.Namespace, opened: contextlib.ExitStack) -> Registry:
    from ..reranker import Reranker
    from ..server.registry import Registry

    registry = Registry()
    for name in namespace.model:
        embedder = opened.enter_context(open_model(namespace, name))
        registry.embedders[_served_name(name, registry)] = embedder
    for name in namespace.reranker:
        ranker = opened.enter_context(Reranker(name, **model_settings(namespace)))
        registry.rerankers[_served_name(name, registry)] = ranker
    for alias in namespace.alias:
        short, _, name = alias.partition("=")
        if not short or name not in registry.names() or short in registry.names():
            raise ValueError(
                f"--alias {alias}: expected ALIAS=NAME with a new name and one of "
                f"{', '.join(registry.names())}"
            )
        registry.aliases[short] = name
    return registry


def _served_name(model: str, registry: Registry) -> str:
    """The last part of a folder or hub name."""
    name = Path(model).name or model
    if name in registry.names():
        raise ValueError(f"two models are called {name}: rename one's folder")
    return name
