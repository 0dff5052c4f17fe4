"""Measures a model's speed and the limits of its device: `qwen3-embed bench`.

Token ids are random, because the work depends on lengths alone. Every figure is the best of several
rounds, because disturbances only ever add time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ..embedder import Embedder
from ..loading.config import ModelConfig

__all__ = ["Bench", "Ceiling", "Query", "Throughput", "as_dict", "run_bench"]

_LENGTHS = (16, 64, 128, 512, 2048, 8192, 32768)
_BATCHES = 3  # least number of forward passes per call, so that its ends hardly count
_BYTES_PER_WEIGHT = {"bfloat16": 2, "float8": 1, "int8": 1, "int8-weights": 1}
_QUERY = "What is the capital of China?"


class Ceiling(NamedTuple):
    """The device's measured limits: matrix products, in bf16 or in int8, and memory bandwidth."""

    tflops: float
    gb_per_s: float


class Throughput(NamedTuple):
    """Throughput on texts of one length.

    Attributes
    ----------
    n_tokens, n_texts : int
        Tokens per text; texts per call.
    tokens_per_s : float
        Rate of whole calls, from ids in NumPy to vectors in NumPy.
    tflops : float
        Arithmetic that the model needs at this rate, attention included.
    of_ceiling : float
        `tflops` divided by the ceiling's.
    """

    n_tokens: int
    n_texts: int
    tokens_per_s: float
    tflops: float
    of_ceiling: float


class Query(NamedTuple):
    """One query at a time, from str to vector, tokenising included.

    Attributes
    ----------
    n_tokens : int
        Instruction and end token included.
    median_ms, best_ms : float
    floor_ms : float
        Time to read every weight once at the ceiling's bandwidth.
    """

    n_tokens: int
    median_ms: float
    best_ms: float
    floor_ms: float


class Bench(NamedTuple):
    """All figures of one run."""

    model: str
    device: str
    kernels: str
    dtype: str
    load_s: float
    load_gb_per_s: float
    ceiling: Ceiling
    throughput: list[Throughput]
    query: Query


def run_bench(
    open_model: Callable[[], Embedder],
    *,
    seconds: float = 1.0,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bench:
    """Opens a model, measures, and closes it.

    Parameters
    ----------
    open_model : callable
    seconds : float
        Measuring time for each length and for the queries; each has at least one call.
    on_step : callable
        Called with the name of the next measurement.

    Returns
    -------
    Bench
    """
    on_step("load")
    begin = time.perf_counter()
    with open_model() as model:
        load_s = time.perf_counter() - begin
        on_step("ceiling")
        flops, bytes_per_s = model.measure_ceiling()
        info, shape = model.info, model.config
        lengths = [n for n in _LENGTHS if n <= model.max_length]
        throughput = []
        for n_tokens in lengths:
            on_step(f"{n_tokens} tokens")
            throughput.append(_throughput(model, n_tokens, seconds, flops))
        on_step("query")
        return Bench(
            model=model.name,
            device=model.device,
            kernels=info["kernels"],
            dtype=model.dtype,
            load_s=load_s,
            load_gb_per_s=(info["mapped_bytes"] + info["owned_bytes"]) / load_s / 1e9,
            ceiling=Ceiling(flops / 1e12, bytes_per_s / 1e9),
            throughput=throughput,
            query=_query(model, seconds, _layer_weights(shape) * _weight_bytes(model), bytes_per_s),
        )


def _throughput(model: Embedder, n_tokens: int, seconds: float, peak_flops: float) -> Throughput:
    n_devices = len(model.device.split(","))
    n_texts = max(1, -(-_BATCHES * model.info["batch_tokens"] * n_devices // n_tokens))
    source = np.random.default_rng(0)
    vocab_size = model.config.vocab_size

    def call(n: int) -> float:
        tokens = source.integers(0, vocab_size, n * n_tokens, dtype=np.int32)
        cu_seqlens = np.arange(0, n * n_tokens + 1, n_tokens, dtype=np.int32)
        begin = time.perf_counter()
        model.encode_tokens(tokens, cu_seqlens)
        return time.perf_counter() - begin

    n_most, n_texts = n_texts, 1
    call(n_texts)  # warms up
    while n_texts < n_most and call(n_texts) < seconds / 4:  # fewer on a slow device
        n_texts = min(2 * n_texts, n_most)
    best_s = min(_repeat(lambda: call(n_texts), seconds))
    tokens_per_s = n_texts * n_tokens / best_s
    tflops = tokens_per_s * flops_per_token(model.config, n_tokens) / 1e12
    return Throughput(n_tokens, n_texts, tokens_per_s, tflops, tflops * 1e12 / peak_flops)


def _query(model: Embedder, seconds: float, weight_bytes: float, bytes_per_s: float) -> Query:
    n_tokens = int(model.count_tokens(_QUERY, prompt=model.prompts.get("query", "")))

    def call() -> float:
        begin = time.perf_counter()
        model.encode_query(_QUERY)
        return time.perf_counter() - begin

    call()
    times = _repeat(call, seconds)
    floor_ms = weight_bytes / bytes_per_s * 1e3
    return Query(n_tokens, median(times) * 1e3, min(times) * 1e3, floor_ms)


def _repeat(call: Callable[[], float], seconds: float) -> list[float]:
    """Times of calls repeated for `seconds`; the first is a warm-up if there are more."""
    times = [call()]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        times.append(call())
    return times[1:] or times


def _layer_weights(config: ModelConfig) -> int:
    """Number of weights in the matrices of all layers."""
    q_width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention = config.hidden_size * (2 * q_width + 2 * kv_width)
    return config.n_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def flops_per_token(config: ModelConfig, n_tokens: int) -> float:
    """FLOP: two per weight, and two products of each query with half of the keys, on average."""
    attention = config.n_layers * 4 * config.n_heads * config.head_dim * (n_tokens + 1) / 2
    return 2 * _layer_weights(config) + attention


def _weight_bytes(model: Embedder) -> int:
    return _BYTES_PER_WEIGHT[model.dtype]


def as_dict(bench: Bench) -> dict[str, Any]:
    """The figures as a dict that JSON can hold."""
    return bench._asdict() | {
        "ceiling": bench.ceiling._asdict(),
        "throughput": [each._asdict() for each in bench.throughput],
        "query": bench.query._asdict(),
    }
