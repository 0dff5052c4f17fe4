"""A model with outliers in every place that int8 equalises, and the loss of int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qwen3_embed.loading.tensors import TensorFiles
from tests.support.make_model import make_model
from tests.support.reference import Floats, round_bf16


def cosine_loss(rows: Any, expected: Any) -> Any:
    """1 - cos of each row with the expected one."""
    a, b = (np.asarray(x, np.float64) for x in (rows, expected))
    return 1 - (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def write_outliers(folder: Path, name: str, change: Any) -> None:
    """Changes one tensor of bf16, given as float32 and written back exactly."""
    tensor = next(t for t in TensorFiles([folder / "model.safetensors"]) if t.name == name)
    values = change(tensor.floats().copy())
    assert np.array_equal(round_bf16(values), values)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(tensor.offset)
        file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())


def scaled_columns(by: Floats) -> Any:
    return lambda values: values * by


def make_uneven(folder: Path) -> Path:
    """The same model as models("tiny128"), but for outliers in every place that has a pair."""
    make_model(folder, "tiny128")
    source = np.random.default_rng(0)
    for layer in range(3):
        name = f"layers.{layer}."

        def powers(n: int) -> Floats:
            exponents = np.where(source.random(n) < 0.05, source.integers(-7, 8, n), 0)
            return np.exp2(exponents).astype(np.float32)

        norm, post, value, inner = powers(192), powers(192), powers(256), powers(320)
        output = np.repeat(value.reshape(2, 1, 128), 4, axis=1).reshape(-1)
        for part, by in {
            "input_layernorm": norm,
            "self_attn.q_proj": 1 / norm,
            "self_attn.k_proj": 1 / norm,
            "self_attn.v_proj": value[:, None] / norm,
            "self_attn.o_proj": 1 / output,
            "post_attention_layernorm": post,
            "mlp.gate_proj": 1 / post,
            "mlp.up_proj": inner[:, None] / post,
            "mlp.down_proj": 1 / inner,
        }.items():
            write_outliers(folder, f"{name}{part}.weight", scaled_columns(by))
    return folder
