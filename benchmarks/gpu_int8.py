"""int8 weights, and the table of embeddings on the host, on one GPU: for gpu_int8.csv.

    python -m benchmarks.gpu_int8 --csv
    python -m benchmarks.gpu_int8 --shapes 0.6B --only rates,query,accuracy

Random weights at the official shapes, all layers. `rates` and `query` are beside the same engine
in bf16, in turns of --seconds each. `accuracy`: mean 1 - cos to Transformers in fp32, beside fp32
with weights rounded by one fp32 scale per row and nothing else rounded. `cards` takes the GPU's
memory away but for what a smaller card has, and compares what an engine takes with what
`qwen3-embed info` promised. About five minutes for all, of which making the 8B model is one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import encode_ids, random_ids
from benchmarks.gpu_rivals import Transformers, gpu_words
from benchmarks.gpu_sustained import in_turns, timed_ms
from benchmarks.record import model_folder, record
from qwen3_embed import Embedder
from qwen3_embed.loading.device_memory import memory_need

SECTIONS = ("rates", "query", "accuracy", "cards")
SHAPES = ("0.6B", "4B", "8B")
DTYPES = ("bfloat16", "int8-weights")
TOKENS = (512, 128, 32)  # of a text in rates
RATE_TOKENS = 16896 * 2  # of one call
MIDDLE_TOKENS = (64, 128, 256, 512, 2048)  # of one call, between a query and a large batch
QUERY_TOKENS, N_QUERIES = 16, 200
ACCURACY_LENGTHS = (8, 16, 32, 64, 100, 128, 200, 256, 300, 400, 512, 48, 80, 24, 12, 160)
ACCURACY_SHAPES = ("0.6B", "4B")
CARD_LENGTH = 2048
CARD_OTHERS_GB = 0.6  # of a small card's memory, by the driver and the context
# Model, dtype, embedding, GB of the card.
CARDS = (
    ("8B", "int8-weights", "device", 12),
    ("4B", "int8-weights", "device", 8),
    ("8B", "bfloat16", "host", 16),
    ("8B", "bfloat16", "auto", 16),
    ("8B", "int8-weights", "host", 10),
)
STEP_BYTES = 64 << 20

Result = dict[str, Any]


def folder_of(shape: str) -> Path:
    return model_folder(argparse.Namespace(shape=shape, model=None))


def result(what: str, model: str, unit: str, ours: float, **figures: Any) -> Result:
    made = {"what": what, "model": model, "unit": unit, "ours": ours}
    made |= {"rival_name": "", "rival": 0.0, "ratio": 0.0} | figures
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in made.items()}
    print(rounded, flush=True)
    return rounded


class Pair:
    """One model in bf16 and with int8 weights, on one GPU."""

    def __init__(self, shape: str) -> None:
        self.shape = shape
        self.models = {}
        for dtype in DTYPES:
            begin = time.perf_counter()
            self.models[dtype] = Embedder(folder_of(shape), device="cuda", dtype=dtype)
            print(f"{shape} in {dtype} opened in {time.perf_counter() - begin:.1f} s", flush=True)

    def close(self) -> None:
        for model in self.models.values():
            model.close()

    def rates(self, arguments: argparse.Namespace) -> list[Result]:
        """Tokens per second of large batches."""
        results = []
        for n_tokens in TOKENS:
            n_texts = RATE_TOKENS // n_tokens
            ids = random_ids(self.models["bfloat16"], [n_tokens] * n_texts)

            def run(model: Embedder, ids: Any = ids) -> int:
                encode_ids(model, ids)
                return sum(map(len, ids))

            seen = in_turns(
                {name: lambda model=model: run(model) for name, model in self.models.items()},
                arguments.seconds if n_tokens == TOKENS[0] else arguments.seconds / 2,
                arguments.rounds,
            )
            ours, theirs = (seen[dtype].per_s for dtype in reversed(DTYPES))
            results.append(
                result(f"texts of {n_tokens} tokens", self.shape, "tokens/s", ours,
                    rival_name="bf16", rival=theirs, ratio=ours / theirs)
            )  # fmt: skip
        return results

    def query(self, arguments: argparse.Namespace) -> list[Result]:
        """Milliseconds of one short text, and of batches between that and large ones."""
        results = []
        for n_tokens in (QUERY_TOKENS, *MIDDLE_TOKENS):
            length = min(n_tokens, 32)
            ids = random_ids(self.models["bfloat16"], [length] * (n_tokens // length))
            times: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
            n_calls = N_QUERIES if n_tokens == QUERY_TOKENS else N_QUERIES // 4
            for i in range(n_calls + 10):
                for dtype, model in self.models.items():
                    ms = timed_ms(partial(encode_ids, model, ids))
                    if i >= 10:
                        times[dtype].append(ms)
            ours, theirs = (float(np.median(times[dtype])) for dtype in reversed(DTYPES))
            results.append(
                result(f"a call of {n_tokens} tokens, same shape again", self.shape, "ms", ours,
                    rival_name="bf16", rival=theirs, ratio=theirs / ours)
            )  # fmt: skip
        return results


def mean_loss(rows: Any, exact: Any) -> float:
    """Mean 1 - cos of unit rows."""
    return float(np.mean(1 - np.sum(np.asarray(rows, np.float64) * exact, axis=1)))


def normalised(rows: Any) -> Any:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def accuracy(shape: str) -> list[Result]:
    """The engine's loss, and that of a plain simulation of the scheme."""
    source = np.random.default_rng(5)
    texts = [source.integers(0, 150_000, n, dtype=np.int32) for n in ACCURACY_LENGTHS]
    ours = {}
    for dtype in DTYPES:
        with Embedder(folder_of(shape), device="cuda", dtype=dtype) as model:
            ours[dtype] = normalised(encode_ids(model, texts))
    torch.backends.cuda.matmul.allow_tf32 = False
    rival = Transformers(folder_of(shape), "float32")
    exact = rival.encode_each(texts)
    with torch.inference_mode():
        for layer in rival.model.layers:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    scale = module.weight.abs().amax(dim=1, keepdim=True) / 127
                    module.weight.copy_(torch.round(module.weight / scale) * scale)
    simulated = mean_loss(rival.encode_each(texts), exact)
    del rival
    gc.collect()
    torch.cuda.empty_cache()
    loss = mean_loss(ours["int8-weights"], exact)
    return [
        result("1 - cos to fp32, int8-weights", shape, "mean", loss, rival_name="plain simulation",
            rival=simulated, ratio=loss / simulated),
        result("1 - cos to fp32, bfloat16", shape, "mean", mean_loss(ours["bfloat16"], exact)),
    ]  # fmt: skip


# ---- small cards ----


def driver() -> Any:
    """libcuda with GPU 0's primary context current in this thread."""
    library = ctypes.CDLL("libcuda.so.1")
    context = ctypes.c_void_p()
    assert library.cuInit(0) == 0
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert library.cuCtxSetCurrent(context) == 0
    return library


def free_bytes(library: Any) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


@contextmanager
def card_of(n_gb: float) -> Iterator[Any]:
    """Takes away the memory that a card of n_gb lacks."""
    library, taken = driver(), []
    left = int((n_gb - CARD_OTHERS_GB) * 1e9)
    while free_bytes(library) > left:
        place = ctypes.c_uint64()
        n_bytes = max(min(free_bytes(library) - left, 1 << 30), STEP_BYTES)
        if library.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(n_bytes)) != 0:
            break
        taken.append(place)
    try:
        yield library
    finally:
        for place in taken:
            library.cuMemFree_v2(place)


def cards(shapes: tuple[str, ...]) -> list[Result]:
    """The memory taken of a small card, beside the promised, and the rate there."""
    results = []
    for shape, dtype, embedding, n_gb in CARDS:
        if shape not in shapes:
            continue
        options = {"max_length": CARD_LENGTH, "batch_tokens": CARD_LENGTH}
        with card_of(n_gb) as library:
            before = free_bytes(library)
            with Embedder(
                folder_of(shape), device="cuda", dtype=dtype, embedding=embedding, **options
            ) as model:
                need = memory_need(
                    model.config.for_engine(CARD_LENGTH), "cuda:0", dtype=dtype,
                    embedding="host" if embedding == "auto" else embedding,
                    batch_tokens=CARD_LENGTH,
                )  # fmt: skip
                ids = random_ids(model, [CARD_LENGTH] * 8)
                encode_ids(model, ids)
                encode_ids(model, ids[:1])
                short = random_ids(model, [16, 30, 100, 500, 1000, 3])
                for text in short * 2:
                    encode_ids(model, [text])
                begin = time.perf_counter()
                rows_made = encode_ids(model, ids)
                rate = 8 * CARD_LENGTH / (time.perf_counter() - begin)
                taken = before - free_bytes(library)
                assert np.isfinite(rows_made).all()
                print(f"note: {model.info['note']!r}")
        what = f"{dtype}, embedding {embedding}, card of {n_gb} GB"
        results.append(
            result(f"{what}: memory taken", shape, "GB", taken / 1e9, rival_name="promised",
                rival=need.device_bytes / 1e9, ratio=taken / need.device_bytes)
        )  # fmt: skip
        results.append(result(f"{what}: texts of {CARD_LENGTH} tokens", shape, "tokens/s", rate))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES), help="some of " + ",".join(SHAPES))
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of " + ",".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run of one engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    shapes, sections = tuple(arguments.shapes.split(",")), arguments.only.split(",")
    results: list[Result] = []
    begin = time.perf_counter()
    # Processes of their own: the smaller models are measured while the largest is made.
    with ProcessPoolExecutor(len(shapes), mp_context=get_context("spawn")) as pool:
        made = {shape: pool.submit(folder_of, shape) for shape in shapes}
        for shape in shapes:
            made[shape].result()
            print(f"[{time.perf_counter() - begin:.0f} s] {shape}", flush=True)
            if "rates" in sections or "query" in sections:
                pair = Pair(shape)
                for name in ("query", "rates"):
                    if name in sections:
                        results += getattr(pair, name)(arguments)
                pair.close()
            if "accuracy" in sections and shape in ACCURACY_SHAPES:
                results += accuracy(shape)
    if "cards" in sections:
        print(f"[{time.perf_counter() - begin:.0f} s] cards", flush=True)
        results += cards(shapes)
    print(f"[{time.perf_counter() - begin:.0f} s] done", flush=True)
    record("gpu_int8", arguments, results, machine=gpu_words())


if __name__ == "__main__":
    main()
