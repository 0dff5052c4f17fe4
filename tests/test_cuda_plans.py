"""Launch sizes of the CUDA kernels as pure functions, for every GPU that releases are built for.

No GPU is needed: tests/c/cuda_plans.cpp compiles them with the host's compiler.
"""

from __future__ import annotations

import ctypes
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.cuda_plans import DTYPES, MODELS, N_LAYERS, config_of, load_plans

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
MAX_THREADS = 16 * 32  # __launch_bounds__ of gemm_stream_kernel
HEAD_BYTES = 512  # two barriers of 8 bytes for each of 32 stages


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_plans(tmp_path_factory.mktemp("plans"))


def products(model: str) -> list[tuple[int, int, bool]]:
    """(n, k, swiglu) of a layer's products."""
    hidden, intermediate, n_heads, n_kv_heads, head_dim = MODELS[model]
    q, kv = n_heads * head_dim, n_kv_heads * head_dim
    return [
        *((q + 2 * kv, hidden, False), (2 * kv, hidden, False), (q, hidden, False)),
        *((hidden, q, False), (2 * intermediate, hidden, True), (hidden, intermediate, False)),
    ]


@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("model", ["0.6B", "4B", "8B", "small"])
def test_stream_plan(library: Any, gpu: str, model: str, int8: bool) -> None:
    """It fits the device, covers every column once, and its ring is worth having."""
    n_multiprocessors, smem_bytes = GPUS[gpu]
    for m, (n, k, swiglu) in product((1, 16, 17, 32, 33, 64), products(model)):
        p = library.stream_plan(m, n, k, swiglu, int8, n_multiprocessors, smem_bytes)
        assert p.smem_bytes <= smem_bytes
        assert p.n_threads == (p.n_warps + 4) * 32 <= MAX_THREADS
        assert p.row_tiles * 16 >= m
        assert p.n_columns == (n // 2 if swiglu else n)
        # Blocks of threads share the columns to eight, a whole number per multiprocessor.
        units = p.n_columns // 8
        assert p.n_blocks * p.n_each + p.n_larger == units
        assert p.n_larger < p.n_blocks
        assert p.n_blocks == units or p.n_blocks % n_multiprocessors == 0
        warp_units = 1 if swiglu else p.n_panels
        assert (p.n_warps - 1) * warp_units < p.n_each + (p.n_larger > 0) <= p.n_warps * warp_units
        assert p.n_second == (n // 2 if swiglu else 8 * p.n_warps)
        # One stage is copied while another is multiplied; or all of k is in the ring.
        stage_blocks = (4 if m <= 32 else 2) if p.n_panels == 1 else (2 if int8 else 1)
        k_blocks = k // 64
        assert k_blocks % stage_blocks == 0
        assert 1 <= p.n_stages <= 32
        assert p.n_stages >= 2 or p.n_stages * stage_blocks == k_blocks
        assert p.n_stages * stage_blocks <= k_blocks
        # rows of 64 columns: of w in int8 or bf16, of x in bf16
        block_bytes = 8 * p.n_warps * p.n_panels * (64 if int8 else 128)
        block_bytes += 16 * p.row_tiles * 128
        assert p.smem_bytes == HEAD_BYTES + p.n_stages * stage_blocks * block_bytes


def test_which_products_leave_room_for_the_next(library: Any) -> None:
    """A multiprocessor of Hopper has 228 KB, of which a block of threads takes 1 KB more than it
    asks for. Those of the 0.6B model's query fit twice; of a larger model not one fits twice, or
    one multiprocessor would get two of the same kernel's."""
    for model in ("0.6B", "4B", "8B"):
        qkv, _, _, *others = products(model)
        for n, k, swiglu in (qkv, *others):
            p = library.stream_plan(16, n, k, swiglu, False, *GPUS["9.0 H200"])
            assert (2 * (p.smem_bytes + KB) <= 228 * KB) == (model == "0.6B"), (n, k)


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


# ---- int8 weights ----


def permuted(values: npt.NDArray[np.int8], library: Any) -> npt.NDArray[np.uint8]:
    """A matrix of int8 (n, k) in the order of device memory."""
    places = [library.place_in_group(k) for k in range(16)]
    assert sorted(places) == list(range(16))
    groups = values.reshape(len(values), -1, 16).view(np.uint8)
    stored = np.empty_like(groups)
    stored[:, :, places] = groups
    return stored.reshape(values.shape)


def test_words_are_the_operands_of_mma(library: Any) -> None:
    """Lane l of mma.m16n8k16 has of B, column l / 4, rows 2 (l % 4), the next, and both 8 further.

    PTX ISA, "Matrix Fragments for mma.m16n8k16"; ldmatrix gives lane l of an 8x16-byte matrix
    the four bytes from 4 (l % 4) on of row l / 4.
    """
    w = np.arange(8 * 64).reshape(8, 64).astype(np.int8)
    stored = permuted(w, library)
    for step in range(4):
        for lane in range(32):
            row, q = divmod(lane, 4)
            word = stored[row, step * 16 + q * 4 :][:4].view(np.int8)
            k = step * 16 + 2 * q
            assert word[[0, 2]].tolist() == w[row, k : k + 2].tolist()
            assert word[[1, 3]].tolist() == w[row, k + 8 : k + 10].tolist()


def test_the_ring_has_no_bank_conflicts(library: Any) -> None:
    """The eight 16-byte rows of a matrix that ldmatrix loads lie in different banks."""
    offsets = np.array([[library.offset_in_ring(r, g) for g in range(4)] for r in range(8)])
    assert sorted(offsets.ravel()) == list(range(0, 8 * 64, 16)), "every place once"
    for group in range(4):
        assert len(set(offsets[:, group] // 16 % 8)) == 8


def test_bytes_become_bf16_exactly() -> None:
    """The arithmetic of widen_int8 on bits, for every byte, against the value itself."""
    values = np.arange(-128, 128).astype(np.int8)
    bits = values.view(np.uint8).astype(np.uint32)
    shifted = ((bits & 0x7F) | 0x4300) << 16
    offset = ((bits & 0x80) | 0xC300) << 16
    total = shifted.view(np.float32) + offset.view(np.float32)
    np.testing.assert_array_equal(total, values.astype(np.float32))


# ---- memory ----


def matrix_elements(model: str) -> int:
    hidden, intermediate, n_heads, n_kv_heads, head_dim = MODELS[model]
    attention = hidden * head_dim * (2 * n_heads + 2 * n_kv_heads)
    return N_LAYERS[model] * (attention + 3 * hidden * intermediate)


@pytest.mark.parametrize("model", MODELS)
def test_weights_take_what_their_elements_do(library: Any, model: str) -> None:
    """And of vectors, scales and gaps between tensors at most 0.7 % or 20 KB per layer."""
    config = config_of(model, 2048)
    table = config.vocab_size * config.hidden_size * 2
    for dtype, code in DTYPES.items():
        per_weight = 2 if dtype == "bfloat16" else 1
        exact = matrix_elements(model) * per_weight
        on_device = library.memory(ctypes.byref(config), code, 0, 2048)
        on_host = library.memory(ctypes.byref(config), code, 1, 2048)
        slack = exact * 0.007 + 20_000 * (N_LAYERS[model] + 1)
        assert exact <= on_host.weights <= exact + slack
        assert on_device.weights - on_host.weights == -(-table // 256) * 256
        assert (on_device.host, on_host.host) == (0, table)
        assert on_device.activations == on_host.activations


def test_int8_adds_one_matrix_in_bf16(library: Any) -> None:
    for model in MODELS:
        config = config_of(model, 2048)
        needs = {
            dtype: library.memory(ctypes.byref(config), code, 0, 2048)
            for dtype, code in DTYPES.items()
        }
        hidden, intermediate = MODELS[model][:2]
        added = needs["int8-weights"].activations - needs["bfloat16"].activations
        largest = max(n * k for n, k, _ in products(model)) * 2
        assert added == largest >= 2 * hidden * intermediate * 2


# Of each: texts of 2,048 tokens in batches of as many, without what CUDA itself takes. The issue
# asks that the first fits into 12 GB, the second into 8 GB and the third into 16 GB.
FITTING = [
    ("8B", "int8-weights", False, 8.7),
    ("4B", "int8-weights", False, 4.8),
    ("8B", "bfloat16", True, 14.5),
    ("8B", "int8-weights", True, 7.5),
]


@pytest.mark.parametrize(("model", "dtype", "host", "most_gb"), FITTING)
def test_large_models_on_small_cards(
    library: Any, model: str, dtype: str, host: bool, most_gb: float
) -> None:
    config = config_of(model, 2048)
    need = library.memory(ctypes.byref(config), DTYPES[dtype], host, 2048)
    total_gb = (need.weights + need.activations) / 1e9
    assert 0.96 * most_gb < total_gb < most_gb


def test_shorter_batches_take_less(library: Any) -> None:
    config = config_of("4B", 2048)
    needs = [
        library.memory(ctypes.byref(config), DTYPES["int8-weights"], 0, n).activations
        for n in (16896, 8192, 2048, 512)
    ]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == 4
