"""Parity with Transformers on the 0.6B shape: random weights, the real tokenizer.

The truth is Transformers in fp32. Transformers in bf16 rounds more often than the engine
(the residual stream, cos and sin, every norm twice), so its own distance from the truth
is the yardstick: the engine's must not be larger.

`benchmarks/parity.py` runs all 64 texts; here the texts between 600 tokens and the
longest are left out, for time: 56 texts, 7,500 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qwen3_embed import Embedder
from tests.conftest import ModelMaker
from tests.support.texts import parity_texts

pytest.importorskip("torch")
from tests.support.rival import Floats, Transformers, token_ids


@dataclass
class Parity:
    """1 - cos to Transformers fp32, one value per text."""

    n_tokens: list[int]
    ours: npt.NDArray[np.float64]
    transformers_bf16: npt.NDArray[np.float64]

    @property
    def ratio(self) -> float:
        return float(self.ours.mean() / self.transformers_bf16.mean())


def cosine_distances(rows: Floats, expected: Floats) -> npt.NDArray[np.float64]:
    """1 - cos in float64; as half the squared distance of unit rows, exact near 0."""
    left, right = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        for x in (rows, expected)
    )
    squares: npt.NDArray[np.float64] = np.sum((left - right) ** 2, axis=1) / 2.0
    return squares


def measure(folder: Path, texts: Sequence[str]) -> Parity:
    """Encodes the texts three times: Transformers fp32 and bf16, and the engine."""
    ids = token_ids(folder, texts)
    expected = Transformers(folder, "float32").encode_each(ids)
    rounded = Transformers(folder, "bfloat16").encode_each(ids)
    with Embedder(folder, device="cpu") as model:
        counts = [len(text_ids) for text_ids in ids]
        assert list(model.count_tokens(texts)) == counts
        rows = model.encode(texts)
        cu_seqlens = np.cumsum([0, *counts], dtype=np.int32)
        same_ids = model.encode_tokens(np.concatenate(ids).astype(np.int32), cu_seqlens)
    np.testing.assert_array_equal(rows, same_ids)
    return Parity(counts, cosine_distances(rows, expected), cosine_distances(rounded, expected))


def test_no_further_from_fp32_than_transformers_bf16(models: ModelMaker) -> None:
    folder = models("0.6B")
    texts = parity_texts()
    lengths = [len(ids) for ids in token_ids(folder, texts)]
    kept = [t for t, n in zip(texts, lengths, strict=True) if n <= 600 or n == max(lengths)]
    parity = measure(folder, kept)
    assert max(parity.n_tokens) > 1500
    assert min(parity.n_tokens) == 1
    assert parity.ratio < 1.0, parity
    assert parity.ours.max() < parity.transformers_bf16.max(), parity
