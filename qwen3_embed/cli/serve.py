"""`qwen3-embed serve`: serve models over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_arguments import add_model_arguments, model_settings, positive

if TYPE_CHECKING:
    from ..retrieval.quantizer import Quantizer
    from ..server.registry import Registry

__all__ = ["add_arguments", "run"]

_LOCAL = ("127.0.0.1", "::1", "localhost")
_EPILOG = """examples:
  qwen3-embed serve --model Qwen3-Embedding-0.6B --reranker Qwen3-Reranker-0.6B
  qwen3-embed serve --host 0.0.0.0 --api-key-file keys.txt
  qwen3-embed serve --alias text-embedding-3-small=mini"""

# Options of vLLM, SGLang and text-embeddings-inference, with what to do here instead.
_COUNTERPARTS = {
    "--api-key": "every user of this machine could read the key with ps; write it to a file and "
    "pass --api-key-file FILE",
    "--model-path": "pass --model NAME",
    "--model-id": "pass --model NAME",
    "--served-model-name": "pass --alias ALIAS=NAME",
    "--max-model-len": "pass --max-length TOKENS",
    "--max-batch-tokens": "pass --batch-tokens TOKENS",
    "--max-client-batch-size": "pass --max-inputs N",
    "--auto-truncate": "pass --truncate",
    "--hostname": "pass --host ADDRESS",
    "--tensor-parallel-size": "pass --split layers for a model too large for one GPU, or --device "
    "cuda:all for one engine per GPU",
    "--trust-remote-code": "no code from a model's folder is ever run",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    _add_network_arguments(parser)
    served = parser.add_argument_group("served models")
    served.add_argument(
        "--reranker",
        action="append",
        default=[],
        metavar="NAME",
        help="also serve this reranker (repeatable)",
    )
    served.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="ALIAS=NAME",
        help="second name of a model, for clients that send a fixed one (repeatable)",
    )
    served.add_argument(
        "--token-ids",
        choices=("model", "cl100k_base"),
        default="model",
        help="tokenizer of the token ids that clients send: the model's, or OpenAI's as in "
        "LangChain's OpenAIEmbeddings (default: model)",
    )
    served.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long, unless the request says otherwise",
    )
    served.add_argument(
        "--idle-unload",
        type=float,
        metavar="S",
        help="free a model's memory when it has had no request for S seconds; the next one opens "
        "it again (default: never)",
    )
    served.add_argument(
        "--quantizer",
        type=Path,
        metavar="FILE",
        help="scale of int8 vectors, as `Quantizer.save` writes it (default: the model's own)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-body-mb", type=positive, default=16, help="maximum request body in MB (default: 16)"
    )
    limits.add_argument(
        "--max-inputs",
        type=positive,
        default=2048,
        help="maximum texts per request (default: 2048)",
    )
    limits.add_argument(
        "--max-queue", type=positive, default=512, help="maximum requests at once (default: 512)"
    )
    limits.add_argument(
        "--max-connections", type=positive, default=1024, help="maximum connections (default: 1024)"
    )
    limits.add_argument(
        "--client-seconds",
        type=float,
        default=60,
        metavar="S",
        help="seconds for a client to send its header, and again for its body (default: 60)",
    )
    add_model_arguments(parser, "mini", many=True, named_adapters=True)
    for option, advice in _COUNTERPARTS.items():
        parser.add_argument(
            option, action=_Counterpart, nargs="?", help=argparse.SUPPRESS, metavar=advice
        )
    parser.set_defaults(wrong=parser.error)


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("network")
    network.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    network.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 for any (default: 8000)"
    )
    network.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys that clients must send, one per line",
    )
    network.add_argument(
        "--no-key", action="store_true", help="serve everyone who reaches --host, without a key"
    )
    network.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that browsers may call from, such as https://app.example, or * for all "
        "(repeatable; default: none)",
    )
    network.add_argument("--log-level", default="info", choices=("info", "warning", "error"))
    network.add_argument(
        "--log-format",
        default="auto",
        choices=("auto", "json", "plain"),
        help="JSON objects, or plain lines (default: plain on a terminal)",
    )


class _Counterpart(argparse.Action):
    """An option of another server: names ours, which is its `metavar`, and stops."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"there is no {option_string}: {self.metavar}")


def run(namespace: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C; requests that were begun are finished first."""
    if namespace.host not in _LOCAL and namespace.api_key_file is None and not namespace.no_key:
        namespace.wrong(
            f"--host {namespace.host} can be reached from other machines: pass --api-key-file, "
            f"or --no-key to serve everyone"
        )
    if not namespace.client_seconds > 0:
        namespace.wrong(f"--client-seconds is {namespace.client_seconds}, expected more than 0")
    if namespace.idle_unload is not None and not namespace.idle_unload > 0:
        namespace.wrong(f"--idle-unload is {namespace.idle_unload}, expected more than 0")
    if not 0 <= namespace.port < 1 << 16:
        namespace.wrong(f"--port is {namespace.port}, expected 0..65535")
    try:
        from ..server.application import Application
        from ..server.foreign_ids import ForeignIds
        from ..server.keys import Keys
        from ..server.listening import listen
        from ..server.logs import log_to_stderr
        from ..server.settings import Settings
    except ModuleNotFoundError as error:
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
        idle_s=namespace.idle_unload,
        truncate=namespace.truncate,
        cors_origins=tuple(namespace.cors_origin),
    )
    foreign_ids = None if namespace.token_ids == "model" else ForeignIds(namespace.token_ids)
    try:
        keys = Keys(namespace.api_key_file) if namespace.api_key_file else None
    except OSError as error:
        raise OSError(f"--api-key-file {namespace.api_key_file}: {error.strerror}") from None
    as_json = namespace.log_format == "json"
    if namespace.log_format == "auto":
        as_json = not sys.stderr.isatty()
    log_to_stderr(namespace.log_level, as_json)
    with contextlib.ExitStack() as opened:
        registry = _open_models(namespace, opened)
        if all(model.device == "cpu" for _, model in registry.opened()):
            # The engine computes on every core: a pool of tokenizing threads would only wait for
            # them. Read by `tokenizers` at each call.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        application = Application(registry, keys, settings, foreign_ids)
        listen(application, namespace.host, namespace.port, namespace.api_key_file)
    return 0


def _open_models(namespace: argparse.Namespace, opened: contextlib.ExitStack) -> Registry:
    from ..embedder import Embedder
    from ..reranker import Reranker
    from ..server.registry import Registry, with_adapter

    registry = Registry(quantizer=_load_quantizer(namespace))
    own, named = _adapters(namespace)
    for name in namespace.model:
        settings = model_settings(namespace) | {"projection": namespace.projection}
        embedder = Embedder(name, adapter=own, cache=namespace.cache, **settings)
        opened.enter_context(embedder)
        served = _served_name(name, registry)
        registry.embedders[served] = embedder
        for short, location in named.items():
            embedder.add_adapter(short, location)
            registry.adapters[f"{served}:{short}"] = with_adapter(embedder, short)
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


def _adapters(namespace: argparse.Namespace) -> tuple[str | None, dict[str, str]]:
    """The adapter that is always in use, and those that requests name."""
    own, named = [], {}
    for given in namespace.adapter:
        short, found, location = given.partition("=")
        if not found or Path(given).is_dir():
            own.append(given)
        elif not short or short in named or ":" in short:
            raise ValueError(f"--adapter {given}: expected NAME=ADAPTER with a new name without :")
        else:
            named[short] = location
    if namespace.adapter and len(namespace.model) > 1:
        raise ValueError("--adapter needs a single --model: an adapter belongs to one base")
    if len(own) > 1:
        raise ValueError(
            f"--adapter {' --adapter '.join(own)}: expected one at most without a name: pass "
            f"NAME=ADAPTER to serve several"
        )
    return own[0] if own else None, named


def _load_quantizer(namespace: argparse.Namespace) -> Quantizer | None:
    """The quantizer of --quantizer, which has one scale."""
    from ..retrieval.quantizer import Quantizer

    if namespace.quantizer is None:
        return None
    quantizer = Quantizer.load(namespace.quantizer)
    if quantizer.kind != "scale":
        raise ValueError(
            f"--quantizer {namespace.quantizer}: found a range per dimension, expected one scale: "
            f"Quantizer.fit(vectors) makes it"
        )
    return quantizer


def _served_name(model: str, registry: Registry) -> str:
    """The last part of a folder or hub name."""
    name = Path(model).name or model
    if name in registry.names():
        raise ValueError(f"two models are called {name}: rename one's folder")
    return name
