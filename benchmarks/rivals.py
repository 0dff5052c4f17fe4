"""The engine and Transformers on the same token ids, timed in turns.

Machines drift, so the two take turns within one process and each counts by its best
round. Transformers runs in bf16, in batches without padding, in every setting worth
trying (threads, attention); the setting that is best at first goes on to all rounds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.record import n_cores, seconds
from qwen3_embed import Embedder
from tests.support.rival import Transformers

# Before each turn: a rival's threads look for work for some milliseconds after their
# last, and would take a core from whoever comes next.
REST_S = 0.05

Texts = Sequence[npt.NDArray[np.int32]]


@dataclass(frozen=True)
class Setting:
    """Threads and attention implementation of a Transformers run."""

    n_threads: int
    attention: str

    def __str__(self) -> str:
        return f"{self.n_threads} threads, {self.attention}"


def settings() -> list[Setting]:
    counts = sorted({n_cores(), max(1, n_cores() // 2)}, reverse=True)
    return [Setting(n, attention) for n in counts for attention in ("sdpa", "eager")]


@dataclass(frozen=True)
class Times:
    """Seconds of each round, and Transformers' best setting."""

    ours: list[float]
    transformers: list[float]
    setting: Setting


class Contest:
    """One model folder opened by both."""

    def __init__(self, folder: Path) -> None:
        self.model = Embedder(folder, device="cpu")
        self.transformers = Transformers(folder, "bfloat16")

    def seconds_ours(self, texts: Texts) -> float:
        cu_seqlens = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int32)
        tokens = np.concatenate(texts)
        time.sleep(REST_S)
        return seconds(lambda: self.model.encode_tokens(tokens, cu_seqlens))

    def seconds_transformers(self, texts: Texts, setting: Setting) -> float:
        torch.set_num_threads(setting.n_threads)
        self.transformers.set_attention(setting.attention)
        time.sleep(REST_S)
        return seconds(lambda: self.transformers.encode(texts))

    def times(self, texts: Texts, n_rounds: int) -> Times:
        """Warms both up, chooses the setting, then times in turns."""
        self.seconds_ours(texts)
        self.seconds_transformers(texts, settings()[0])
        first = {setting: self.seconds_transformers(texts, setting) for setting in settings()}
        best = min(first, key=lambda setting: first[setting])
        ours, theirs = [], [first[best]]
        for _ in range(n_rounds):
            ours.append(self.seconds_ours(texts))
            theirs.append(self.seconds_transformers(texts, best))
        return Times(ours, theirs, best)


def random_texts(folder: Path, n_texts: int, n_tokens: int, seed: int = 0) -> Texts:
    """Random ids, so that no two texts begin alike and no prefix is shared."""
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    source = np.random.default_rng(seed)
    return list(source.integers(0, vocab_size, (n_texts, n_tokens), dtype=np.int32))
