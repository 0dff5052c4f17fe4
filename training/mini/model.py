"""The student: exactly Qwen3, written out small, with the official tensor names.

The one idea: texts are padded on the right and attention is causal, so the last real token
never sees padding and no mask is needed; that keeps the fast attention kernels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Model shape; names as in config.json."""

    vocab_size: int = 16384
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 7
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 4096

    def as_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary."""
        return asdict(self)


class RMSNorm(nn.Module):
    """Root mean square norm over the last axis."""

    def __init__(self, n: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rope_table(shape: Shape, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each (n, head_dim) fp32, in the half-split layout."""
    half = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32)
    inverse = shape.rope_theta ** (-half / shape.head_dim)
    angle = torch.arange(n, device=device, dtype=torch.float32)[:, None] * inverse
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x (batch, heads, T, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention with q and k norms."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        q_width, kv_width = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, q_width, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(q_width, s.hidden_size, bias=False)
        self.q_norm = RMSNorm(s.head_dim, s.rms_norm_eps)
        self.k_norm = RMSNorm(s.head_dim, s.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, t, _ = x.shape
        shape = (n, t, -1, self.s.head_dim)
        q = self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.s.num_attention_heads // self.s.num_key_value_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(n, t, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.mlp = MLP(s)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Student(nn.Module):
    """Token ids -> pooled vectors (not normalised)."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.rope = rope_table(shape, shape.max_position_embeddings, device)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                with torch.no_grad():
                    weight.mul_((2 * shape.num_hidden_layers) ** -0.5)
        self.to(device)

    def forward(self, ids: Tensor, lengths: Tensor, drop_words: float = 0.0) -> Tensor:
        """Pool right-padded `ids` (batch, T) at each row's last of `lengths` (batch) tokens.

        `drop_words` is the part of the token vectors set to zero, never the last one.
        """
        x = self.embed_tokens(ids)
        last = lengths - 1
        if drop_words:
            kept = torch.rand(ids.shape, device=ids.device) >= drop_words
            kept |= torch.arange(ids.shape[1], device=ids.device) == last[:, None]
            x = x * kept[..., None]
        if x.is_cuda:
            x = x.bfloat16()
        cos, sin = (table[: ids.shape[1]].to(x.dtype) for table in self.rope)
        for layer in self.layers:
            x = layer(x, cos, sin)
        rows = torch.arange(len(ids), device=ids.device)
        return self.norm(x[rows, last].float())

    def compile_layers(self) -> None:
        """Fuse each block's small operations; the blocks share one compiled program."""
        for layer in self.layers:
            layer.compile(dynamic=True)
