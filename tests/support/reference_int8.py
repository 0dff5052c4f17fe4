"""The scheme "int8" in NumPy: int8 weights, int8 activations in groups of 128 (W8A8).

Each row of a weight matrix has one scale, each group of 128 consecutive activations of a
token another; both are symmetric. Products of a group are summed as integers; the groups'
sums are accumulated in fp32, in order. The oracle of the CPU's int8 kernels, which give
these bits exactly, and of the accuracy that the scheme may cost.

And the scheme "int8-weights": int8 weights, activations in bf16 (W8A16), as on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.reference import CudaReference, Floats, Reference, read_weights, round_bf16

Int8s = npt.NDArray[np.int8]
GROUP = 128  # activations that share a scale
BLOCK = 32  # weights of Q8_0 that do
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LAYER_PARTS = ("input_layernorm", *QKV, "self_attn.o_proj", "post_attention_layernorm", *MLP)
# Mean squares: of an average over about four values, and of silu of a unit normal.
ATTENTION_SHARE, SILU_SHARE = 0.25, 0.36
SMALLEST = np.float32(2.0**-100)  # groups and rows below it are zeros


def rows_of_int8(weight: Floats) -> tuple[Int8s, Floats]:
    """weight (n, k) -> int8 (n, k), scales (n): each row's largest magnitude is 127."""
    largest = np.abs(weight).max(axis=1)
    return _rounded(weight, largest), _scales(largest)


def groups_of_int8(x: Floats) -> tuple[Int8s, Floats]:
    """x (T, k) -> int8 (T, k), scales (T, groups); the last group may be shorter."""
    n_rows, k = x.shape
    n_groups = -(-k // GROUP)
    padded = np.zeros((n_rows, n_groups, GROUP), np.float32)
    padded.reshape(n_rows, -1)[:, :k] = x
    largest = np.abs(padded).max(axis=2)
    return _rounded(padded, largest).reshape(n_rows, -1)[:, :k], _scales(largest)


def _scales(largest: Floats) -> Floats:
    return np.where(largest < SMALLEST, np.float32(0), largest / np.float32(127))


def _rounded(values: Floats, largest: Floats) -> Int8s:
    """To nearest, ties to even."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(largest < SMALLEST, np.float32(0), np.float32(127) / largest)
    return np.rint(values * inverse[..., None]).astype(np.int8)


def multiply_int8(x: Int8s, x_scales: Floats, w: Int8s, w_scales: Floats) -> Floats:
    """x (T, k) times the transpose of w (n, k), with their scales -> (T, n).

    A group's sum is below 2^24, so float32 products of integers are exact in any order. The
    chain over groups is one fused multiply-add each: exact in float64, then rounded once.
    """
    y = np.zeros((len(x), len(w)), np.float32)
    for g in range(x_scales.shape[1]):
        group = slice(g * GROUP, (g + 1) * GROUP)
        sums = x[:, group].astype(np.float32) @ w[:, group].astype(np.float32).T
        y = (sums.astype(np.float64) * x_scales[:, g, None] + y).astype(np.float32)
    return y * w_scales


def multiply_q8_0(x: Int8s, x_scales: Floats, w: Int8s, w_scales: Floats) -> Floats:
    """x (T, k) times the transpose of w (n, k), whose blocks of 32 have scales (n, k / 32).

    A chain over the blocks of a group, from 0, then one over groups; see `multiply_int8`.
    """
    y = np.zeros((len(x), len(w)), np.float32)
    for g in range(x_scales.shape[1]):
        part = np.zeros_like(y)
        for b in range(g * GROUP // BLOCK, min((g + 1) * GROUP // BLOCK, w_scales.shape[1])):
            block = slice(b * BLOCK, (b + 1) * BLOCK)
            sums = x[:, block].astype(np.float64) @ w[:, block].astype(np.float64).T
            part = (sums * w_scales[:, b] + part).astype(np.float32)
        y = (part.astype(np.float64) * x_scales[:, g, None] + y).astype(np.float32)
    return y


def equalised(weights: dict[str, Floats], config: dict[str, Any]) -> dict[str, Floats]:
    """The same model, its channels scaled by powers of two so that int8 loses less.

    SmoothQuant (arXiv 2211.10438) with alpha 1/2: a channel of activations is divided, and the
    columns that read it are multiplied, by the root of the activations' size over the columns'
    size. Powers of two change no bit of the fp32 result. Channels within a factor of two of the
    median are left alone.

    Sizes are root mean squares. Those of activations follow from the weights alone: mean squares
    are propagated through the layers as if channels were independent.
    """
    w = dict(weights)
    kv_heads, head_dim = config["num_key_value_heads"], config["head_dim"]
    group = config["num_attention_heads"] // kv_heads

    def per_head(values: Any) -> Any:
        """(NKV * HS) -> (NH * HS): what each query head reads."""
        return values.reshape(kv_heads, 1, head_dim).repeat(group, axis=1).reshape(-1)

    embeddings = w["embed_tokens.weight"]
    step = -(-len(embeddings) // 4096)
    stream = np.sum(embeddings[::step].astype(np.float64) ** 2, axis=0) / 4096
    for layer in range(config["num_hidden_layers"]):
        squares = {
            part: w[f"layers.{layer}.{part}.weight"].astype(np.float64) ** 2 for part in LAYER_PARTS
        }

        def columns(*parts: str, squares: dict[str, Any] = squares) -> Any:
            return sum(squares[part].sum(axis=0) for part in parts)

        x = stream / stream.mean() * squares["input_layernorm"]
        attention_input = channel_scales(x, columns(*QKV))
        v = squares["self_attn.v_proj"] @ x
        read = columns("self_attn.o_proj").reshape(kv_heads, group, head_dim).sum(axis=1)
        value = channel_scales(v, read.reshape(-1))
        stream = stream + squares["self_attn.o_proj"] @ per_head(v * ATTENTION_SHARE)

        x = stream / stream.mean() * squares["post_attention_layernorm"]
        mlp_input = channel_scales(x, columns("mlp.gate_proj", "mlp.up_proj"))
        act = (squares["mlp.gate_proj"] @ x) * (squares["mlp.up_proj"] @ x) * SILU_SHARE
        activation = channel_scales(act, columns("mlp.down_proj"))
        stream = stream + squares["mlp.down_proj"] @ act

        divide = {
            "input_layernorm": attention_input,
            "self_attn.v_proj": value[:, None],
            "post_attention_layernorm": mlp_input,
            "mlp.up_proj": activation[:, None],
        }
        multiply = dict.fromkeys(QKV, attention_input) | {
            "self_attn.o_proj": per_head(value),
            "mlp.gate_proj": mlp_input,
            "mlp.up_proj": mlp_input,
            "mlp.down_proj": activation,
        }
        for part in LAYER_PARTS:
            name = f"layers.{layer}.{part}.weight"
            w[name] = w[name] / divide.get(part, np.float32(1)) * multiply.get(part, np.float32(1))
    return w


def channel_scales(activations: Any, columns: Any) -> Floats:
    """Powers of two near the fourth root of each quotient of mean squares over the median's."""
    usable = (activations > 2.0**-200) & (activations < 2.0**200)
    usable &= (columns > 2.0**-200) & (columns < 2.0**200)
    quotient = np.where(usable, activations / np.where(usable, columns, 1.0), 0.0)
    median = np.sort(quotient)[len(quotient) // 2]
    if median == 0.0:
        return np.ones(len(quotient), np.float32)
    exponent = np.frexp(quotient / median)[1] - 1  # the quotient is in [2^exponent, 2^(exponent+1))
    near = ((exponent >= -4) & (exponent < 4)) | (quotient == 0.0)
    fourth = np.clip((exponent + 2) // 4, -20, 20)
    return np.where(near, 1.0, np.exp2(fourth)).astype(np.float32)


class Int8Reference(Reference):
    """The forward pass in the scheme "int8", with activations rounded to bf16 before.

    Parameters
    ----------
    folder : a model folder; weights in int8 are used as they are, with their weight_scale.
    equalise : whether to equalise the weights first.
    """

    def __init__(self, folder: Path | str, *, equalise: bool = True) -> None:
        super().__init__(folder, "bf16")
        stored = read_weights(folder)
        if any(name.endswith("_scale") for name in stored):
            self.matrices = {
                name.removesuffix("_scale"): (
                    stored[name.removesuffix("_scale")].astype(np.int8),
                    scales.reshape(-1),
                )
                for name, scales in stored.items()
                if name.endswith("_scale")
            }
            return
        if equalise:
            self.weights = equalised(self.weights, self.config)
        self.matrices = {
            name: rows_of_int8(values)
            for name, values in self.weights.items()
            if values.ndim == 2 and name.startswith("layers.")
        }

    def linear(self, x: Floats, layer: int, name: str) -> Floats:
        return multiply_int8(*groups_of_int8(x), *self.matrices[f"layers.{layer}.{name}.weight"])


class Q8Reference(Reference):
    """The forward pass over a GGUF file's blocks of Q8_0, each (n, k) int8 with (n, k / 32) scales.

    Parameters
    ----------
    folder : the model folder that the file was made of, for its config.
    blocks : matrices and the embedding by the names of `folder`.
    """

    def __init__(self, folder: Path | str, blocks: dict[str, tuple[Int8s, Floats]]) -> None:
        super().__init__(folder, "bf16")
        self.blocks = blocks
        values, scales = blocks["embed_tokens.weight"]
        self.weights["embed_tokens.weight"] = values * scales.repeat(BLOCK, axis=1)

    def linear(self, x: Floats, layer: int, name: str) -> Floats:
        return multiply_q8_0(*groups_of_int8(x), *self.blocks[f"layers.{layer}.{name}.weight"])


def rounded_to_int8(w: Floats) -> tuple[Floats, Floats]:
    """The bf16 matrix (n, k) of the scheme "int8-weights", and the scales (n, 1) of its rows.

    A row's scale is its largest magnitude over 127, rounded to bf16, and its products read the
    nearest multiple of the scale, rounded to bf16.
    """
    scales = round_bf16(np.abs(w).max(axis=1, keepdims=True) / np.float32(127))
    scales = np.maximum(scales, np.float32(2.0**-133))  # bf16's least: rows of zeros have one
    values = np.clip(np.rint(w / scales), -127, 127)
    return round_bf16(values * scales), scales


class Int8WeightsReference(CudaReference):
    """The forward pass in the scheme "int8-weights": bf16's, over weights that are rounded.

    Parameters
    ----------
    folder : a model folder.
    round_to : "bf16" or None, of activations, as of Reference.
    """

    def __init__(self, folder: Path | str, round_to: str | None = "bf16") -> None:
        super().__init__(folder, round_to)
        self.weights = {
            name: rounded_to_int8(values)[0]
            if values.ndim == 2 and name.startswith("layers.")
            else values
            for name, values in equalised(self.weights, self.config).items()
        }
