"""Adapters on a GPU: the merged weights' vectors, whichever was in use before, on every GPU.

What tests/test_adapters.py holds of every device, it holds here too (QE_TEST_DEVICE=cuda).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder
from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.loading.device import list_gpus
from qwen3_embed.loading.files import find_model
from qwen3_embed.loading.hub_options import HubOptions
from tests.conftest import TEXTS, ModelMaker
from tests.cuda.reference_cuda import needs_gpu, open_cuda, reference_rows
from tests.support.engines import embed, random_texts, relative_errors, rms
from tests.support.make_adapter import (
    PREFIX,
    adapter_config,
    make_adapter,
    merge_into_copy,
    random_tensors,
    write_adapter,
)
from tests.support.reference import read_weights

pytestmark = needs_gpu

LENGTHS = (1, 2, 16, 17, 64, 65, 129, 300)  # together no small batch; each alone is one
# Parts of fused matrices alone, and with their neighbours.
TARGETS = (["q_proj"], ["k_proj", "up_proj"], ["v_proj", "o_proj", "gate_proj", "down_proj"])


def save_all_else(folder: Path, base: Path) -> Path:
    """An adapter of what no low-rank change is made to: the embedding and the norms, whole."""
    config = adapter_config(modules_to_save=["embed_tokens", "norm"], target_modules=["v_proj"])
    tensors = random_tensors(base, config)
    source = np.random.default_rng(6)
    for name, weight in read_weights(base).items():
        if name.endswith(("embed_tokens.weight", "norm.weight")):
            noise = source.uniform(0.8, 1.2, weight.shape)
            tensors[PREFIX + name] = (weight * noise).astype(np.float32)
    return write_adapter(folder, config, tensors)


@pytest.mark.parametrize("shape", ["tiny64", "odd64", "tiny128"])
def test_vectors_against_the_oracle(models: ModelMaker, tmp_path: Path, shape: str) -> None:
    """Bounds as of test_cuda_forward.py: the oracle computes with the merged weights."""
    base = models(shape)
    adapters = [
        make_adapter(tmp_path / f"{i}", base, seed=i, target_modules=targets)
        for i, targets in enumerate(TARGETS)
    ]
    adapters.append(save_all_else(tmp_path / "whole", base))
    texts = random_texts(LENGTHS)
    engine = open_cuda(base)
    plain = embed(engine, texts, engine_dim(base), normalize=False)
    for i, adapter in enumerate(adapters, 1):
        tensors = Adapter(adapter, "a", find_model(base, HubOptions())).tensors()
        assert engine.add_adapter(tensors) == i
    for i, adapter in enumerate(adapters, 1):
        merged = merge_into_copy(base, adapter, tmp_path / f"merged{i}")
        expected, noise = reference_rows(merged, LENGTHS)
        rows = with_adapter(engine, texts, i, plain.shape[1])
        errors = relative_errors(rows, expected)
        assert rms(errors) < 1.5 * noise, (adapter.name, errors / noise)
        assert errors.max() < 4.0 * noise, (adapter.name, errors / noise)
        assert rms(relative_errors(plain, expected)) > 5 * noise, "the adapter changes too little"
        alone = [with_adapter(engine, [text], i, plain.shape[1]) for text in texts]
        np.testing.assert_array_equal(np.concatenate(alone), rows)
    np.testing.assert_array_equal(
        embed(engine, texts, plain.shape[1], normalize=False), plain, "the model's own weights"
    )
    engine.close()


def engine_dim(folder: Path) -> int:
    return len(read_weights(folder)["norm.weight"])


def with_adapter(engine: Any, texts: Any, number: int, dim: int) -> Any:
    rows = engine.rows(len(texts), dim)
    cu_seqlens = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    engine.submit(np.concatenate(texts), cu_seqlens, rows, 0, False, number).wait()
    return rows


def test_a_graph_is_of_one_adapter(models: ModelMaker, tmp_path: Path) -> None:
    """Equal shapes in turns: each is launched, recorded, then replayed."""
    base = models("tiny64")
    folders = [make_adapter(tmp_path / f"{i}", base, seed=i) for i in range(3)]
    expected: dict[str | None, Any] = {}
    for name, folder in [(None, None), *((f.name, f) for f in folders)]:
        with Embedder(base, device="cuda", adapter=folder) as model:
            expected[name] = model.encode(TEXTS[:1])
    assert len({rows.tobytes() for rows in expected.values()}) == 4
    with Embedder(base, device="cuda") as model:
        for folder in folders:
            model.add_adapter(folder.name, folder)
        for name in [*expected, *reversed(expected)] * 4:
            model.set_adapter(name)
            np.testing.assert_array_equal(model.encode(TEXTS[:1]), expected[name])


def test_every_gpu_has_the_adapters(models: ModelMaker, tmp_path: Path) -> None:
    if len(list_gpus()) < 2:
        pytest.skip("needs two GPUs")
    base = models("tiny64")
    adapter = make_adapter(tmp_path / "a", base)
    texts = [f"{text} {i}" for i in range(300) for text in TEXTS]
    with Embedder(base, device="cuda:0", adapter=adapter) as one:
        expected = one.encode(texts)
    with Embedder(base, device="cuda:all", batch_tokens=256) as model:
        assert len(model._engines) > 1
        plain = model.encode(texts)
        model.add_adapter("a", adapter)
        model.set_adapter("a")
        np.testing.assert_array_equal(model.encode(texts), expected)
        model.set_adapter(None)
        np.testing.assert_array_equal(model.encode(texts), plain)
