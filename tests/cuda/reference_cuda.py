"""The CUDA engine opened for tests, and the rows that it should give."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import _core
from qwen3_embed.loading.device import CUDA_PATHS
from qwen3_embed.loading.user_cache import cache_folder
from tests.support.engines import DEVICE, engine_config, random_texts, relative_errors, rms
from tests.support.reference import CudaReference, Floats, Reference

needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="QE_TEST_DEVICE=cuda runs it, on a GPU")


def open_cuda(folder: Path, **options: Any) -> _core.Engine:
    """An engine on the GPU."""
    paths = [str(path) for path in sorted(folder.glob("*.safetensors"))]
    options = {"device": "cuda", "cache_folder": str(cache_folder("plans"))} | options
    library, cublas_folder = CUDA_PATHS
    return _core.Engine(
        paths,
        engine_config(folder),
        cuda_library=library,
        cublas_folder=cublas_folder,
        **options,
    )


@cache
def reference_rows(folder: Path, lengths: tuple[int, ...]) -> tuple[list[Floats], float]:
    """Raw rows of random texts with rounding, and their distance from the exact ones."""
    exact, rounding = Reference(folder), CudaReference(folder, "bf16")
    texts = random_texts(lengths)
    rows = [rounding.raw_row(text) for text in texts]
    errors = relative_errors(rows, [exact.raw_row(text) for text in texts])
    return rows, rms(errors)


def change_weights(folder: Path, name: str, factor: float, where: slice = slice(None)) -> None:
    """Multiplies elements of a tensor of the model's one file.

    bf16 keeps powers of two exact, and NaN.
    """
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    header_bytes = int.from_bytes(content[:8], "little")
    first, last = json.loads(content[8 : 8 + header_bytes])[name]["data_offsets"]
    begin, n = 8 + header_bytes + first, (last - first) // 2
    values = np.frombuffer(content, "<u2", n, begin).astype(np.uint32) << 16
    changed = values.view(np.float32)
    changed[where] *= np.float32(factor)
    changed[~np.isfinite(changed)] = np.nan
    content[begin : begin + 2 * n] = (changed.view(np.uint32) >> 16).astype("<u2").tobytes()
    path.write_bytes(content)
