"""Mutants: formulas that are wrong in one place must be far from the engine.

`test_ops.py` lets the engine lie 1.5 D from the reference. Here each mutant of the
reference lies at least ten times as far from the engine, on the same kind of texts: an
engine with that fault would fail by a factor of ten, not by a hair.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ModelMaker
from tests.support.engines import (
    TOLERANCE,
    embed,
    open_engine,
    random_texts,
    reference_rows,
    relative_errors,
    rms,
)
from tests.support.reference import Floats, Reference, rope_frequencies

TEXTS = random_texts([2, 5, 9, 16, 17, 33, 64, 65, 100, 129])


class QueriesRotatedOneTooFar(Reference):
    def q_positions(self, n_tokens: int) -> Floats:
        return super().q_positions(n_tokens) + np.float32(1)


class KeysRotatedOneTooFar(Reference):
    def k_positions(self, n_tokens: int) -> Floats:
        return super().k_positions(n_tokens) + np.float32(1)


class RopeFrequenciesOffByOne(Reference):
    def __init__(self, folder: Path, round_to: str | None) -> None:
        super().__init__(folder, round_to)
        self.frequencies = np.roll(self.frequencies, 1)


class OtherTheta(Reference):
    def __init__(self, folder: Path, round_to: str | None) -> None:
        super().__init__(folder, round_to)
        self.frequencies = rope_frequencies(self.config | {"rope_theta": 10000})[0]


class RopeInterleaved(Reference):
    def rope(self, x: Floats, positions: Floats) -> Floats:
        halves = np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
        left, right = np.split(super().rope(halves, positions), 2, axis=-1)
        return np.stack([left, right], axis=-1).reshape(x.shape)


class RopeBackwards(Reference):
    def rope(self, x: Floats, positions: Floats) -> Floats:
        return super().rope(x, -positions)


class NoQNorm(Reference):
    def q_norm(self, q: Floats, weight: Floats) -> Floats:
        return q


class NoKNorm(Reference):
    def k_norm(self, k: Floats, weight: Floats) -> Floats:
        return k


class QAndKNormsSwapped(Reference):
    def weight(self, layer: int, name: str) -> Floats:
        swapped = {"self_attn.q_norm": "self_attn.k_norm", "self_attn.k_norm": "self_attn.q_norm"}
        return super().weight(layer, swapped.get(name, name))


class WrongHeadMap(Reference):
    def kv_head(self, head: int) -> int:
        return head % int(self.config["num_key_value_heads"])


class NoCausalMask(Reference):
    def visible(self, queries: Any, keys: Any) -> Any:
        return keys >= 0 * queries


class MaskHidesItself(Reference):
    def visible(self, queries: Any, keys: Any) -> Any:
        return (keys < queries) | (keys == 0)


class LargeEps(Reference):
    def __init__(self, folder: Path, round_to: str | None) -> None:
        super().__init__(folder, round_to)
        self.eps = np.float32(1e-3)


class NoFinalNorm(Reference):
    def final_norm(self, row: Floats) -> Floats:
        return row


class LastButOnePooled(Reference):
    def pooled_row(self, h: Floats) -> Floats:
        return h[-2]


class GateAndUpSwapped(Reference):
    def swiglu(self, gate: Floats, up: Floats) -> Floats:
        return super().swiglu(up, gate)


class NoScoreScale(Reference):
    def __init__(self, folder: Path, round_to: str | None) -> None:
        super().__init__(folder, round_to)
        self.score_scale = np.float32(1)


class ScoresScaledByHidden(Reference):
    def __init__(self, folder: Path, round_to: str | None) -> None:
        super().__init__(folder, round_to)
        self.score_scale = np.float32(2 * self.config["head_dim"]) ** np.float32(-0.5)


class NoResidualAroundAttention(Reference):
    def add(self, residual: Floats, update: Floats) -> Floats:
        return update


class OneNormForBothBlocks(Reference):
    def weight(self, layer: int, name: str) -> Floats:
        return super().weight(layer, name.replace("post_attention_layernorm", "input_layernorm"))


MUTANTS = [
    QueriesRotatedOneTooFar,
    KeysRotatedOneTooFar,
    RopeFrequenciesOffByOne,
    OtherTheta,
    RopeInterleaved,
    RopeBackwards,
    NoQNorm,
    NoKNorm,
    QAndKNormsSwapped,
    WrongHeadMap,
    NoCausalMask,
    MaskHidesItself,
    LargeEps,
    NoFinalNorm,
    LastButOnePooled,
    GateAndUpSwapped,
    NoScoreScale,
    ScoresScaledByHidden,
    NoResidualAroundAttention,
    OneNormForBothBlocks,
]


@cache
def engine_rows(folder: Path) -> tuple[Floats, float]:
    """The engine's raw rows, once they have passed, and D."""
    expected, noise = reference_rows(folder, TEXTS)
    rows = embed(open_engine(folder), TEXTS, expected[0].size, normalize=False)
    assert rms(relative_errors(rows, expected)) < TOLERANCE * noise
    return rows, noise


@pytest.mark.parametrize("shape", ["tiny64", "tiny128"])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutant_fails_tenfold(models: ModelMaker, mutant: type[Reference], shape: str) -> None:
    rows, noise = engine_rows(models(shape))
    reference = mutant(models(shape), "bf16")
    distance = rms(relative_errors(rows, [reference.raw_row(text) for text in TEXTS]))
    assert distance > 10.0 * TOLERANCE * noise, distance / noise
