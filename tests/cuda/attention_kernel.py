"""The attention kernels alone, called through ctypes, and what they should give.

QE_ATTENTION_LIBRARY is their library:

    nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Icuda -Icsrc -shared \\
        -Xcompiler -fPIC tests/cuda/attention_entry.cu cuda/attention/attention.cu \\
        cuda/attention/attention_sm90.cu -o libattention.so
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

HS = 128
KEY_TILE = 128


@dataclass(frozen=True)
class Seq:
    """A text, or what follows a prefix: tokens of its own from `row` on."""

    n_tokens: int
    row: int
    prefix: Seq | None = None

    @property
    def n_prefix(self) -> int:
        return 0 if self.prefix is None else self.prefix.n_tokens

    @property
    def n_keys(self) -> int:
        return self.n_prefix + self.n_tokens


def pack(lengths: Sequence[int], gap: int = 0, n_prefix: int = 0) -> list[Seq]:
    """Texts one after another, gap rows between; all behind a first one if n_prefix."""
    prefix = Seq(n_prefix, 0) if n_prefix > 0 else None
    seqs = [] if prefix is None else [prefix]
    row = 0 if prefix is None else n_prefix + gap
    for n_tokens in lengths:
        seqs.append(Seq(n_tokens, row, prefix))
        row += n_tokens + gap
    return seqs


def random_qkv(seqs: Sequence[Seq], n_heads: int, n_kv_heads: int, gap: int = 0) -> torch.Tensor:
    """(T, n_heads + 2 n_kv_heads, HS) bf16; NaN between the texts."""
    shape = (seqs[-1].row + seqs[-1].n_tokens + gap, n_heads + 2 * n_kv_heads, HS)
    source = torch.Generator("cuda").manual_seed(0)
    qkv = torch.full(shape, torch.nan, device="cuda")
    for seq in seqs:
        own = qkv[seq.row : seq.row + seq.n_tokens]
        own.copy_(1.3 * torch.randn(own.shape, device="cuda", generator=source))
    return qkv.bfloat16()


def with_prefix(qkv: torch.Tensor, seq: Seq) -> torch.Tensor:
    """Rows of all positions of a text."""
    own = qkv[seq.row : seq.row + seq.n_tokens]
    return own if seq.prefix is None else torch.cat([with_prefix(qkv, seq.prefix), own])


def expected_output(qkv: torch.Tensor, seq: Seq, n_heads: int, n_kv_heads: int) -> torch.Tensor:
    """(n_tokens, n_heads, HS) by the definition, in fp32."""
    rows = with_prefix(qkv, seq).float()
    q = rows[seq.n_prefix :, :n_heads].transpose(0, 1)
    k, v = rows[:, n_heads:].split(n_kv_heads, dim=1)
    group = n_heads // n_kv_heads
    k, v = (x.transpose(0, 1).repeat_interleave(group, 0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / HS**0.5
    positions = torch.arange(seq.n_keys, device="cuda")
    unseen = positions[None] > positions[seq.n_prefix :, None]
    return (scores.masked_fill(unseen, -torch.inf).softmax(-1) @ v).transpose(0, 1)


class Attention:
    """Attention over qkv, in place: the kernels that the engine would launch, in its order."""

    def __init__(
        self,
        qkv: torch.Tensor,
        seqs: Sequence[Seq],
        n_heads: int,
        n_kv_heads: int,
        tall: bool | None = None,
    ) -> None:
        self.library = ctypes.CDLL(os.environ["QE_ATTENTION_LIBRARY"])
        self.library.open_attention.restype = ctypes.c_void_p
        self.qkv = qkv
        opened = self.library.open_attention(
            ctypes.c_void_p(qkv.data_ptr()), qkv.shape[0], n_heads, n_kv_heads, HS
        )
        if opened is None:
            raise RuntimeError("attention_open failed")
        self.attention = ctypes.c_void_p(opened)
        self.blocks = [self._cut(seqs, height, tall) for height in (True, False)]

    def _cut(self, seqs: Sequence[Seq], height: bool, tall: bool | None) -> torch.Tensor:
        """Blocks (n, 8) as struct attention_block has them, longest first."""
        tokens = self.library.block_tokens(self.attention, height)
        blocks = []
        for seq in seqs:
            own = tall
            if own is None:
                own = bool(self.library.is_tall(self.attention, seq.n_tokens, seq.n_keys))
            prefix_row = 0 if seq.prefix is None else seq.prefix.row
            for first in range(0, seq.n_tokens if own == height else 0, tokens):
                n = min(tokens, seq.n_tokens - first)
                at = (seq.row + first, seq.n_prefix + first, n, seq.n_prefix, prefix_row)
                blocks.append((*at, seq.row, seq.n_keys, 0))
        blocks.sort(key=lambda block: -((block[1] + block[2] - 1) // KEY_TILE))
        return torch.tensor(blocks, dtype=torch.int32).reshape(-1, 8).cuda()

    def __call__(self) -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        for tall, blocks in zip((True, False), self.blocks, strict=True):
            if len(blocks) > 0:
                at = ctypes.c_void_p(blocks.data_ptr())
                status = self.library.run_attention(self.attention, at, len(blocks), tall, stream)
                if status != 0:
                    raise RuntimeError(f"CUDA error {status}")

    def __del__(self) -> None:
        if hasattr(self, "attention"):
            self.library.close_attention(self.attention)
