"""The CUDA engine beside its rivals on one GPU, in one run: for results/gpu.csv.

    python -m benchmarks.gpu --shape 0.6B --csv
    python -m benchmarks.gpu --shape 4B --only load,lengths,mixed,gpus --csv

Random weights at the official shapes. Throughput of ours is of whole calls, from ids (or texts)
to vectors in NumPy; Transformers' is of forward passes alone, on ids that are on the GPU
already. Each counts by its best round.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu_rivals import SentenceTransformers, Transformers, gpu_words
from benchmarks.mixed_texts import mixed_texts
from benchmarks.record import model_folder, parser_of, record, seconds
from qwen3_embed import Embedder

Result = dict[str, Any]
Ids = Sequence[np.ndarray]

# tokens of a text, texts in a call of ours, texts in a batch of the rival's
LENGTHS = ((512, 264, 33), (128, 1056, 132), (8192, 16, 2), (32768, 4, 1))
SAME_BATCH_US = 20.0  # a longer gap is one between batches
MORE_IS_BETTER = ("100 nDCG@10",)
QUERY = "the quick brown fox jumps over the lazy dog and runs into the forest"


def random_ids(model: Embedder, lengths: Sequence[int], seed: int = 0) -> Ids:
    source = np.random.default_rng(seed)
    vocab_size = model.config.vocab_size
    return [source.integers(0, vocab_size, n, dtype=np.int32) for n in lengths]


def encode_ids(model: Embedder, ids: Ids) -> np.ndarray:
    cu_seqlens = np.cumsum([0, *map(len, ids)], dtype=np.int32)
    return model.encode_tokens(np.concatenate(ids), cu_seqlens)


def best_s(run: Callable[[], Any], n_rounds: int = 2) -> float:
    """After one call to warm up."""
    run()
    times = []
    for _ in range(n_rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def result(what: str, unit: str, ours: float, rival_name: str = "", rival: float = 0.0) -> Result:
    """ratio: ours over the rival's, or the reverse where less is better."""
    ratio = 0.0
    if rival:
        ratio = ours / rival if unit.endswith("/s") or unit in MORE_IS_BETTER else rival / ours
    figures = {"ours": ours, "rival": rival, "ratio": ratio}
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    made = {"what": what, "unit": unit, "rival_name": rival_name, **rounded}
    print(made, flush=True)
    return made


class Benchmark:
    """One model folder, opened by ours; rivals are opened where they are needed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = model_folder(arguments)
        self.open = lambda **options: Embedder(
            self.folder, **{"device": "cuda", "dtype": arguments.dtype} | options
        )
        self._model: Embedder | None = None
        self._sentence_transformers: SentenceTransformers | None = None

    @property
    def model(self) -> Embedder:
        if self._model is None:
            self._model = self.open()
        return self._model

    @property
    def sentence_transformers(self) -> SentenceTransformers:
        if self._sentence_transformers is None:
            self._sentence_transformers = SentenceTransformers(self.folder)
        return self._sentence_transformers

    def load(self) -> list[Result]:
        """From the page cache: opened twice, the second time counts; memory with a long text."""
        self.open().close()
        torch.cuda.init()
        free_before = torch.cuda.mem_get_info()[0]
        begin = time.perf_counter()
        model = self._model = self.open()
        taken_s = time.perf_counter() - begin
        lengths = [min(32768, model.max_length)] + [512] * 40
        encode_ids(model, random_ids(model, lengths))
        used_bytes = free_before - torch.cuda.mem_get_info()[0]
        weight_bytes = model.info["mapped_bytes"]
        if model.dtype == "float8":
            weight_bytes /= 2  # all but the embedding, about
        return [
            result("load from the page cache", "s", taken_s),
            result("GPU memory beyond weights", "GB", (used_bytes - weight_bytes) / 1e9),
        ]

    def query(self) -> list[Result]:
        """Call to NumPy, tokenising included."""
        model = self.model
        n_tokens = int(model.count_tokens(QUERY))
        for _ in range(20):
            model.encode(QUERY)
        times = []
        for _ in range(300):
            begin = time.perf_counter()
            model.encode(QUERY)
            times.append(time.perf_counter() - begin)
        ours = float(np.median(times)) * 1e3
        name, theirs = "", 0.0
        if not self.arguments.alone:
            name, theirs = "sentence-transformers", self.sentence_transformers.query_ms(QUERY)
        return [result(f"query of {n_tokens} tokens, str to vector", "ms", ours, name, theirs)]

    def lengths(self) -> list[Result]:
        rival = None if self.arguments.alone else Transformers(self.folder, "bfloat16")
        results = []
        for n_tokens, n_texts, n_batch in LENGTHS:
            if n_tokens not in self.arguments.tokens:
                continue
            ids = random_ids(self.model, [n_tokens] * n_texts)
            ours = n_texts * n_tokens / best_s(lambda ids=ids: encode_ids(self.model, ids))
            theirs = 0.0
            if rival is not None:
                batch = torch.from_numpy(np.stack(ids[:n_batch]).astype(np.int64)).cuda()
                taken = best_s(lambda batch=batch: rival.encode(batch))
                theirs = n_batch * n_tokens / taken
            results.append(
                result(f"{n_tokens} tokens", "tokens/s", ours, "Transformers eager", theirs)
            )
        if self.arguments.compile and rival is not None:
            rival.compile()
            batch = torch.from_numpy(np.stack(random_ids(self.model, [512] * 33)).astype(np.int64))
            theirs = 33 * 512 / best_s(lambda: rival.encode(batch.cuda()), 3)
            results.append(
                result("512 tokens", "tokens/s", results[0]["ours"], "torch.compile", theirs)
            )
        return results

    def prefixes(self) -> list[Result]:
        """10,000 queries of 10 tokens, after one instruction of 20 or each after its own."""
        own = random_ids(self.model, [30] * 10000)
        shared = [np.concatenate([own[0][:20], text[20:]]) for text in own]
        own_s = best_s(lambda: encode_ids(self.model, own))
        shared_s = best_s(lambda: encode_ids(self.model, shared))
        longer = random_ids(self.model, [128] * 1056)
        longer_s = best_s(lambda: encode_ids(self.model, longer))
        return [
            result("10,000 queries after one instruction", "texts/s", 1e4 / shared_s, "not shared",
                1e4 / own_s),
            result("30 tokens, nothing shared", "tokens/s", 3e5 / own_s, "own, 128 tokens",
                128 * 1056 / longer_s),
        ]  # fmt: skip

    def mixed(self) -> list[Result]:
        """Texts of very different lengths, end to end; and ours on their ids, alone."""
        model = self.model
        texts = mixed_texts(self.folder, self.arguments.texts)
        batch = model.tokenizer.encode(texts)
        n_tokens = len(batch.tokens)
        model.encode(texts[:1000])
        taken_s = seconds(lambda: model.encode(texts))
        alone_s = seconds(lambda: model.encode_tokens(batch.tokens, batch.cu_seqlens))
        ours = n_tokens / taken_s
        mean = n_tokens / len(texts)
        results = [
            result(f"mixed, {mean:.0f} tokens on average, texts to vectors", "tokens/s", ours,
                "own ids to vectors", n_tokens / alone_s)
        ]  # fmt: skip
        if not self.arguments.alone:
            some = texts[: self.arguments.rival_texts]
            name, rate = self.sentence_transformers.best_rate(some, batch.lengths)
            results.append(result("mixed, texts to vectors", "tokens/s", ours, name, rate))
        return results

    def parity(self) -> list[Result]:
        """Mean 1 - cos to Transformers fp32 over 64 texts, beside Transformers bf16's own."""
        lengths = [1, 2, 3, 5, 8, 12, 17, 24, 33, 48, 64, 65, 100, 128, 200, 300, 511, 700, 1000]
        lengths = lengths * 3 + [1500, 2000, 2500, 3000, 4096, 6000, 8000]
        lengths = [min(n, self.model.max_length) for n in lengths]
        ids = random_ids(self.model, lengths)
        ours = encode_ids(self.model, ids)
        alone = np.concatenate([encode_ids(self.model, [text]) for text in ids])
        assert np.array_equal(ours, alone), "the same text alone has other bits"
        exact = Transformers(self.folder, "float32").encode_each(ids)
        rivals: dict[str, Callable[[], Transformers]] = {
            "Transformers bf16": lambda: Transformers(self.folder, "bfloat16")
        }
        if self.model.dtype == "float8":
            rivals |= {
                f"_scaled_mm by rows, {name} accumulation": lambda fast=fast: Transformers(
                    self.folder, "bfloat16"
                ).to_float8(fast)
                for name, fast in (("fast", True), ("fp32", False))
            }
        results = []
        for name, open_rival in rivals.items():  # one at a time: all of 8B's do not fit
            gc.collect()  # modules lie in cycles
            torch.cuda.empty_cache()
            results.append(result("mean 1 - cos to fp32", "1 - cos", distance(ours, exact), name,
                            distance(open_rival().encode_each(ids), exact)))  # fmt: skip
        return results

    def float8(self) -> list[Result]:
        """512 tokens, against our own bfloat16."""
        ids = random_ids(self.model, [512] * 264)
        rates = []
        for dtype in ("float8", "bfloat16"):
            with self.open(dtype=dtype) as model:
                rates.append(264 * 512 / best_s(lambda model=model: encode_ids(model, ids)))
        return [result("float8, 512 tokens", "tokens/s", rates[0], "own bfloat16", rates[1])]

    def idle(self) -> list[Result]:
        """Share of the time in which the GPU ran no kernel: as the profiler sees it, from the
        first to the last, and its busy time beside that of the whole call without it."""
        texts = mixed_texts(self.folder, min(self.arguments.texts, 10000))
        wall_us = 1e6 * best_s(lambda: self.model.encode(texts))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            self.model.encode(texts)
        spans = kernel_spans(seen)
        gaps, whole = idle_gaps(spans)
        between = gaps[gaps > SAME_BATCH_US]
        print(f"{len(spans)} kernels, {len(between)} gaps between batches, longest", gaps.max())
        return [
            result("GPU idle, whole call", "share", 1.0 - (whole - gaps.sum()) / wall_us),
            result("GPU idle, under the profiler", "share", gaps.sum() / whole),
            result("GPU idle between batches, under the profiler", "share", between.sum() / whole),
        ]

    def retrieval(self) -> list[Result]:
        """The embedded model on its held-out tasks in float8, against our own bfloat16."""
        from training.mini.evaluate import embedder_encoder, measure, read_tasks

        scores: dict[str, dict[str, float]] = {"float8": {}, "bfloat16": {}}
        tasks = read_tasks(self.arguments.tasks)
        for dtype, values in scores.items():
            encode = embedder_encoder(self.folder, device="cuda", dtype=dtype)
            for task in tasks:
                queries, documents = encode(task.queries, True), encode(task.documents, False)
                values[task.name] = measure(task, queries, documents, queries.shape[1])
            values["mean"] = float(np.mean(list(values.values())))
        return [
            result(f"held-out tasks: {name}", "100 nDCG@10", scores["float8"][name], "own bfloat16",
                value)
            for name, value in scores["bfloat16"].items()
        ]  # fmt: skip

    def gpus(self) -> list[Result]:
        """One call over all GPUs, against one of them."""
        texts = mixed_texts(self.folder, self.arguments.texts)
        n_tokens = int(self.model.count_tokens(texts).sum())
        self.model.encode(texts[:1000])
        begin = time.perf_counter()
        rows = self.model.encode(texts)
        one_s = time.perf_counter() - begin
        with self.open(device="cuda:all") as model:
            name = f"mixed corpus on {model.device}"
            model.encode(texts[:4000])
            begin = time.perf_counter()
            others = model.encode(texts)
            all_s = time.perf_counter() - begin
        n_other = int((rows.view(np.uint32) != others.view(np.uint32)).any(axis=1).sum())
        return [
            result(name, "tokens/s", n_tokens / all_s, "own on cuda:0", n_tokens / one_s),
            result(f"rows of {len(rows)} with other bits than on one GPU", "rows", n_other),
        ]


def kernel_spans(seen: torch.profiler.profile) -> list[tuple[float, float]]:
    """Begin and end in microseconds of each kernel; copies are not among them."""
    gpu = torch.autograd.DeviceType.CUDA
    return [
        (event.time_range.start, event.time_range.end)
        for event in seen.events() or ()
        if event.device_type == gpu and not event.name.startswith("Mem")
    ]


def idle_gaps(spans: Sequence[tuple[float, float]]) -> tuple[npt.NDArray[np.float64], float]:
    """Lengths of the gaps that spans leave between their first begin and their last end."""
    begins, ends = np.array(sorted(spans)).T
    gaps = begins[1:] - np.maximum.accumulate(ends)[:-1]
    return gaps[gaps > 0], float(ends.max() - begins[0])


def distance(rows: np.ndarray, exact: np.ndarray) -> float:
    """Mean of 1 - cos of unit rows, without the cancellation of 1 - x."""
    return float(((rows.astype(np.float64) - exact) ** 2).sum(1).mean() / 2)


SECTIONS = ("load", "query", "lengths", "prefixes", "mixed", "parity")
ASKED_FOR = ("idle", "float8", "retrieval", "gpus")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help=",".join(SECTIONS + ASKED_FOR))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float8"))
    parser.add_argument("--alone", action="store_true", help="without rivals")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a rival too")
    parser.add_argument(
        "--tokens", type=lambda words: [int(word) for word in words.split(",")],
        default=[n for n, _, _ in LENGTHS], help="of the texts in lengths: 512,128,8192,32768",
    )  # fmt: skip
    parser.add_argument("--texts", type=int, default=100_000, help="of the mixed corpus")
    parser.add_argument("--rival-texts", type=int, default=2000, help="of it, for the rival")
    parser.add_argument("--tasks", type=Path, help="of retrieval: the folder of training/mini")
    arguments = parser.parse_args()
    benchmark = Benchmark(arguments)
    about = {"model": Path(benchmark.folder).name, "dtype": arguments.dtype}
    for name in arguments.only.split(","):
        begin = time.perf_counter()
        try:
            results = getattr(benchmark, name)()
        except Exception:  # the other results are worth having
            print(f"{name} failed:", file=sys.stderr)
            traceback.print_exc()
        else:
            record("gpu", arguments, [about | result for result in results], machine=gpu_words())
        print(f"{name}: {time.perf_counter() - begin:.1f} s", flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
