"""The pure functions of cuda/, compiled by the host's compiler and called through ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["DTYPES", "MODELS", "N_LAYERS", "Memory", "config_of", "load_plans"]

ROOT = Path(__file__).resolve().parents[2]

# hidden, intermediate, query and key heads, head size
MODELS = {
    "0.6B": (1024, 3072, 16, 8, 128),
    "4B": (2560, 9728, 32, 8, 128),
    "8B": (4096, 12288, 32, 8, 128),
    "small": (256, 768, 4, 2, 64),
    "least": (64, 64, 1, 1, 64),
}


class Plan(ctypes.Structure):
    """struct stream_plan."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            *("row_tiles", "n_panels", "n_warps", "n_columns", "n_each", "n_larger"),
            *("n_second", "n_stages", "n_blocks", "n_threads", "smem_bytes"),
        )
    ]


class Config(ctypes.Structure):
    """struct qe_config."""

    _fields_ = [
        *(
            (name, ctypes.c_int)
            for name in (
                *("hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads"),
                *("head_dim", "vocab_size", "max_length"),
            )
        ),
        ("rms_norm_eps", ctypes.c_float),
        ("rope_scale", ctypes.c_float),
        ("rope_inv_freq", ctypes.c_void_p),
    ]


class Memory(ctypes.Structure):
    """struct qe_cuda_memory."""

    _fields_ = [
        *(
            (name, ctypes.c_size_t)
            for name in ("weights", "activations", "spare", "host", "free", "total")
        ),
        ("batch_tokens", ctypes.c_int),
        ("n_layers", ctypes.c_int),
    ]


DTYPES = {"bfloat16": 0, "float8": 1, "int8-weights": 3}  # enum qe_compute_dtype
N_LAYERS = {"0.6B": 28, "4B": 36, "8B": 36, "small": 6, "least": 1}


def config_of(model: str, max_length: int) -> Config:
    hidden, intermediate, n_heads, n_kv_heads, head_dim = MODELS[model]
    vocab = 151669 if model.endswith("B") else 320
    return Config(
        *(hidden, intermediate, N_LAYERS[model], n_heads, n_kv_heads, head_dim, vocab),
        *(max_length, 1e-6, 1.0, None),
    )


def load_plans(folder: Path) -> Any:
    """tests/c/cuda_plans.cpp, compiled into a folder."""
    target = folder / "plans.so"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Icsrc", "-Icuda", "-shared", "-fPIC"]
    source = "tests/c/cuda_plans.cpp"
    subprocess.run(["g++", *flags, source, "-o", str(target)], cwd=ROOT, check=True)
    loaded = ctypes.CDLL(str(target))
    loaded.stream_plan.restype = Plan
    loaded.memory.restype = Memory
    return loaded
