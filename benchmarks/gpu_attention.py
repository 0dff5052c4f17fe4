"""Attention alone: the engine's kernels beside PyTorch's cuDNN backend, in one run.

    QE_ATTENTION_LIBRARY=... python -m benchmarks.gpu_attention [--csv]

Causal, bf16, head size 128, random data; medians of single launches by CUDA events. Rates
count unmasked work. cuDNN gets dense batches of equal lengths, which ours need not be.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_rivals import gpu_words
from benchmarks.record import record
from tests.cuda.attention_kernel import HS, Attention, pack, random_qkv

WORKLOADS = ((1024, 16), (512, 32), (256, 64), (132, 128), (33, 512), (8, 2048), (2, 8192))
WORKLOADS += ((1, 32768),)
HEADS = ((32, 8), (16, 8))


def median_ms(run: Callable[[], object], n_rounds: int = 15) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(n_rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def rival_ms(n_texts: int, n_tokens: int, n_heads: int, n_kv_heads: int) -> float:
    q, k, v = (
        torch.randn(n_texts, n, n_tokens, HS, device="cuda", dtype=torch.bfloat16)
        for n in (n_heads, n_kv_heads, n_kv_heads)
    )
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return median_ms(
            lambda: functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=True
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--csv", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    results = []
    for heads in HEADS:
        for n_texts, n_tokens in WORKLOADS:
            seqs = pack([n_tokens] * n_texts)
            ours = median_ms(Attention(random_qkv(seqs, *heads), seqs, *heads))
            rival = rival_ms(n_texts, n_tokens, *heads)
            flop = 2.0 * heads[0] * HS * n_texts * n_tokens * (n_tokens + 1)
            results.append(
                {
                    "n_heads": heads[0],
                    "n_kv_heads": heads[1],
                    "texts": n_texts,
                    "tokens": n_tokens,
                    "ours_us": round(ours * 1e3, 1),
                    "cudnn_us": round(rival * 1e3, 1),
                    "ours_tflop_per_s": round(flop / ours * 1e-9),
                    "ratio": round(rival / ours, 2),
                }
            )
    record("gpu_attention", arguments, results, machine=gpu_words())


if __name__ == "__main__":
    main()
