"""dtype="float8": right to e4m3's rounding, and the same bits always.

The reference rounds rows of weights and of what products read to e4m3, each by a factor
of its own, where the engine does. What it leaves out is that the tensor cores add up
with about 14 bits, which is small beside the 4 bits of what is added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder
from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.loading.files import find_model
from qwen3_embed.loading.hub_options import HubOptions
from tests.conftest import ModelMaker
from tests.cuda.reference_cuda import CudaReference, change_weights, needs_gpu, open_cuda
from tests.support.engines import Tokens, embed, random_texts, relative_errors, rms
from tests.support.make_adapter import make_adapter, merge_into_copy
from tests.support.make_model import make_model
from tests.support.reference import Floats, Reference

pytestmark = needs_gpu

LENGTHS = [1, 2, 16, 17, 33, 63, 64, 65, 129, 300]
LARGEST = 448.0  # of e4m3


def round_rows(x: Floats) -> Floats:
    """The nearest e4m3 values, times the row's factor."""
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(LARGEST)
    y = x / np.where(scale > 0, scale, 1)
    exponent = np.floor(np.log2(np.maximum(np.abs(y), 2.0**-6)))
    step = np.exp2(exponent - 3)  # three bits behind the leading one
    return (np.rint(y / step) * step * scale).astype(np.float32)


class Float8Reference(CudaReference):
    """Rounds also what the products of a layer read to e4m3, row by row."""

    def weight(self, layer: int, name: str) -> Floats:
        weight = super().weight(layer, name)
        return round_rows(weight) if weight.ndim == 2 else weight

    def run_layer(self, layer: int, h: Floats) -> Floats:
        x = self.rms_norm(h, self.weight(layer, "input_layernorm"))
        h = self.add(h, self.attention(layer, x) @ self.weight(layer, "self_attn.o_proj").T)
        x = self.rms_norm(h, self.weight(layer, "post_attention_layernorm"))
        return self.add(h, self.mlp(layer, x))

    def attention(self, layer: int, x: Floats) -> Floats:
        return round_rows(super().attention(layer, round_rows(x)))

    def mlp(self, layer: int, x: Floats) -> Floats:
        x = round_rows(x)
        gate = x @ self.weight(layer, "mlp.gate_proj").T
        up = x @ self.weight(layer, "mlp.up_proj").T
        return round_rows(self.swiglu(gate, up)) @ self.weight(layer, "mlp.down_proj").T


def errors_of(folder: Path, texts: Tokens) -> tuple[Floats, Floats, float]:
    """The engine's distance from the exact rows and from the reference; the latter's own."""
    exact = [Reference(folder).raw_row(text) for text in texts]
    rounded = [Float8Reference(folder, "bf16").raw_row(text) for text in texts]
    engine = open_cuda(folder, dtype="float8")
    rows = embed(engine, texts, exact[0].size, normalize=False)
    engine.close()
    noise = rms(relative_errors(rounded, exact))
    return relative_errors(rows, exact), relative_errors(rows, rounded), noise


@pytest.mark.parametrize(
    "changes",
    [{"shape": "tiny128"}, {"shape": "tiny64"}, {"shape": "small"}, {"shape": "odd128"}],
    ids=str,
)
def test_errors_are_those_of_the_format(models: ModelMaker, changes: dict[str, Any]) -> None:
    """Roundings of the same kind and number, though not the same ones after some layers.

    So both are equally far from the exact rows; 1.5 leaves room for ten texts being few.
    """
    errors, _, noise = errors_of(models(**changes), random_texts(LENGTHS))
    assert rms(errors) < 1.5 * noise, (rms(errors) / noise, errors / noise)


@pytest.mark.parametrize("shape", ["tiny128", "tiny64", "odd64"])
def test_roundings_are_the_named_ones(models: ModelMaker, shape: str) -> None:
    """Of one layer's values a few fall to the other side of a step.

    Such a value is a whole step off, 12 times the mean square of rounding: where 2 % do,
    the distance is half the noise. With a wrong factor or place it is above the noise.
    """
    folder = models(shape, num_hidden_layers=1)
    _, errors, noise = errors_of(folder, random_texts([*range(2, 18)] * 2))
    assert np.median(errors) < 0.7 * noise, errors / noise


@pytest.mark.parametrize("shape", ["tiny128", "odd64"])
def test_company_changes_no_bit(models: ModelMaker, shape: str) -> None:
    texts = random_texts(LENGTHS)
    engine = open_cuda(models(shape), dtype="float8")
    expected = np.concatenate([embed(engine, [text], 64) for text in texts])
    for _ in range(2):  # the second time as graphs
        again = np.concatenate([embed(engine, [text], 64) for text in texts])
        np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(embed(engine, texts, 64), expected)
    np.testing.assert_array_equal(embed(engine, texts[::-1], 64), expected[::-1])
    np.testing.assert_array_equal(embed(engine, texts * 40, 64), np.tile(expected, (40, 1)))


def test_activations_past_fp16(tmp_path: Path) -> None:
    """A residual stream in the millions, as the first layer leaves it."""
    folder = make_model(tmp_path / "large", "tiny128")
    change_weights(folder, "layers.0.mlp.down_proj.weight", 2.0**22)
    texts = random_texts(LENGTHS)
    errors, _, noise = errors_of(folder, texts)
    assert rms(errors) < 1.5 * noise, (rms(errors) / noise, errors / noise)


def test_rows_of_nothing(tmp_path: Path) -> None:
    """Rows of zeros have no largest value to be divided by, and some are nearly zeros."""
    folder = make_model(tmp_path / "nothing", "tiny128")
    change_weights(folder, "embed_tokens.weight", 0.0, slice(5 * 192, 6 * 192))
    change_weights(folder, "embed_tokens.weight", 2.0**-120, slice(6 * 192, 7 * 192))
    none, little = np.full(20, 5, np.int32), np.full(20, 6, np.int32)
    healthy = random_texts([3, 64, 200])
    for text in healthy:
        text[::3] = 5
        text[1::5] = 6
    engine = open_cuda(folder, dtype="float8")
    rows = embed(engine, [none, little, *healthy], 192, normalize=False)
    np.testing.assert_array_equal(rows[0], 0.0)
    assert 0.0 < np.abs(rows[1]).max() < 1e-25
    errors, _, noise = errors_of(folder, healthy)
    assert rms(errors) < 1.5 * noise, (rms(errors) / noise, errors / noise)


def test_a_neighbours_nan_stays_there(tmp_path: Path) -> None:
    """A text that is no number beside healthy ones: it fails by index, they keep their bits."""
    folder = make_model(tmp_path / "nan", "tiny128", seed=7)
    change_weights(folder, "embed_tokens.weight", np.nan, slice(5 * 192, 6 * 192))
    engine = open_cuda(folder, dtype="float8")
    texts = [text[text != 5] for text in random_texts([40, 64, 30, 200, 129])]
    expected = embed(engine, texts, 192)
    for length in (1, 64, 300):
        for place in range(len(texts) + 1):
            sick = np.concatenate([texts[3], texts[3]])[:length].copy()
            sick[length // 2] = 5
            mixed = [*texts[:place], sick, *texts[place:]]
            cu_seqlens = np.cumsum([0, *map(len, mixed)], dtype=np.int32)
            rows = engine.rows(len(mixed), 192)
            job = engine.submit(np.concatenate(mixed).astype(np.int32), cu_seqlens, rows, 0, True)
            with pytest.raises(ArithmeticError) as failure:
                job.wait()
            assert failure.value.index == place
            np.testing.assert_array_equal(np.delete(rows, place, axis=0), expected)
    np.testing.assert_array_equal(embed(engine, texts, 192), expected)


def test_nan_weights(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "nan", "tiny64")
    change_weights(folder, "layers.1.mlp.up_proj.weight", np.nan, slice(0, 1))
    engine = open_cuda(folder, dtype="float8")
    with pytest.raises(ArithmeticError):
        embed(engine, random_texts([5, 9]), 64)


def test_plans_are_kept(models: ModelMaker, tmp_path: Path) -> None:
    """In one file with those of bfloat16, without taking each other's place."""
    texts = random_texts(LENGTHS)
    expected = {}
    for _ in range(2):
        for dtype in ("bfloat16", "float8"):
            engine = open_cuda(models("tiny64"), dtype=dtype, cache_folder=str(tmp_path / "plans"))
            rows = embed(engine, texts, 64)
            np.testing.assert_array_equal(rows, expected.setdefault(dtype, rows))
    assert (expected["bfloat16"] != expected["float8"]).any()


def test_a_cache_tells_dtypes_apart(models: ModelMaker, tmp_path: Path) -> None:
    texts = ["one", "two", "three"]
    rows = {}
    for dtype in ("bfloat16", "float8"):
        for _ in range(2):
            with Embedder(
                models("tiny64"), device="cuda", dtype=dtype, cache=tmp_path / "vectors"
            ) as model:
                found = model.encode(texts)
                np.testing.assert_array_equal(found, rows.setdefault(dtype, found))
    assert (rows["bfloat16"] != rows["float8"]).any(axis=1).all()


def test_adapters(models: ModelMaker, tmp_path: Path) -> None:
    """Rounded as the merged model's weights are: the same bits. Parts of fused matrices, too."""
    base = models("odd64")
    texts = random_texts(LENGTHS)
    engine = open_cuda(base, dtype="float8")
    plain = embed(engine, texts, 72)
    for number, targets in enumerate((["q_proj", "up_proj"], ["v_proj", "o_proj", "down_proj"]), 1):
        adapter = make_adapter(tmp_path / f"{number}", base, seed=number, target_modules=targets)
        tensors = Adapter(adapter, "a", find_model(base, HubOptions())).tensors()
        assert engine.add_adapter(tensors) == number
        merged = merge_into_copy(base, adapter, tmp_path / f"merged{number}")
        expected = embed(open_cuda(merged, dtype="float8"), texts, 72)
        rows = engine.rows(len(texts), 72)
        cu_seqlens = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        engine.submit(np.concatenate(texts), cu_seqlens, rows, 0, True, number).wait()
        np.testing.assert_array_equal(rows, expected)
        assert (rows != plain).any(axis=1).all()
    np.testing.assert_array_equal(embed(engine, texts, 72), plain)
