"""The forward pass of Qwen3-Embedding in NumPy, written from the formulas.

The oracle of the tests: one text at a time, one plain loop over layers, every operation
a method, so that a mutant is a subclass with one method changed. With round_to="bf16"
it rounds where the engine does, and nowhere else; the places are marked `self.rounded`.
With round_to=None everything is fp32, as in Transformers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
BLOCK_KV = 64  # keys in a tile of the engine's attention, cut by position in the text


def round_bf16(x: Floats) -> Floats:
    """The nearest bf16 values, ties to even, as float32. Finite input."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def read_tensor(raw: bytes, dtype: str) -> Floats:
    """Stored bytes as float32."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "I8": "i1"}[dtype]).astype(np.float32)


def read_header(path: Path) -> dict[str, Any]:
    """Name -> dtype, shape and place after the header, of a safetensors file."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def read_weights(folder: Path | str) -> dict[str, Floats]:
    """All tensors of a model folder by bare name, as float32."""
    weights = {}
    for path in sorted(Path(folder).glob("model*.safetensors")):
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        for name, entry in read_header(path).items():
            first, last = (begin + offset for offset in entry["data_offsets"])
            values = read_tensor(data[first:last], entry["dtype"])
            weights[name.removeprefix("model.")] = values.reshape(entry["shape"])
    return weights


def rope_frequencies(config: dict[str, Any]) -> tuple[Floats, float]:
    """(HS/2) angles per position, and the factor of cos and sin; YaRN if configured."""
    theta, dim = config["rope_theta"], config["head_dim"]
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    wavelengths = (float(theta) ** exponents.astype(np.float64)).astype(np.float32)
    extrapolated = np.float32(1.0) / wavelengths  # rounded as torch rounds, to the last bit
    yarn = config.get("rope_scaling")
    if not yarn:
        return extrapolated, 1.0
    interpolated = extrapolated / np.float32(yarn["factor"])

    def dimension(rotations: float) -> float:
        """The dimension that turns so often over the original length."""
        length = yarn["original_max_position_embeddings"] / (rotations * 2.0 * math.pi)
        return dim * math.log(length) / (2.0 * math.log(theta))

    low = max(math.floor(dimension(yarn.get("beta_fast", 32))), 0)
    high = min(math.ceil(dimension(yarn.get("beta_slow", 1))), dim - 1)
    ramp = (np.arange(dim // 2, dtype=np.float32) - low) / (max(high - low, 0.001))
    mask = np.float32(1.0) - np.clip(ramp, 0.0, 1.0).astype(np.float32)
    frequencies = interpolated * (1.0 - mask) + extrapolated * mask
    return frequencies.astype(np.float32), 0.1 * math.log(yarn["factor"]) + 1.0


class Reference:
    """A model as (T, ...) arrays; T tokens of one text, C hidden, HS head size.

    Parameters
    ----------
    folder : a model folder.
    round_to : "bf16" to round where the engine does, None for fp32 throughout.
    """

    def __init__(self, folder: Path | str, round_to: str | None = None) -> None:
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.exact = round_to is None
        self.weights = {
            name: self.rounded(values) if values.ndim == 2 else values
            for name, values in read_weights(folder).items()
        }
        self.eps = np.float32(self.config["rms_norm_eps"])
        self.frequencies, self.rope_scale = rope_frequencies(self.config)
        self.score_scale = np.float32(self.config["head_dim"] ** -0.5)

    def rounded(self, x: Floats) -> Floats:
        return x if self.exact else round_bf16(x)

    def weight(self, layer: int, name: str) -> Floats:
        return self.weights[f"layers.{layer}.{name}.weight"]

    def linear(self, x: Floats, layer: int, name: str) -> Floats:
        """x (T, in) -> (T, out), without bias."""
        return x @ self.weight(layer, name).T

    def rms_norm(self, x: Floats, weight: Floats) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        normed: Floats = x / np.sqrt(mean_square + self.eps) * weight
        return normed

    def q_norm(self, q: Floats, weight: Floats) -> Floats:
        return self.rms_norm(q, weight)

    def k_norm(self, k: Floats, weight: Floats) -> Floats:
        return self.rms_norm(k, weight)

    def q_positions(self, n_tokens: int) -> Floats:
        return np.arange(n_tokens, dtype=np.float32)

    def k_positions(self, n_tokens: int) -> Floats:
        return np.arange(n_tokens, dtype=np.float32)

    def rope(self, x: Floats, positions: Floats) -> Floats:
        """x (T, heads, HS): the halves of a head are the pairs that turn."""
        angles = positions[:, None, None] * self.frequencies
        cos = np.cos(angles) * np.float32(self.rope_scale)
        sin = np.sin(angles) * np.float32(self.rope_scale)
        left, right = np.split(x, 2, axis=-1)
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    def kv_head(self, head: int) -> int:
        """The key and value head that a query head reads."""
        n_heads: int = self.config["num_attention_heads"]
        n_kv_heads: int = self.config["num_key_value_heads"]
        return head // (n_heads // n_kv_heads)

    def visible(self, queries: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> Any:
        """The causal mask: True where a query sees a key."""
        return keys <= queries

    def attend(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """One head: q, k, v (T, HS) -> (T, HS), by key tiles with a running maximum."""
        n_tokens = len(q)
        positions = np.arange(n_tokens)
        out = np.zeros_like(q)
        denominator = np.zeros((n_tokens, 1), np.float32)
        maximum = np.full((n_tokens, 1), -np.inf, np.float32)
        for begin in range(0, n_tokens, BLOCK_KV):
            tile = slice(begin, begin + BLOCK_KV)
            scores = (q @ k[tile].T) * self.score_scale
            seen = self.visible(positions[:, None], positions[None, tile])
            scores = np.where(seen, scores, np.float32(-np.inf))
            new_maximum = np.maximum(maximum, scores.max(axis=1, keepdims=True))
            p = self.rounded(np.exp(scores - new_maximum))
            shrink = np.exp(maximum - new_maximum)
            denominator = denominator * shrink + p.sum(axis=1, keepdims=True)
            out = out * shrink + p @ v[tile]
            maximum = new_maximum
        return out / denominator

    def attention(self, layer: int, x: Floats) -> Floats:
        """x (T, C) -> (T, NH * HS), before o_proj."""
        n_tokens, head_dim = len(x), self.config["head_dim"]
        q, k, v = (
            self.linear(x, layer, f"self_attn.{name}_proj").reshape(n_tokens, -1, head_dim)
            for name in "qkv"
        )
        q = self.q_norm(q, self.weight(layer, "self_attn.q_norm"))
        k = self.k_norm(k, self.weight(layer, "self_attn.k_norm"))
        q = self.rounded(self.rope(q, self.q_positions(n_tokens)))
        k = self.rounded(self.rope(k, self.k_positions(n_tokens)))
        v = self.rounded(v)
        heads = [
            self.attend(q[:, head], k[:, self.kv_head(head)], v[:, self.kv_head(head)])
            for head in range(self.config["num_attention_heads"])
        ]
        return self.rounded(np.concatenate(heads, axis=1))

    def swiglu(self, gate: Floats, up: Floats) -> Floats:
        swished: Floats = gate / (np.float32(1.0) + np.exp(-gate)) * up
        return swished

    def mlp(self, layer: int, x: Floats) -> Floats:
        gate = self.linear(x, layer, "mlp.gate_proj")
        up = self.linear(x, layer, "mlp.up_proj")
        return self.linear(self.rounded(self.swiglu(gate, up)), layer, "mlp.down_proj")

    def add(self, residual: Floats, update: Floats) -> Floats:
        """The residual stream, never rounded."""
        return residual + update

    def run_layer(self, layer: int, h: Floats) -> Floats:
        """h (T, C) fp32 -> (T, C) fp32."""
        x = self.rounded(self.rms_norm(h, self.weight(layer, "input_layernorm")))
        h = self.add(h, self.linear(self.attention(layer, x), layer, "self_attn.o_proj"))
        x = self.rounded(self.rms_norm(h, self.weight(layer, "post_attention_layernorm")))
        return h + self.mlp(layer, x)

    def pooled_row(self, h: Floats) -> Floats:
        """The row of h (T, C) that stands for the text: the last token's."""
        return h[-1]

    def final_norm(self, row: Floats) -> Floats:
        return self.rms_norm(row, self.weights["norm.weight"])

    def raw_row(self, tokens: npt.ArrayLike) -> Floats:
        """(C) the last token's row after the final norm, before L2."""
        h = self.weights["embed_tokens.weight"][np.asarray(tokens)]
        for layer in range(self.config["num_hidden_layers"]):
            h = self.run_layer(layer, h)
        return self.final_norm(self.pooled_row(h))

    def embed(self, tokens: npt.ArrayLike, dim: int | None = None) -> Floats:
        """(dim) cut first, then divided by its L2 norm."""
        row = self.raw_row(tokens)[:dim]
        unit: Floats = row / np.sqrt(np.sum(row * row, dtype=np.float32))
        return unit


class CudaReference(Reference):
    """Rounds to bf16 also what the products q, k, gate and up leave in memory, as CUDA does."""

    def q_norm(self, q: Floats, weight: Floats) -> Floats:
        return super().q_norm(self.rounded(q), weight)

    def k_norm(self, k: Floats, weight: Floats) -> Floats:
        return super().k_norm(self.rounded(k), weight)

    def swiglu(self, gate: Floats, up: Floats) -> Floats:
        return super().swiglu(self.rounded(gate), self.rounded(up))
