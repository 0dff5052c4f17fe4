"""The server on a GPU under load, beside the engine called directly in the same run.

    python -m benchmarks.serve_gpu --shape 0.6B --csv
    python -m benchmarks.serve_gpu --shape 4B --csv

The server is a process, and so are four groups of clients (serve_client.py), which ask for base64;
every first vector is compared. A load runs for --seconds, of which the first is not counted. With
`of_engine` its tokens/s are divided by those of `Embedder.encode_tokens` over the same texts,
measured right before. The last results are about fairness: newcomers at a loaded server, and single
queries beside a stream of the longest texts.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import random
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import (
    ROOT,
    machine_words,
    model_folder,
    n_cores,
    parser_of,
    print_table,
    record,
)
from benchmarks.serve import cpu_s
from qwen3_embed import Embedder
from tests.support.served import Served

N_PROCESSES = 4
WARM_S = 1.0
DIRECT_S = 1.0
N_NEWCOMERS = 256
MEAN_TOKENS, SIGMA = 130, 0.8  # of the mixed lengths: lognormal
WORDS = (  # each one token
    "time person year way day thing man world life hand part child eye woman place work week "
    "case point government company number group problem fact be have do say get make go know "
    "take see come think look want give use find tell ask work seem feel try leave call good "
    "new first last long great little own other old right big high different small large next "
    "early young important few public bad same able "
)


class Load(NamedTuple):
    """A load: so many connections that send requests of so many texts and words."""

    connections: int
    texts: int
    words: int  # 0: mixed lengths


LOADS = (
    Load(1, 1, 14),
    Load(16, 1, 30),
    Load(64, 1, 30),
    Load(256, 1, 30),
    Load(64, 8, 100),
    Load(64, 1, 300),
    Load(256, 1, 300),
    Load(64, 1, 0),
    Load(256, 1, 0),
)


class Texts:
    """The bodies of a load, their tokens, and the checksum of each body's first vector."""

    def __init__(self, model: Embedder, name: str, load: Load, n_bodies: int) -> None:
        chosen = random.Random(load.words + load.texts)
        mu = math.log(MEAN_TOKENS) - SIGMA**2 / 2
        words = WORDS.split()
        self.texts = []
        for i in range(n_bodies * load.texts):
            n_words = load.words or min(2000, max(1, round(chosen.lognormvariate(mu, SIGMA))))
            self.texts.append(" ".join([str(i), *chosen.choices(words, k=n_words - 1)]))
        per_body = [self.texts[i : i + load.texts] for i in range(0, len(self.texts), load.texts)]
        shared = {"model": name, "encoding_format": "base64"}
        self.bodies = [json.dumps({"input": texts} | shared) for texts in per_body]
        self.batch = model.tokenizer.encode(self.texts)
        self.tokens = self.batch.lengths.reshape(n_bodies, -1).sum(axis=1)
        rows = model.encode([texts[0] for texts in per_body])
        self.checksums = [zlib.crc32(base64.b64encode(row.tobytes())) for row in rows]


class Clients:
    """Some client processes; `wait` gives what they asked."""

    def __init__(
        self,
        port: int,
        texts: Texts,
        connections: int,
        start_s: float,
        stop_s: float,
        *,
        once: bool = False,
    ) -> None:
        n = min(N_PROCESSES, connections)
        spec = {"port": port, "bodies": texts.bodies, "checksums": texts.checksums}
        spec |= {"start_s": start_s, "stop_s": stop_s, "once": once}
        self._processes = []
        for i in range(n):
            share = connections // n + (i < connections % n)
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serve_client"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            assert process.stdin is not None
            own = {"connections": share, "first": i * 131}
            process.stdin.write(json.dumps(spec | own).encode())
            process.stdin.close()
            self._processes.append(process)

    def wait(self) -> tuple[list[tuple[int, float, float]], int]:
        """(body, begin, seconds) of each request, and how many were wrong or lost."""
        asked: list[tuple[int, float, float]] = []
        n_wrong = 0
        for process in self._processes:
            assert process.stdout is not None
            found = json.loads(process.stdout.read())
            process.wait()
            asked += [tuple(each) for each in found["asked"]]
            n_wrong += found["n_wrong"] + found["n_lost"]
        return asked, n_wrong


def soon() -> float:
    """A time by which all client processes have started."""
    return time.monotonic() + 1.0


def percentile_ms(taken_s: list[float], share: float) -> float:
    ordered = sorted(taken_s)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2)


def engine_tokens_per_s(model: Embedder, texts: Texts) -> float:
    """The rate of `encode_tokens` over the load's texts."""
    budget = (1 << 17) if model.device.startswith("cuda") else 1 << 13
    n_texts = max(1, int(np.searchsorted(texts.batch.cu_seqlens, budget)) - 1)
    lengths = np.diff(texts.batch.cu_seqlens)[:n_texts]
    n = max(1, budget // int(lengths.sum()))
    tokens = np.tile(texts.batch.tokens[: lengths.sum()], n)
    cu_seqlens = np.concatenate([[0], np.cumsum(np.tile(lengths, n))]).astype(np.int32)
    model.encode_tokens(tokens, cu_seqlens)
    begin = time.perf_counter()
    n_rounds = 0
    while time.perf_counter() - begin < DIRECT_S:
        model.encode_tokens(tokens, cu_seqlens)
        n_rounds += 1
    return n_rounds * len(tokens) / (time.perf_counter() - begin)


def engine_query_ms(model: Embedder, texts: list[str]) -> float:
    """Median of `encode` of one text, by one caller."""
    taken = []
    for text in texts[:300]:
        begin = time.perf_counter()
        model.encode(text)
        taken.append(time.perf_counter() - begin)
    return round(statistics.median(taken) * 1000, 3)


def measure_load(
    model: Embedder, served: Served, name: str, load: Load, n_bodies: int, seconds: float
) -> dict[str, Any]:
    texts = Texts(model, name, load, n_bodies)
    direct = engine_tokens_per_s(model, texts)
    query_ms = engine_query_ms(model, texts.texts) if load.connections == 1 else ""
    start_s = soon()
    clients = Clients(served.port, texts, load.connections, start_s, start_s + WARM_S + seconds)
    from_s = start_s + WARM_S
    time.sleep(max(0.0, from_s - time.monotonic()))
    before = cpu_s(served.process.pid)[1]
    time.sleep(seconds)
    cpu = cpu_s(served.process.pid)[1] - before
    asked, n_wrong = clients.wait()
    counted = [each for each in asked if from_s <= each[1] + each[2] <= from_s + seconds]
    taken = [each[2] for each in counted]
    n_tokens = int(sum(texts.tokens[each[0]] for each in counted))
    return {
        "what": f"{load.connections} x {load.texts} x {load.words or 'mixed'}",
        "requests": len(asked),
        "wrong": n_wrong,
        "requests_per_s": round(len(counted) / seconds, 1),
        "p50_ms": percentile_ms(taken, 0.5),
        "p99_ms": percentile_ms(taken, 0.99),
        "tokens_per_s": round(n_tokens / seconds),
        "engine_tokens_per_s": round(direct),
        "of_engine": round(n_tokens / seconds / direct, 3),
        "query_ms": query_ms,
        "cpu_ms": round(cpu / max(1, len(counted)) * 1000, 3),
    }


def measure_newcomers(model: Embedder, served: Served, name: str, n_bodies: int) -> dict[str, Any]:
    """256 clients come at once to a server with 64; each asks once."""
    texts = Texts(model, name, Load(64, 1, 30), n_bodies)
    start_s = soon()
    others = Clients(served.port, texts, 64, start_s, start_s + 4)
    newcomers = Clients(served.port, texts, N_NEWCOMERS, start_s + 2, start_s + 4, once=True)
    asked, n_wrong = others.wait()
    first, n_wrong_first = newcomers.wait()
    before = [each[2] for each in asked if each[1] < start_s + 2]
    return {
        "what": "256 newcomers beside 64 x 1 x 30",
        "wrong": n_wrong + n_wrong_first,
        "others_p50_ms": percentile_ms(before, 0.5),
        "slowest_ms": percentile_ms([each[2] for each in first], 1.0),
        "ratio": round(max(each[2] for each in first) / statistics.median(before), 2),
        "bar": 3 * (N_NEWCOMERS + 64) / 64,
    }


def measure_beside_long(
    model: Embedder, served: Served, name: str, n_bodies: int
) -> dict[str, Any]:
    """Single queries beside a stream of texts as long as the model takes."""
    n_words = min(model.max_length, 32768) * 4 // 5
    long = Texts(model, name, Load(1, 1, n_words), 4)
    tokens = long.batch.tokens[: long.batch.cu_seqlens[1]]
    cu_seqlens = np.array([0, len(tokens)], np.int32)
    passes = []
    for _ in range(3):
        begin = time.perf_counter()
        model.encode_tokens(tokens, cu_seqlens)
        passes.append(time.perf_counter() - begin)
    queries = Texts(model, name, Load(1, 1, 14), n_bodies)
    start_s = soon()
    stream = Clients(served.port, long, 2, start_s, start_s + 5)
    beside = Clients(served.port, queries, 1, start_s + 1, start_s + 5)
    asked, n_wrong = beside.wait()
    n_wrong += stream.wait()[1]
    p99_ms = percentile_ms([each[2] for each in asked], 0.99)
    return {
        "what": f"queries beside 2 streams of {len(tokens)} tokens",
        "wrong": n_wrong,
        "others_p50_ms": round(statistics.median(passes) * 1000, 2),
        "slowest_ms": p99_ms,
        "ratio": round(p99_ms / statistics.median(passes) / 1000, 2),
        "bar": 2,
    }


def measure(
    arguments: argparse.Namespace, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    results, fairness = [], []
    with Embedder(folder, device=arguments.device) as model:
        options = ["--model", str(folder), "--device", arguments.device, "--max-queue", "4096"]
        served = Served(*options, "--log-level", arguments.log_level, *arguments.serve_options)
        try:
            for load in LOADS:
                if not arguments.only or f"{load.connections}x{load.words}" in arguments.only.split(
                    ","
                ):
                    results.append(
                        measure_load(
                            model, served, folder.name, load, arguments.bodies, arguments.seconds
                        )
                    )
                    print_table(results[-1:])
            if not arguments.only or "newcomers" in arguments.only:
                fairness.append(measure_newcomers(model, served, folder.name, arguments.bodies))
            if not arguments.only or "long" in arguments.only:
                fairness.append(measure_beside_long(model, served, folder.name, arguments.bodies))
        finally:
            served.stop()
    return results, fairness


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--bodies", type=int, default=512, help="different requests of a load")
    parser.add_argument("--only", default="", help="loads, as 64x30,256x300,newcomers,long")
    parser.add_argument("--log-level", default="warning", help="of the server")
    parser.add_argument("--serve-options", nargs="*", default=[], help="for the server")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    results, fairness = measure(arguments, model_folder(arguments))
    shape = {"model": arguments.model.name if arguments.model else arguments.shape}
    machine = machine_words() if arguments.device == "cpu" else gpu_words()
    if results:
        record("serve_gpu", arguments, [shape | result for result in results], machine=machine)
    if fairness:
        record("serve_fair", arguments, [shape | result for result in fairness], machine=machine)
    print(f"{time.perf_counter() - begin:.0f} s in all")


def gpu_words() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", "0"]
    name, driver = subprocess.check_output(query, text=True).strip().split(", ")
    return f"{name}, driver {driver}, {n_cores()} cores"


if __name__ == "__main__":
    main()
