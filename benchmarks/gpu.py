"""The CUDA engine against Transformers on one GPU, in one run: parity, speed, latency.

    python benchmarks/gpu.py --shape 0.6B --profile

Random weights at the official shapes and random token ids. Tokens per second are whole
calls, from ids in NumPy to vectors in NumPy; Transformers' are forward passes alone, on
ids that are on the GPU already, at the batch size given. Both by their best round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cuda")]

from engines import embed  # noqa: E402
from reference_cuda import open_cuda  # noqa: E402

Texts = Sequence[npt.NDArray[np.int32]]

# texts, tokens each, and texts in one batch of Transformers
WORKLOADS = ((132, 512, 33), (528, 128, 132), (8, 8192, 2), (2, 32768, 1))


class Transformers:
    """A Qwen3 model on the GPU as Transformers runs it, pooled at the last token."""

    def __init__(self, folder: Path, dtype: str) -> None:
        transformers.logging.disable_progress_bar()
        self.model = (
            transformers.AutoModel.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
            )
            .cuda()
            .eval()
        )

    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            rows = self.model(ids, use_cache=False).last_hidden_state[:, -1].float()
            return torch.nn.functional.normalize(rows, dim=-1)

    def encode_each(self, texts: Texts) -> npt.NDArray[np.float64]:
        rows = [self.encode(torch.from_numpy(t.astype(np.int64))[None].cuda()) for t in texts]
        return torch.cat(rows).double().cpu().numpy()


def random_texts(folder: Path, lengths: Sequence[int], seed: int = 0) -> Texts:
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    source = np.random.default_rng(seed)
    return [source.integers(0, vocab_size, n, dtype=np.int32) for n in lengths]


def best_seconds(run: Callable[[], Any], n_rounds: int) -> float:
    run()
    times = []
    for _ in range(n_rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def parity(engine: Any, folder: Path) -> None:
    """Mean of 1 - cos to Transformers fp32, and Transformers bf16's own."""
    lengths = [1, 2, 3, 5, 8, 12, 17, 24, 33, 48, 64, 65, 100, 128, 200, 300, 511, 700, 1000]
    lengths = lengths * 3 + [1500, 2000, 2500, 3000, 4096, 6000, 8000]
    texts = random_texts(folder, lengths)
    hidden_size = engine_hidden(folder)
    ours = embed(engine, texts, hidden_size).astype(np.float64)
    alone = np.concatenate([embed(engine, [text], hidden_size) for text in texts])
    rows = {}
    for dtype in ("float32", "bfloat16"):
        rival = Transformers(folder, dtype)
        rows[dtype] = rival.encode_each(texts)
        del rival
        torch.cuda.empty_cache()
    mine = ((ours - rows["float32"]) ** 2).sum(1) / 2
    theirs = ((rows["bfloat16"] - rows["float32"]) ** 2).sum(1) / 2
    print(
        f"parity: {len(texts)} texts, mean 1 - cos {mine.mean():.2e} (worst {mine.max():.2e}), "
        f"Transformers bf16 {theirs.mean():.2e} ({theirs.max():.2e}), "
        f"ratio {mine.mean() / theirs.mean():.3f}; alone and in a batch the same bits: "
        f"{np.array_equal(alone, ours.astype(np.float32))}",
        flush=True,
    )


def engine_hidden(folder: Path) -> int:
    hidden_size: int = json.loads((folder / "config.json").read_text())["hidden_size"]
    return hidden_size


def throughput(engine: Any, rival: Transformers | None, folder: Path, n_rounds: int) -> None:
    hidden_size = engine_hidden(folder)
    for n_texts, n_tokens, n_batch in WORKLOADS:
        texts = random_texts(folder, [n_tokens] * n_texts)
        ours = best_seconds(lambda texts=texts: embed(engine, texts, hidden_size), n_rounds)
        line = f"{n_texts} x {n_tokens}: ours {n_texts * n_tokens / ours / 1e3:.1f}k tokens/s"
        if rival is not None:
            batch = torch.from_numpy(np.stack(texts[:n_batch]).astype(np.int64)).cuda()
            theirs = best_seconds(lambda batch=batch: rival.encode(batch), n_rounds)
            rate = n_batch * n_tokens / theirs
            line += f", Transformers {rate / 1e3:.1f}k, {n_texts * n_tokens / ours / rate:.2f}x"
        print(line, flush=True)
    source = np.random.default_rng(1)
    lengths = np.clip(source.lognormal(4.4, 1.0, 2000), 1, 2000).astype(int).tolist()
    texts = random_texts(folder, lengths)
    ours = best_seconds(lambda: embed(engine, texts, hidden_size), n_rounds)
    print(
        f"mixed, {np.mean(lengths):.0f} tokens on average: ours "
        f"{sum(lengths) / ours / 1e3:.1f}k tokens/s",
        flush=True,
    )


def prefixes(engine: Any, folder: Path, n_rounds: int) -> None:
    """10,000 queries of 10 tokens, after one instruction of 20 or each after its own."""
    hidden_size = engine_hidden(folder)
    own = random_texts(folder, [30] * 10000)
    shared = [np.concatenate([own[0][:20], text[20:]]) for text in own]
    own_s = best_seconds(lambda: embed(engine, own, hidden_size), n_rounds)
    shared_s = best_seconds(lambda: embed(engine, shared, hidden_size), n_rounds)
    print(
        f"10,000 x (20 + 10): own instructions {own_s * 1e3:.0f} ms, a shared one "
        f"{shared_s * 1e3:.0f} ms, {own_s / shared_s:.2f}x",
        flush=True,
    )


def latency(engine: Any, rival: Transformers | None, folder: Path) -> None:
    hidden_size = engine_hidden(folder)
    for n_tokens in (16, 64, 256):
        texts = random_texts(folder, [n_tokens] * 50)
        for text in texts[:10]:
            embed(engine, [text], hidden_size)
        times = []
        for text in texts * 4:
            begin = time.perf_counter()
            embed(engine, [text], hidden_size)
            times.append(time.perf_counter() - begin)
        line = f"one text of {n_tokens} tokens: ours {statistics.median(times) * 1e3:.3f} ms"
        if rival is not None:
            ids = torch.from_numpy(texts[0].astype(np.int64))[None].cuda()
            theirs = best_seconds(lambda ids=ids: rival.encode(ids), 20)
            line += f", Transformers' forward {theirs * 1e3:.1f} ms"
        print(line, flush=True)


def profile(engine: Any, folder: Path, lengths: Sequence[int]) -> None:
    """Device time by kernel of one call."""
    hidden_size = engine_hidden(folder)
    texts = random_texts(folder, lengths)
    embed(engine, texts, hidden_size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        begin = time.perf_counter()
        embed(engine, texts, hidden_size)
        wall_ms = (time.perf_counter() - begin) * 1e3
    events = sorted(seen.key_averages(), key=lambda e: -e.device_time_total)
    total_ms = sum(e.device_time_total for e in events) / 1e3
    print(
        f"profile: {len(lengths)} x {lengths[0]} tokens, wall {wall_ms:.2f} ms, kernels "
        f"{total_ms:.2f} ms",
        flush=True,
    )
    for e in events[:16]:
        print(
            f"  {e.device_time_total / 1e3:8.3f} ms {e.count:5d} x "
            f"{e.device_time_total / e.count:8.2f} us  {e.key[:90]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a model folder from tests/make_model.py")
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without Transformers")
    parser.add_argument("--rounds", type=int, default=4, help="timed calls of each workload")
    arguments = parser.parse_args()
    folder = arguments.folder
    print(
        torch.cuda.get_device_name(),
        "torch",
        torch.__version__,
        "transformers",
        transformers.__version__,
        folder.name,
        flush=True,
    )
    torch.cuda.init()
    before = torch.cuda.mem_get_info()[0]
    begin = time.perf_counter()
    engine = open_cuda(folder)
    open_s = time.perf_counter() - begin
    print(
        f"open {open_s:.2f} s, {(before - torch.cuda.mem_get_info()[0]) / 1e9:.2f} GB, "
        f"{engine.info}",
        flush=True,
    )
    begin = time.perf_counter()
    embed(engine, random_texts(folder, [16]), 64)
    print(f"first query {(time.perf_counter() - begin) * 1e3:.1f} ms", flush=True)
    begin = time.perf_counter()
    embed(engine, random_texts(folder, [512] * 33), 64)
    print(f"first batch {(time.perf_counter() - begin) * 1e3:.1f} ms", flush=True)
    if arguments.parity:
        parity(engine, folder)
    latency(engine, None, folder)
    if arguments.profile:
        for lengths in ([512] * 33, [16], [32768], [128] * 132):
            profile(engine, folder, lengths)
    prefixes(engine, folder, arguments.rounds)
    rival = None if arguments.alone else Transformers(folder, "bfloat16")
    throughput(engine, rival, folder, arguments.rounds)
    if rival is not None:
        latency(engine, rival, folder)
    begin = time.perf_counter()
    engine.close()
    again = open_cuda(folder)
    print(f"open again {time.perf_counter() - begin:.2f} s", flush=True)
    again.close()


if __name__ == "__main__":
    main()
