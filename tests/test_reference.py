"""Pins tests/support/reference.py to Transformers, so that it can judge the engine.

Both compute in fp32 and differ in the order of sums and the last bit of cos, sin and
exp: about 1e-7 per step. Attention scores of size 10 turn that into 1e-6 of a weight, and
three layers of some ten steps each into several 1e-6 of the row; Transformers itself
lies 5e-6 from its own float64. 2e-5 is allowed; the mildest mutant lies above 1e-1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.make_model import YARN, make_model
from tests.support.reference import Reference, round_bf16

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 2e-5
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "two_heads_a_group": ("tiny64", {}),
    "four_heads_a_group": ("tiny128", {}),
    "one_head_a_group": ("odd64", {}),
    "eight_heads_a_group": ("odd128", {}),
    "small_theta": ("tiny64", {"rope_theta": 10000}),
    "large_eps": ("tiny64", {"rms_norm_eps": 1e-3}),
    "yarn": ("tiny128", {"rope_scaling": YARN}),
}


def transformers_rows(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """(T, C) Transformers' last hidden state in fp32."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.from_numpy(tokens)[None]).last_hidden_state[0].numpy()


@pytest.mark.parametrize("case", CASES)
def test_reference_equals_transformers(case: str, tmp_path: Path) -> None:
    shape, changes = CASES[case]
    folder = make_model(tmp_path, shape, **changes)
    tokens = np.random.default_rng(1).integers(0, 320, 200)
    expected = transformers_rows(folder, tokens)
    reference = Reference(folder)
    for n_tokens in (1, 2, 64, 65, 200):
        row = reference.raw_row(tokens[:n_tokens])
        error = np.linalg.norm(row - expected[n_tokens - 1]) / np.linalg.norm(row)
        assert error < TOLERANCE, (n_tokens, error)


def test_round_bf16_equals_torch() -> None:
    values = np.random.default_rng(2).standard_normal(10000).astype(np.float32)
    values[:4] = [0.0, -0.0, 1.00390625, 1.01171875]  # two exact ties
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(round_bf16(values).view(np.uint32), expected.view(np.uint32))
