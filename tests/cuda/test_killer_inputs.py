"""Inputs and surroundings that have broken other engines."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qwen3_embed import DeviceMemoryError, Embedder, NonFiniteError
from qwen3_embed.loading.device import list_gpus
from tests.conftest import ModelMaker
from tests.cuda.reference_cuda import CudaReference, change_weights, needs_gpu, open_cuda
from tests.support.engines import embed, random_texts, relative_errors, rms
from tests.support.make_adapter import make_adapter
from tests.support.make_model import make_model
from tests.support.reference import Floats, Reference

pytestmark = needs_gpu


class LargestResidual(Reference):
    """Notes how far the residual stream goes."""

    largest = 0.0

    def final_norm(self, row: Floats) -> Floats:
        self.largest = max(self.largest, float(np.abs(row).max()))
        return super().final_norm(row)


BEGINNINGS = ["import", "importance of life", 'import { useState } from "react"']

# Takes all but `spare` bytes of GPU 0, says so, and holds them until its input ends.
HOLD_MEMORY = """
import ctypes, sys
driver = ctypes.CDLL("libcuda.so.1")
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
assert driver.cuInit(0) == 0
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxSetCurrent(context) == 0
assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
size = ctypes.c_size_t(free.value - int(sys.argv[1]))
assert driver.cuMemAlloc_v2(ctypes.byref(memory), size) == 0
print("held", flush=True)
sys.stdin.read()
"""


def test_activations_past_fp16(tmp_path: Path) -> None:
    """The 8B's residual passes 65,504 on these texts; here every text's does."""
    folder = make_model(tmp_path / "large", "tiny128")
    change_weights(folder, "layers.0.mlp.down_proj.weight", 2.0**22)
    exact, rounding = LargestResidual(folder), CudaReference(folder, "bf16")
    with Embedder(folder, device="cuda") as model:
        texts = [model.tokenizer.encode([text]).tokens for text in BEGINNINGS]
        rows = model.encode(BEGINNINGS, normalize=False)
    expected = [rounding.raw_row(text) for text in texts]
    noise = rms(relative_errors(expected, [exact.raw_row(text) for text in texts]))
    # As in test_cuda_forward.py: roundings differ in order, not in number.
    assert relative_errors(rows, expected).max() < 4.0 * noise
    assert exact.largest > 65504


@pytest.mark.parametrize("length", [1, 7, 64])
def test_equal_lengths(models: ModelMaker, length: int) -> None:
    engine = open_cuda(models("tiny64"))
    texts = random_texts([length] * 777)
    rows = embed(engine, texts, 64)
    for i in range(0, 777, 97):
        np.testing.assert_array_equal(embed(engine, [texts[i]], 64), rows[i : i + 1])


def test_the_vocabularys_end(models: ModelMaker) -> None:
    engine = open_cuda(models("tiny64"))
    cu_seqlens = np.array([0, 2], np.int32)
    last = np.array([318, 319], np.int32)
    assert np.isfinite(embed(engine, [last], 64)).all()
    for token in (320, 2**31 - 1, -1):
        tokens = np.array([319, token], np.int32)
        with pytest.raises(ValueError, match=rf"texts\[0\]: token id {token}, expected 0 to 319"):
            engine.submit(tokens, cu_seqlens, engine.rows(1, 64), 0, True)


def test_nan_weights(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "nan", "tiny64")
    change_weights(folder, "layers.1.mlp.up_proj.weight", np.nan)
    with Embedder(folder, device="cuda") as model:
        for _ in range(2):
            with pytest.raises(NonFiniteError) as failure:
                model.encode(["one", "two"])
            assert failure.value.index == 0


def test_memory_taken_by_another_process(models: ModelMaker, tmp_path: Path) -> None:
    """Too little left: both figures. Open already: it goes on, since it asks for no more."""
    folder = models("tiny64")
    adapter = make_adapter(tmp_path / "a", folder)
    with Embedder(folder, device="cuda") as model:
        expected = model.encode(BEGINNINGS)
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD_MEMORY, str(64 << 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(DeviceMemoryError, match=r"GB needed.*GB free"):
                Embedder(folder, device="cuda")
            with pytest.raises(DeviceMemoryError, match=r"GB needed for the adapter.*GB free"):
                model.add_adapter("a", adapter)
            np.testing.assert_array_equal(model.encode(BEGINNINGS), expected)
        finally:
            holder.communicate()
        model.add_adapter("a", adapter)
        with Embedder(folder, device="cuda") as other:
            np.testing.assert_array_equal(other.encode(BEGINNINGS), expected)


def test_sixteen_threads_on_one_engine(models: ModelMaker) -> None:
    with Embedder(models("tiny128"), device="cuda") as model:
        texts = [f"{beginning} {i}" for i in range(20) for beginning in BEGINNINGS]
        expected = model.encode(texts)

        def call(i: int) -> None:
            mine = [(i + k * 7) % len(texts) for k in range(1 + i % 5)]
            np.testing.assert_array_equal(model.encode([texts[j] for j in mine]), expected[mine])

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(call, range(320)))


def test_every_gpu(models: ModelMaker) -> None:
    """All GPUs of this machine share a call; their bits are those of one."""
    texts = [f"{beginning} {i}" for i in range(2000) for beginning in BEGINNINGS]
    with Embedder(models("tiny64"), device="cuda") as model:
        expected = model.encode(texts)
    with Embedder(models("tiny64"), device="cuda:all") as model:
        assert model.device.count("cuda:") == len(list_gpus())
        np.testing.assert_array_equal(model.encode(texts), expected)
