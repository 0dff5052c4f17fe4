"""One model split over two GPUs, beside the same model on one: the rows of split.csv.

    python -m benchmarks.split --csv
    python -m benchmarks.split --shapes 4B --only bits,query

Random weights at the official shapes, all layers, bf16. `bits`: rows of 12,000 texts that differ
from those of one GPU. `rates` and `query` are beside one GPU, in turns. `memory`: what each GPU
has less than with an idle context, after passes. `cards`: 10 GB left on each of the two GPUs, by
taking the others away. About three minutes, the models made before.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import encode_ids, random_ids
from benchmarks.gpu_int8 import folder_of
from benchmarks.gpu_rivals import gpu_words
from benchmarks.gpu_sustained import in_turns, timed_ms
from benchmarks.record import record
from qwen3_embed import DeviceMemoryError, Embedder
from qwen3_embed.loading.device_memory import memory_needs

SECTIONS = ("bits", "memory", "query", "rates", "cards")
SHAPES = ("4B", "8B")
PLACE = ("cuda:0", "cuda:1")
N_TEXTS, MEAN_TOKENS, MOST_TOKENS = 12_000, 40, 512
RATE_TOKENS, RATE_TEXTS = 512, 264  # two batches
LARGER_BATCH = 135_168  # tokens, twice the default
CALL_TOKENS = (16, 128, 512, 2048, 8192)
N_CALLS = 100
LEFT_BYTES = 10 * 10**9

Row = dict[str, Any]


def row(what: str, model: str, unit: str, ours: float, **figures: Any) -> Row:
    """`one`: the same of one GPU."""
    made = {"what": what, "model": model, "unit": unit, "ours": ours}
    made |= {"one": 0.0, "ratio": 0.0, "note": ""} | figures
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in made.items()}
    print(rounded, flush=True)
    return rounded


def open_split(shape: str, **options: Any) -> Embedder:
    begin = time.perf_counter()
    model = Embedder(folder_of(shape), device=PLACE, split="layers", **options)
    print(f"{shape} split opened in {time.perf_counter() - begin:.1f} s", flush=True)
    return model


def open_one(shape: str) -> Embedder:
    begin = time.perf_counter()
    model = Embedder(folder_of(shape), device=PLACE[0])
    print(f"{shape} opened in {time.perf_counter() - begin:.1f} s", flush=True)
    return model


def mixed_ids(model: Embedder) -> Any:
    """Texts of geometrically distributed lengths, and a few long ones."""
    source = np.random.default_rng(7)
    lengths = np.minimum(source.geometric(1 / MEAN_TOKENS, N_TEXTS), MOST_TOKENS)
    lengths[::1000] = 3000
    return random_ids(model, [int(n) for n in lengths])


def bits(shape: str, one: Embedder, split: Embedder) -> list[Row]:
    ids = mixed_ids(one)
    begin = time.perf_counter()
    expected = encode_ids(one, ids)
    middle = time.perf_counter()
    rows = encode_ids(split, ids)
    end = time.perf_counter()
    alone = encode_ids(split, ids[1:2])  # as a graph's first launch
    different = int((rows.view(np.uint32) != expected.view(np.uint32)).any(axis=1).sum())
    different += int((alone.view(np.uint32) != expected[1:2].view(np.uint32)).any())
    n_tokens = sum(map(len, ids))
    first, then = n_tokens / (middle - begin), n_tokens / (end - middle)
    return [
        row(f"texts of {N_TEXTS} whose bits differ", shape, "texts", different),
        row("the same texts, once", shape, "tokens/s", then, one=first, ratio=then / first),
    ]


def free_bytes() -> list[int]:
    for index in range(len(PLACE)):
        torch.cuda.synchronize(index)
    return [torch.cuda.mem_get_info(index)[0] for index in range(len(PLACE))]


def warm(model: Embedder) -> None:
    """Passes of several sizes, graphs among them."""
    ids = random_ids(model, [512] * 160)
    encode_ids(model, ids)
    for _ in range(3):
        encode_ids(model, ids[:1])
        encode_ids(model, random_ids(model, [16]))


def memory(shape: str) -> list[Row]:
    """The kernels are loaded, since both engines were open before."""
    taken = {}
    for name, opened in (("one", open_one), ("split", open_split)):
        before = free_bytes()
        with opened(shape) as model:
            warm(model)
            taken[name] = [a - b for a, b in zip(before, free_bytes(), strict=True)]
            config = model.config.for_engine(model.max_length)
    one, each = taken["one"][0], taken["split"]
    needs = memory_needs(config, ",".join(PLACE), dtype="bfloat16", embedding="device")
    return [
        row(f"memory on {place}, texts of {config['max_length']} tokens", shape, "GB", n / 1e9,
            one=one / 1e9, ratio=n / one,
            note=f"{need.n_layers} layers, promised {need.device_bytes / 1e9:.2f} GB")
        for place, n, need in zip(PLACE, each, needs, strict=True)
    ]  # fmt: skip


def query(shape: str, one: Embedder, split: Embedder) -> list[Row]:
    """Milliseconds of a call, in turns."""
    rows = []
    for n_tokens in CALL_TOKENS:
        length = min(n_tokens, 512)
        ids = random_ids(one, [length] * (n_tokens // length))
        times: dict[str, list[float]] = {"one": [], "split": []}
        for i in range(N_CALLS + 10 if n_tokens < 1024 else 20):
            for name, model in (("one", one), ("split", split)):
                ms = timed_ms(partial(encode_ids, model, ids))
                if i >= 10:
                    times[name].append(ms)
        ours, theirs = (float(np.median(times[name])) for name in ("split", "one"))
        rows.append(
            row(f"a call of {n_tokens} tokens, same shape again", shape, "ms", ours, one=theirs,
                ratio=ours / theirs)
        )  # fmt: skip
    return rows


def rates(shape: str, one: Embedder, split: Embedder, arguments: argparse.Namespace) -> list[Row]:
    """Tokens per second of large batches, and of larger ones."""
    ids = random_ids(one, [RATE_TOKENS] * RATE_TEXTS)

    def run_on(model: Embedder) -> Callable[[], int]:
        def run() -> int:
            encode_ids(model, ids)
            return RATE_TOKENS * RATE_TEXTS

        return run

    with open_split(shape, batch_tokens=LARGER_BATCH) as larger:
        runs = {"one": run_on(one), "split": run_on(split), "larger": run_on(larger)}
        seen = in_turns(runs, arguments.seconds, arguments.rounds)
    theirs = seen["one"].per_s
    sizes = {"split": split.info["batch_tokens"], "larger": LARGER_BATCH}
    return [
        row(f"texts of {RATE_TOKENS} tokens, batches of {sizes[name]}", shape, "tokens/s",
            seen[name].per_s, one=theirs, ratio=seen[name].per_s / theirs)
        for name in ("split", "larger")
    ]  # fmt: skip


def cards(shape: str) -> list[Row]:
    """Two cards with so little left that the model does not fit on one of them."""
    with open_one(shape) as one:
        ids = random_ids(one, [512] * 64)
        expected = encode_ids(one, ids)
    gc.collect()
    torch.cuda.empty_cache()
    held = [
        torch.empty(max(free - LEFT_BYTES, 1), dtype=torch.uint8, device=f"cuda:{index}")
        for index, free in enumerate(free_bytes())
    ]
    left = free_bytes()
    try:
        open_one(shape).close()
        refused = "one GPU opens it"
    except DeviceMemoryError as error:
        refused = str(error)
    print(refused, flush=True)
    with open_split(shape) as model:
        made = encode_ids(model, ids)
        same = bool((made.view(np.uint32) == expected.view(np.uint32)).all())
        begin = time.perf_counter()
        encode_ids(model, ids)
        rate = sum(map(len, ids)) / (time.perf_counter() - begin)
        note = model.info["note"]
    del held
    torch.cuda.empty_cache()
    said = "the bits of one GPU" if same else "OTHER BITS"
    what = f"{min(left) / 1e9:.2f} GB left on each: texts of 512 tokens"
    return [row(what, shape, "tokens/s", rate, note="; ".join(filter(None, [said, note])))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES), help="some of " + ",".join(SHAPES))
    parser.add_argument("--only", default=",".join(SECTIONS), help="some of " + ",".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run of one engine")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    shapes, sections = arguments.shapes.split(","), arguments.only.split(",")
    begin, rows = time.perf_counter(), []
    free_bytes()  # makes the contexts
    for shape in shapes:
        print(f"[{time.perf_counter() - begin:.0f} s] {shape}", flush=True)
        with open_one(shape) as one, open_split(shape) as split:
            if "bits" in sections:
                rows += bits(shape, one, split)
            if "query" in sections:
                rows += query(shape, one, split)
            if "rates" in sections:
                rows += rates(shape, one, split, arguments)
        if "memory" in sections:
            rows += memory(shape)
    if "cards" in sections:
        print(f"[{time.perf_counter() - begin:.0f} s] cards", flush=True)
        rows += cards(shapes[-1])
    print(f"[{time.perf_counter() - begin:.0f} s] done", flush=True)
    record("split", arguments, rows, machine=f"2 x {gpu_words()}")


if __name__ == "__main__":
    main()
