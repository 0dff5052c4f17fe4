"""Opens the C engine on a model folder without the package's Python, for tests."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qwen3_embed import _core
from qwen3_embed.loading.device import CUDA_PATHS
from tests.support.c_build import ARM
from tests.support.engine_in_c import CoreInC, build_engine
from tests.support.reference import CudaReference, Floats, Reference, rope_frequencies

# Where the tests' engines compute: QE_TEST_DEVICE=cuda runs the same files on a GPU.
DEVICE = os.environ.get("QE_TEST_DEVICE", "cpu")
OPENED_ON = "cpu" if DEVICE == "cpu" else "cuda:0"  # by device="auto"
Rounding = Reference if DEVICE == "cpu" else CudaReference  # with round_to="bf16": as DEVICE does
cpu_only = pytest.mark.skipif(DEVICE != "cpu", reason="of the CPU engine")

# The engine under test: on another processor, a program that is emulated.
CORE: Any = CoreInC(build_engine()) if ARM else _core

TOLERANCE = 1.5  # of D: test_ops.py derives it

Tokens = Sequence[npt.NDArray[np.int32]]


def engine_config(folder: Path) -> dict[str, Any]:
    """The settings that `_core.Engine` takes, from config.json."""
    config = json.loads((folder / "config.json").read_text())
    frequencies, scale = rope_frequencies(config)
    return {
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "vocab_size": config["vocab_size"],
        "max_length": config["max_position_embeddings"],
        "rms_norm_eps": config["rms_norm_eps"],
        "rope_scale": scale,
        "rope_inv_freq": frequencies,
    }


def open_engine(
    folder: Path, isa: str | None = None, core: Any = CORE, **options: Any
) -> _core.Engine:
    """An engine on DEVICE; `isa` forces an instruction set of the CPU's, `core` is another
    build's."""
    paths = [str(path) for path in sorted(folder.glob("*.safetensors"))]
    if isa is None and DEVICE != "cpu":
        library, cublas_folder = CUDA_PATHS
        places = {"cuda_library": library, "cublas_folder": cublas_folder}
        options = {"device": DEVICE, **places, **options}
    before = os.environ.get("QWEN3_EMBED_ISA")
    if isa is not None:
        os.environ["QWEN3_EMBED_ISA"] = isa
    try:
        engine: _core.Engine = core.Engine(paths, engine_config(folder), **options)
    finally:
        if isa is not None:
            os.environ.pop("QWEN3_EMBED_ISA")
            if before is not None:
                os.environ["QWEN3_EMBED_ISA"] = before
    assert isa is None or engine.info["kernels"] == isa
    return engine


def embed(engine: _core.Engine, texts: Tokens, dim: int, *, normalize: bool = True) -> Floats:
    """(n, dim) rows of one call with all the texts."""
    cu_seqlens = np.zeros(len(texts) + 1, np.int32)
    np.cumsum([len(text) for text in texts], out=cu_seqlens[1:])
    rows = engine.rows(len(texts), dim)
    tokens = np.concatenate(texts).astype(np.int32)
    engine.submit(tokens, cu_seqlens, rows, 0, normalize).wait()
    return rows


def random_texts(lengths: Sequence[int], vocab_size: int = 320, seed: int = 3) -> Tokens:
    """Texts of random token ids, of the given lengths."""
    source = np.random.default_rng(seed)
    return [source.integers(0, vocab_size, n, dtype=np.int32) for n in lengths]


def reference_rows(folder: Path, texts: Tokens) -> tuple[list[Floats], float]:
    """The reference's raw rows with rounding, and D: their distance from those without."""
    rounding, exact = Reference(folder, "bf16"), Reference(folder)
    rows = [rounding.raw_row(text) for text in texts]
    return rows, rms(relative_errors(rows, [exact.raw_row(text) for text in texts]))


def relative_errors(rows: Sequence[Floats], expected: Sequence[Floats]) -> Floats:
    """(n) distance of each row from the expected one, over the expected one's norm."""
    return np.array(
        [
            np.linalg.norm(row - right) / np.linalg.norm(right)
            for row, right in zip(rows, expected, strict=True)
        ]
    )


def rms(errors: npt.ArrayLike) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
