"""int8 on the CPU against our own bf16 and against OpenVINO's int8, each on one instruction set.

    python -m benchmarks.int8 --openvino /path/to/venv/bin/python --csv

Everybody takes turns within one run and counts by the median. `ratio` is the rival's time over
ours: above 1 we are faster. On a busy machine, --threads 1 --clock cpu compares the seconds that
each process computed. Rivals run in benchmarks/openvino_rival.py, since ONEDNN_MAX_CPU_ISA is read
once per process, and benchmarks/llama_rival.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, model_folder, n_cores, parser_of, record
from qwen3_embed import Embedder, _core

SHAPES = ("4x512", "8x128", "16x32", "1x2048", "1x16")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
REST_S = 0.05  # before each turn: others' threads look for work for some milliseconds

# Ours, then the rival: (dtype, or q8_0 for the GGUF file, and instruction set), OpenVINO and its
# bound, or llama.cpp with the GGUF file.
PAIRS = (
    (("int8", "amx_bf16"), ("bfloat16", "amx_bf16")),
    (("int8", "avx512_bf16"), ("bfloat16", "avx512_bf16")),
    (("int8", "avx512_bf16"), ("openvino", "AVX512_CORE_VNNI")),
    (("int8", "avx512_vnni"), ("bfloat16", "avx2")),
    (("int8", "avx512_vnni"), ("openvino", "AVX512_CORE_VNNI")),
    (("int8", "avx_vnni"), ("openvino", "AVX2_VNNI")),
    (("int8", "avx2"), ("bfloat16", "avx2")),
    (("bfloat16", "avx512"), ("bfloat16", "avx2")),
    (("q8_0", "avx512_bf16"), ("bfloat16", "avx512_bf16")),
    (("q8_0", "avx2"), ("bfloat16", "avx2")),
    (("q8_0", "avx512_bf16"), ("llama.cpp", "native")),
    (("int8", "avx512_bf16"), ("llama.cpp", "native")),
)

Contender = tuple[str, str]
Run = Callable[[int, int], float]  # texts, tokens of each -> seconds


class Contenders:
    """Models that are open, by who they are."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments = folder, arguments
        self.runs: dict[Contender, Run] = {}

    def run_of(self, contender: Contender) -> Run | None:
        """None: not here."""
        kind, isa = contender
        if contender not in self.runs:
            if kind == "openvino":
                if self.arguments.openvino is None:
                    return None
                command = [self.arguments.openvino, "openvino_rival.py", str(self.folder), "int8"]
                self.runs[contender] = self._rival(command, isa)
            elif kind == "llama.cpp":
                if self.arguments.llama is None or self.arguments.gguf is None:
                    return None
                command = [self.arguments.llama, "llama_rival.py", str(self.arguments.gguf)]
                self.runs[contender] = self._rival(command)
            elif isa in _core.instruction_sets() and (kind != "q8_0" or self.arguments.gguf):
                self.runs[contender] = self._ours(kind, isa)
            else:
                return None
        return self.runs[contender]

    def _ours(self, dtype: str, isa: str) -> Run:
        os.environ["QWEN3_EMBED_ISA"] = isa
        folder, dtype = (self.arguments.gguf, "auto") if dtype == "q8_0" else (self.folder, dtype)
        model = Embedder(folder, device="cpu", dtype=dtype, num_threads=self.arguments.threads)
        del os.environ["QWEN3_EMBED_ISA"]
        vocab_size = json.loads((self.folder / "config.json").read_text())["vocab_size"]
        clock = CLOCKS[self.arguments.clock]

        def run(n_texts: int, n_tokens: int) -> float:
            source = np.random.default_rng(n_texts + n_tokens)
            tokens = source.integers(0, vocab_size, n_texts * n_tokens, dtype=np.int32)
            cu_seqlens = np.arange(0, n_texts * n_tokens + 1, n_tokens, dtype=np.int32)
            begin = clock()
            model.encode_tokens(tokens, cu_seqlens)
            return clock() - begin

        return run

    def _rival(self, command: list[str], isa: str = "") -> Run:
        python, program, *rest = command
        rival = subprocess.Popen(
            [python, str(ROOT / "benchmarks" / program), *rest, str(self.arguments.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {}),
        )
        assert rival.stdin is not None
        assert rival.stdout is not None
        ask, answers = rival.stdin, rival.stdout
        while (line := answers.readline()) != "ready\n":
            if not line:
                raise SystemExit("error: the rival did not start")

        def run(n_texts: int, n_tokens: int) -> float:
            print(json.dumps([n_texts, n_tokens, self.arguments.clock]), file=ask, flush=True)
            return float(answers.readline())

        return run


def compare(contenders: Contenders, pairs: list[tuple[Contender, Contender]]) -> list[Any]:
    """A result per pair and workload; all of a workload's contenders take turns."""
    results = []
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    for shape in contenders.arguments.shapes:
        n_texts, n_tokens = map(int, shape.split("x"))
        times: dict[Contender, list[float]] = {name: [] for name in names}
        for turn in range(contenders.arguments.rounds + 1):
            for name in names:
                time.sleep(REST_S)
                run = contenders.run_of(name)
                assert run is not None
                taken = run(n_texts, n_tokens)
                if turn > 0:  # the first warms up
                    times[name].append(taken)
        for ours, rival in pairs:
            ours_s, rival_s = (statistics.median(times[name]) for name in (ours, rival))
            results.append(
                {
                    "texts": n_texts,
                    "tokens": n_tokens,
                    "threads": contenders.arguments.threads,
                    "clock": contenders.arguments.clock,
                    "ours": " ".join(ours),
                    "rival": " ".join(rival),
                    "ours_ms": round(ours_s * 1e3, 2),
                    "rival_ms": round(rival_s * 1e3, 2),
                    "ratio": round(rival_s / ours_s, 3),
                }
            )
            print(results[-1], flush=True)
    return results


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--openvino", type=str, help="Python that has OpenVINO; none: left out")
    parser.add_argument("--llama", type=str, help="Python that has llama.cpp; needs --gguf")
    parser.add_argument("--gguf", type=Path, help="the same model in Q8_0; none: left out")
    parser.add_argument("--threads", type=int, default=n_cores())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contender")
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="texts x tokens")
    parser.add_argument("--only", nargs="*", default=[], help="pairs that name one of these")
    arguments = parser.parse_args()
    contenders = Contenders(model_folder(arguments), arguments)
    wanted = [
        pair
        for pair in PAIRS
        if not arguments.only or set(arguments.only) & {word for name in pair for word in name}
    ]
    pairs = [pair for pair in wanted if all(contenders.run_of(name) for name in pair)]
    record("int8_cpu", arguments, compare(contenders, pairs))


if __name__ == "__main__":
    main()
