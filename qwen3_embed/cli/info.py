"""`qwen3-embed info`: show what this build and this machine can do, and a model's settings."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING

from ..version import NUMERICS_VERSION, __version__
from .model_arguments import add_model_arguments, model_settings, open_model

if TYPE_CHECKING:
    from ..embedder import Embedder

__all__ = ["add_arguments", "run"]

_EPILOG = """example:
  qwen3-embed info --model mini"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="list the names that --prompt-name takes, with their instructions",
    )
    add_model_arguments(parser, None, takes_cache=False)
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Prints one `name: value` per line."""
    others = model_settings(namespace) | {"adapter": namespace.adapter}
    if namespace.model is None and any(
        value not in (None, "auto", False) for value in others.values()
    ):
        namespace.wrong("--device, --adapter and the like say how a model is opened: pass --model")
    lines = _instructions(namespace) if namespace.instructions else _facts(namespace)
    width = max(map(len, lines)) + 2
    for name, value in lines.items():
        print(f"{name + ':':{max(width, 18)}}{value}")
    return 0


def _instructions(namespace: argparse.Namespace) -> dict[str, str]:
    """The model's own prompts, if there is a model, and the instructions of every model."""
    from ..templates import INSTRUCTIONS

    own: dict[str, str] = {}
    if namespace.model is not None:
        with open_model(namespace, namespace.model) as model:
            own = {name: f"{prompt!r} (the model's own)" for name, prompt in model.prompts.items()}
    return {**INSTRUCTIONS, **own}


def _facts(namespace: argparse.Namespace) -> dict[str, str]:
    from .._core import instruction_sets

    lines = {
        "version": f"{__version__} (numerics {NUMERICS_VERSION})",
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "instruction sets": ", ".join(instruction_sets()) + " (the first is the default)",
        "cuda": _describe_gpus(),
    }
    if namespace.model is not None:
        with open_model(namespace, namespace.model) as model:
            info = model.info
            lines |= {
                "model": model.name,
                "revision": model.revision or "none (a folder)",
                "dim": str(model.dim),
                "max length": f"{model.max_length} tokens",
                "dtype": model.dtype,
                "device": model.device,
                "kernels": info["kernels"],
                "threads": f"{info['num_threads']} ({info['threads_from']})",
                "batch": f"{info['batch_tokens']} tokens",
                "weights mapped": f"{info['mapped_bytes'] / 1e6:.1f} MB",
                "weights owned": f"{info['owned_bytes'] / 1e6:.1f} MB",
                "adapter": _describe_adapter(model),
                "fingerprint": model.fingerprint,
            }
            if info["note"]:
                lines["note"] = info["note"]
    return lines


def _describe_adapter(model: Embedder) -> str:
    """The adapter's source, and how it is merged where that costs precision."""
    if model.adapter is None:
        return "none"
    adapter = model.adapters[model.adapter]
    return f"{adapter.source}{f' ({adapter.note})' if adapter.note else ''}"


def _describe_gpus() -> str:
    """The GPUs that `device="cuda"` would find, or one sentence on why it finds none."""
    from ..errors import DeviceError
    from ..loading.device import list_gpus

    try:
        gpus = list_gpus()
    except DeviceError as error:
        return str(error).removeprefix("device cuda: ")
    return "; ".join(
        f"{gpu.device} {gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        f"{'' if gpu.is_usable else ' (too old)'}, {gpu.memory_bytes / 1e9:.1f} GB"
        for gpu in gpus
    )
