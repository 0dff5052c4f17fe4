"""Rates that a GPU holds for seconds, and the time of small batches: for gpu_sustained.csv.

    python -m benchmarks.gpu_sustained --shape 0.6B --csv
    python -m benchmarks.gpu_sustained --shape 4B --only small,shapes,threads --csv

Random weights at the official shapes. A burst of some milliseconds runs on a cool chip at its
highest clock; after a second the board is at its power limit and slower. So ours, torch.compile
and the products of the shape alone run for --seconds each, in turns, and every result has the power
and the clock that nvidia-smi saw meanwhile. Rates are medians over the rounds.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from benchmarks.gpu import encode_ids, random_ids
from benchmarks.gpu_rivals import Transformers, gpu_words
from benchmarks.record import model_folder, parser_of, record
from qwen3_embed import Embedder
from qwen3_embed.checks.bench import flops_per_token

PASS_ROWS = 16896  # of the engine's largest batch on this GPU
LENGTHS = ((512, 264, 33), (128, 1056, 132), (2048, 66, 8))  # tokens, texts of ours, of the rival's
SMALL_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048)
SMALL_TEXT_TOKENS = 32
N_SHAPES, N_THREADS, THREAD_TEXT_TOKENS = 200, 16, 30


class Measured(NamedTuple):
    """Units per second over some seconds, and what the board drew."""

    per_s: float
    watts: float
    mhz: float


class Meter:
    """Mean power in W and SM clock in MHz while the block runs, ten readings per second."""

    def __enter__(self) -> Self:
        query = ["nvidia-smi", "--query-gpu=power.draw,clocks.sm", "-i", "0", "-lms", "100"]
        self._file = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [*query, "--format=csv,noheader,nounits"], stdout=self._file
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._file.seek(0)
        lines = [line.split(",") for line in self._file.read().splitlines() if "," in line]
        readings = np.array([[float(word) for word in line] for line in lines[2:]] or [[0, 0]])
        self.watts, self.mhz = readings.mean(axis=0)


def sustained(run: Callable[[], int], n_seconds: float) -> Measured:
    """Calls run, which returns how many units it did, for some seconds."""
    with Meter() as meter:
        begin, n_units = time.perf_counter(), 0
        while time.perf_counter() - begin < n_seconds:
            n_units += run()
        torch.cuda.synchronize()
        taken_s = time.perf_counter() - begin
    return Measured(n_units / taken_s, float(meter.watts), float(meter.mhz))


def in_turns(
    runs: dict[str, Callable[[], int]], n_seconds: float, n_rounds: int
) -> dict[str, Measured]:
    """The median round of each."""
    seen: dict[str, list[Measured]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        torch.cuda.synchronize()
    for _ in range(n_rounds):
        for name, run in runs.items():
            seen[name].append(sustained(run, n_seconds))
    return {name: sorted(rounds)[len(rounds) // 2] for name, rounds in seen.items()}


def median_ms(run: Callable[[], object], n_calls: int = 60, n_warm: int = 6) -> float:
    for _ in range(n_warm):
        run()
    return float(np.median([timed_ms(run) for _ in range(n_calls)]))


def timed_ms(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def product_shapes(config: Any) -> list[tuple[int, int]]:
    """(outputs, inputs) of a layer's products."""
    heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    attended = config.n_heads * config.head_dim
    return [(heads, hidden), (hidden, attended), (2 * inner, hidden), (hidden, inner)]


def products(config: Any) -> Callable[[], int]:
    """One layer's products over a pass' rows by cuBLAS, some times; returns their FLOP."""
    shapes = product_shapes(config)
    inputs = {k: torch.randn(PASS_ROWS, k, device="cuda").bfloat16() for _, k in shapes}
    weights = [torch.randn(n, k, device="cuda").bfloat16() for n, k in shapes]
    outputs = [torch.empty(PASS_ROWS, n, device="cuda").bfloat16() for n, _ in shapes]
    n_flops = sum(2 * PASS_ROWS * n * k for n, k in shapes)

    def run() -> int:
        for _ in range(10):
            for weight, output in zip(weights, outputs, strict=True):
                torch.mm(inputs[weight.shape[1]], weight.T, out=output)
        torch.cuda.synchronize()
        return 10 * n_flops

    return run


class Benchmark:
    """One model folder, opened by ours; the rival is compiled once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        folder = model_folder(arguments)
        self.model = Embedder(folder, device="cuda", dtype=arguments.dtype)
        self.config = self.model.config

    def result(self, what: str, unit: str, ours: float, **figures: Any) -> dict[str, Any]:
        empty = {"rival_name": "", "rival": 0.0, "ratio": 0.0, "watts": 0.0, "mhz": 0.0}
        made = {"what": what, "unit": unit, "ours": ours, **empty, **figures}
        rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in made.items()}
        print(rounded, flush=True)
        return rounded

    def lengths(self) -> list[dict[str, Any]]:
        """Tokens per second against torch.compile, and the share of the products' ceiling."""
        rival = None
        if not self.arguments.alone:
            rival = Transformers(model_folder(self.arguments), "bfloat16")
            rival.compile()
        results = []
        for n_tokens, n_texts, n_batch in LENGTHS:
            if n_tokens not in self.arguments.tokens:
                continue
            ids = random_ids(self.model, [n_tokens] * n_texts)

            def ours(ids: Any = ids) -> int:
                encode_ids(self.model, ids)
                return sum(map(len, ids))

            runs: dict[str, Callable[[], int]] = {"ours": ours}
            if n_tokens == 512:
                runs["products"] = products(self.config)
            if rival is not None:
                stacked = np.stack(ids[:n_batch]).astype(np.int64)
                batch = torch.from_numpy(stacked).cuda()

                def theirs(batch: torch.Tensor = batch) -> int:
                    for _ in range(8):
                        rival.encode(batch)
                    torch.cuda.synchronize()
                    return 8 * batch.numel()

                runs["torch.compile"] = theirs
            seen = in_turns(runs, self.arguments.seconds, self.arguments.rounds)
            ours_per_s, watts, mhz = seen["ours"]
            drawn = {"watts": watts, "mhz": mhz}
            if "torch.compile" in seen:
                their_rate = seen["torch.compile"].per_s
                results.append(
                    self.result(f"{n_tokens} tokens", "tokens/s", ours_per_s, rival=their_rate,
                             rival_name="torch.compile", ratio=ours_per_s / their_rate, **drawn)
                )  # fmt: skip
            if "products" in seen:
                tflops = ours_per_s * flops_per_token(self.config, n_tokens) / 1e12
                ceiling = seen["products"].per_s / 1e12
                results.append(
                    self.result(f"{n_tokens} tokens, of the products alone", "TFLOP/s", tflops,
                             rival_name="cuBLAS", rival=ceiling, ratio=tflops / ceiling, **drawn)
                )  # fmt: skip
        return results

    def small(self) -> list[dict[str, Any]]:
        """Calls of the same shape again and again."""
        results = []
        for n_tokens in SMALL_TOKENS:
            length = min(n_tokens, SMALL_TEXT_TOKENS)
            ids = random_ids(self.model, [length] * (n_tokens // length))
            ms = median_ms(lambda ids=ids: encode_ids(self.model, ids))
            results.append(self.result(f"a call of {n_tokens} tokens, same shape again", "ms", ms))
        return results

    def shapes(self) -> list[dict[str, Any]]:
        """Batches of 16 short texts, each batch of a shape that was not seen before."""
        source = np.random.default_rng(1)
        times = []
        for i in range(N_SHAPES):
            lengths = source.integers(6, 54, size=16)
            ids = random_ids(self.model, lengths.tolist(), seed=i)
            times.append(timed_ms(lambda ids=ids: encode_ids(self.model, ids)))
        what = f"{N_SHAPES} batches of 16 short texts, each of a new shape"
        return [
            self.result(f"{what}: {name}", "ms", float(np.quantile(times, at)))
            for name, at in (("median", 0.5), ("p90", 0.9))
        ]

    def threads(self) -> list[dict[str, Any]]:
        """One short text per thread, against calls of as many texts."""
        ids = random_ids(self.model, [THREAD_TEXT_TOKENS] * N_THREADS)
        together_s = median_ms(lambda: encode_ids(self.model, ids)) / 1e3
        n_calls = 200

        def caller(text: Any) -> None:
            for _ in range(n_calls):
                encode_ids(self.model, [text])

        workers = [threading.Thread(target=caller, args=(text,)) for text in ids]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        apart = N_THREADS * n_calls / (time.perf_counter() - begin)
        together = N_THREADS / together_s
        what = f"{N_THREADS} threads, one text of {THREAD_TEXT_TOKENS} tokens each"
        return [
            self.result(what, "texts/s", apart, rival_name=f"calls of {N_THREADS}", rival=together,
                     ratio=apart / together)
        ]  # fmt: skip


SECTIONS = ("lengths", "small", "shapes", "threads")


def numbers(words: str) -> Sequence[int]:
    return [int(word) for word in words.split(",")]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help=",".join(SECTIONS))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float8"))
    parser.add_argument("--alone", action="store_true", help="without torch.compile")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run of one engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=numbers, default=[n for n, _, _ in LENGTHS],
                        help="of the texts in lengths")  # fmt: skip
    arguments = parser.parse_args()
    benchmark = Benchmark(arguments)
    about = {"model": Path(model_folder(arguments)).name, "dtype": arguments.dtype}
    for name in arguments.only.split(","):
        results = getattr(benchmark, name)()
        record(
            "gpu_sustained", arguments, [about | result for result in results], machine=gpu_words()
        )


if __name__ == "__main__":
    main()
