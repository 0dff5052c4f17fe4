"""Launch sizes of the CUDA kernels as pure functions, for every GPU that releases are built for.

No GPU is needed: tests/c/cuda_plans.cpp compiles them with the host's compiler.
"""

from __future__ import annotations

import ctypes
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
KB = 1024

# Compute capability -> (multiprocessors, shared memory per block in bytes); CUDA C++ Programming
# Guide, "Technical Specifications per Compute Capability", and NVIDIA's data sheets. On 8.6, 8.9
# and 12.0 a multiprocessor has 100 KB, of which a block may have 99.
GPUS = {
    "8.0 A100": (108, 163 * KB),
    "8.6 A10": (72, 99 * KB),
    "8.6 RTX 3050": (20, 99 * KB),
    "8.9 L4": (58, 99 * KB),
    "8.9 RTX 4090": (128, 99 * KB),
    "9.0 H200": (132, 227 * KB),
    "10.0 B200": (148, 227 * KB),
    "12.0 RTX 5090": (170, 99 * KB),
    "12.0 RTX 5050": (20, 99 * KB),
    "of 100 KB": (20, 100 * KB),
}
# hidden, intermediate, query and key heads, head size
MODELS = {
    "0.6B": (1024, 3072, 16, 8, 128),
    "4B": (2560, 9728, 32, 8, 128),
    "8B": (4096, 12288, 32, 8, 128),
    "small": (256, 768, 4, 2, 64),
    "least": (64, 64, 1, 1, 64),
}
MAX_THREADS = 16 * 32  # __launch_bounds__ of gemm_stream_kernel
HEAD_BYTES = 512  # two barriers of 8 bytes for each of 32 stages


class Plan(ctypes.Structure):
    """struct stream_plan."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            *("row_tiles", "rows_per_warp", "n_warps", "n_columns", "n_step", "n_second"),
            *("n_stages", "stage_blocks", "n_blocks", "n_threads", "smem_bytes"),
        )
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = tmp_path_factory.mktemp("plans") / "plans.so"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Icsrc", "-Icuda", "-shared", "-fPIC"]
    source = "tests/c/cuda_plans.cpp"
    subprocess.run(["g++", *flags, source, "-o", str(target)], cwd=ROOT, check=True)
    loaded = ctypes.CDLL(str(target))
    loaded.stream_plan.restype = Plan
    return loaded


def products(model: str) -> list[tuple[int, int, bool]]:
    """(n, k, swiglu) of a layer's products."""
    hidden, intermediate, n_heads, n_kv_heads, head_dim = MODELS[model]
    q, kv = n_heads * head_dim, n_kv_heads * head_dim
    return [
        *((q + 2 * kv, hidden, False), (2 * kv, hidden, False), (q, hidden, False)),
        *((hidden, q, False), (2 * intermediate, hidden, True), (hidden, intermediate, False)),
    ]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", MODELS)
def test_stream_plan(library: Any, gpu: str, model: str) -> None:
    """It fits the device, covers every column once, and its ring is worth having."""
    n_multiprocessors, smem_bytes = GPUS[gpu]
    for m, (n, k, swiglu) in product((1, 16, 17, 32, 33, 64), products(model)):
        p = library.stream_plan(m, n, k, swiglu, n_multiprocessors, smem_bytes)
        assert p.smem_bytes <= smem_bytes
        assert p.n_threads == (p.n_warps + 4) * 32 <= MAX_THREADS
        assert p.row_tiles * 16 >= m
        assert p.n_columns == (n // 2 if swiglu else n)
        assert (p.n_blocks - 1) * p.n_step < p.n_columns <= p.n_blocks * p.n_step
        assert p.n_step == 8 * p.n_warps * (1 if swiglu else p.rows_per_warp)
        assert p.n_second == (n // 2 if swiglu else 8 * p.n_warps)
        # One stage is copied while another is multiplied; or all of k is in the ring.
        k_blocks = k // 64
        assert 1 <= p.n_stages <= 32
        assert p.n_stages >= 3 or p.n_stages * p.stage_blocks >= k_blocks
        assert (p.n_stages - 1) * p.stage_blocks < k_blocks
        rows = 8 * p.n_warps * p.rows_per_warp + 16 * p.row_tiles
        assert p.smem_bytes == HEAD_BYTES + p.n_stages * p.stage_blocks * rows * 128


# (m, n, k, swiglu), GPU -> threads, blocks, stages, stage_blocks: what gemm_stream.cu computed at
# each launch before this was a function, and what was measured.
KNOWN = [
    ((16, 4096, 1024, False), "9.0 H200", (256, 128, 4, 4)),
    ((64, 24576, 4096, True), "9.0 H200", (512, 128, 7, 1)),
    ((64, 24576, 4096, True), "8.9 RTX 4090", (512, 128, 3, 1)),
    ((64, 6144, 1024, True), "12.0 RTX 5050", (512, 32, 3, 1)),
]


@pytest.mark.parametrize(("shape", "gpu", "expected"), KNOWN)
def test_known_stream_plans(
    library: Any, shape: tuple[int, int, int, bool], gpu: str, expected: tuple[int, ...]
) -> None:
    p = library.stream_plan(*shape, *GPUS[gpu])
    assert (p.n_threads, p.n_blocks, p.n_stages, p.stage_blocks) == expected


# The variants of gemm_rows.cu: rows of x and of w per block of threads, stages.
ROWS_VARIANTS = [
    *((16, 8, 8), (16, 16, 8), (16, 32, 6), (32, 16, 6)),
    *((32, 32, 5), (64, 32, 3), (64, 64, 2)),
]
# Those of attention.cu: head size, rows of queries.
ATTENTION_VARIANTS = [(64, 64), (64, 128), (96, 64), (96, 128), (128, 64), (128, 128), (256, 64)]


def test_other_kernels_fit_the_smallest_gpu(library: Any) -> None:
    """Their shared memory is the same on every GPU."""
    for block_m, block_n, n_stages in ROWS_VARIANTS:
        used = library.rows_smem(block_m, block_n, 128, n_stages)
        assert used == n_stages * (block_m + block_n) * (128 + 8) * 2 <= 99 * KB
    for head_dim, n_rows in ATTENTION_VARIANTS:
        used = library.attention_smem(head_dim, n_rows, 64)
        assert used == (n_rows + 2 * 64) * (head_dim + 8) * 2 <= 99 * KB
    assert library.attention_smem(256, 64, 64) == 99 * KB, "the largest: no byte is left"
