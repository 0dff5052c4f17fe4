"""`qwen3-embed info`: show what this build and this machine can do, and a model's settings."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING, Any

from ..version import NUMERICS_VERSION, __version__
from .columns import fitted
from .messages import with_options
from .model_arguments import add_model_arguments, model_settings, open_model

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..loading.device_memory import MemoryNeed

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  qwen3-embed info
  qwen3-embed info --model Qwen3-Embedding-0.6B
  qwen3-embed info --model Qwen3-Embedding-8B --device cuda
  qwen3-embed info --instructions

What the lines mean:
  numerics          raised when a release changes the last bits of vectors
  instruction sets  what this processor has; the fastest comes first
  cuda              the GPUs that can be used, or what is missing
  dim, max length   floats per vector; tokens of the longest text
  kernels, threads  the instruction set in use; CPU threads, and their limit
  batch             tokens computed at a time
  weights mapped    read where they lie in the file, shared by processes
  weights owned     copies in this process
  fingerprint       equal for models that give equal vectors on a device

On a GPU (--device cuda), or on each of several (--split layers), it also lists
the memory that the model needs in each dtype, and with its token embeddings in
host memory, at --max-length and --batch-tokens."""

_GPU_DTYPES = ("bfloat16", "float8", "int8-weights")


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
    width = max(18, *(len(name) + 2 for name in lines))
    for name, value in lines.items():
        line = f"{name + ':':{width}}{value}"
        print(fitted(line, width) if " " in value else line)  # a hash stays in one piece
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
    return lines if namespace.model is None else lines | _model_facts(namespace)


def _model_facts(namespace: argparse.Namespace) -> dict[str, str]:
    """The model's settings, or why it does not open; and on a GPU what memory it needs."""
    from ..errors import DeviceMemoryError

    try:
        with open_model(namespace, namespace.model) as model:
            lines = _settings_of(model)
            device = model.device if namespace.model_split else model.device.split(",")[0]
            config = model.config.for_engine(model.max_length)
    except DeviceMemoryError as error:
        from ..loading.device import resolve_device

        device = resolve_device(namespace.device, namespace.model_split)[0]
        on_cpu = {
            "device": "cpu",
            "model_split": None,
            "dtype": "auto",
            "embedding": "auto",
            "adapter": None,
        }
        with open_model(argparse.Namespace(**vars(namespace) | on_cpu), namespace.model) as model:
            lines = {"model": model.name, "does not open": str(error)}
            config = model.config.for_engine(model.max_length)
    if device.startswith("cuda"):
        lines |= _memory_needs(config, device, namespace.batch_tokens or 0)
    return lines


def _settings_of(model: Embedder) -> dict[str, str]:
    info = model.info
    lines = {
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
    return lines | ({"note": info["note"]} if info["note"] else {})


def _describe_adapter(model: Embedder) -> str:
    """The adapter's source, and how it is merged where that costs precision."""
    if model.adapter is None:
        return "none"
    adapter = model.adapters[model.adapter]
    return f"{adapter.source}{f' ({adapter.note})' if adapter.note else ''}"


def _memory_needs(config: dict[str, Any], device: str, batch_tokens: int) -> dict[str, str]:
    """The free memory of an engine's GPUs, and what the model needs of them in each dtype."""
    from ..loading.device import list_gpus
    from ..loading.device_memory import memory_needs

    names = device.split(",")
    needs = memory_needs(
        config, device, dtype="bfloat16", embedding="device", batch_tokens=batch_tokens
    )
    free = ", ".join(
        f"on {name} {_gb(need.free)} of {_gb(need.total)} free"
        for name, need in zip(names, needs, strict=True)
    )
    lines = {
        "memory": f"{free}; needed for texts of {config['max_length']} tokens in batches of "
        f"{needs[0].batch_tokens}:"
    }
    gpu = next(gpu for gpu in list_gpus() if gpu.device == names[0])
    for dtype in _GPU_DTYPES:
        if dtype == "float8" and gpu.capability[0] != 9:
            lines[f"needs in {dtype}"] = "not on this GPU, which needs compute capability 9.x"
        else:
            lines[f"needs in {dtype}"] = _need_in(dtype, config, device, batch_tokens)
    return lines


def _need_in(dtype: str, config: dict[str, Any], device: str, batch_tokens: int) -> str:
    """The memory for one dtype, and the options with which it fits."""
    from ..loading.device_memory import largest_fitting_length, memory_needs

    on_device, on_host = (
        memory_needs(config, device, dtype=dtype, embedding=place, batch_tokens=batch_tokens)
        for place in ("device", "host")
    )
    words = (
        f"{_per_gpu(on_device)}, with --embedding host {_per_gpu(on_host)} "
        f"(and {_gb(on_host[0].host)} of the host's): "
    )
    if all(need.fits for need in on_device):
        return words + "fits"
    if all(need.fits for need in on_host):
        return words + "fits with --embedding host"
    length = largest_fitting_length(config, device, dtype=dtype, embedding="host")
    if length is None:
        return words + "does not fit"
    return words + f"fits with --embedding host --max-length {length} --batch-tokens {length}"


def _per_gpu(needs: list[MemoryNeed]) -> str:
    """ "7.12 GB"; of a split model "7.12 GB (17 layers) + 7.00 GB (19 layers)"."""
    if len(needs) == 1:
        return _gb(needs[0].device_bytes)
    return " + ".join(f"{_gb(need.device_bytes)} ({need.n_layers} layers)" for need in needs)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


def _describe_gpus() -> str:
    """The GPUs that `device="cuda"` would find, or one sentence on why it finds none."""
    from ..errors import DeviceError
    from ..loading.device import list_gpus

    try:
        gpus = list_gpus()
    except DeviceError as error:
        return with_options(str(error).removeprefix("device cuda: "))
    return "; ".join(
        f"{gpu.device} {gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        f"{'' if gpu.is_usable else ' (too old)'}, {gpu.memory_bytes / 1e9:.1f} GB"
        for gpu in gpus
    )
