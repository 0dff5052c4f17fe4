"""The scheme "int8" on the CPU: kernels and rounding bit for bit, the forward pass, adapters.

The oracle is `tests/support/reference_int8.py`. Integer sums are exact and the chain over groups
is one fused multiply-add each, so products have the oracle's bits on every instruction set.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, Embedder, NonFiniteError
from tests.conftest import TEXTS, ModelMaker
from tests.support.c_build import EMULATOR, ENGINE, build
from tests.support.engines import (
    CORE,
    TOLERANCE,
    cpu_only,
    embed,
    engine_config,
    open_engine,
    random_texts,
    relative_errors,
    rms,
)
from tests.support.make_adapter import make_adapter, merge_into_copy
from tests.support.multiply_in_c import multiply_in_c
from tests.support.reference import Floats, Reference, round_bf16
from tests.support.reference_int8 import (
    LAYER_PARTS,
    Int8Reference,
    equalised,
    groups_of_int8,
    multiply_int8,
    rows_of_int8,
)
from tests.support.uneven import cosine_loss, make_uneven

pytestmark = cpu_only

ISAS = CORE.instruction_sets()
SHAPES = ["tiny64", "tiny128", "odd64", "odd128"]
LENGTHS = [1, 2, 15, 16, 17, 33, 64, 65, 129]
SHORT_LENGTHS = [*range(2, 18)]
ROUNDED_ALIKE = 0.05  # of D, for the median text of a model of one layer


# ---- products ----


def random_product(m: int, n: int, k: int, seed: int = 0) -> tuple[Floats, Any, Floats]:
    source = np.random.default_rng(seed)
    x = round_bf16(source.standard_normal((m, k)).astype(np.float32))
    x *= np.float32(2) ** source.integers(-40, 40, (m, 1)).astype(np.float32)
    w = source.integers(-128, 128, (n, k)).astype(np.int8)
    return x, w, source.uniform(1e-3, 1, n).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    # one of everything; odd everything; several blocks, tasks in m, in n, in k; tails
    [
        *[(1, 1, 1), (1, 16, 128), (2, 17, 127), (15, 33, 129), (16, 24, 256), (17, 97, 100)],
        *[(33, 13, 384), (48, 25, 72), (65, 130, 200), (96, 31, 1152), (300, 7, 130)],
        (81, 9, 2304),
    ],
)
def test_products_have_the_oracles_bits(isa: str, m: int, n: int, k: int) -> None:
    x, w, scales = random_product(m, n, k)
    expected = multiply_int8(*groups_of_int8(x), w, scales)
    np.testing.assert_array_equal(multiply_in_c(isa, 1 + m % 3, x, w, scales), expected)


@pytest.mark.skipif("avx512_vnni" not in ISAS, reason="needs AVX-512-VNNI")
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (17, 97, 100), (65, 130, 200), (96, 31, 1152)]
)
def test_avx_vnni_without_such_a_processor(m: int, n: int, k: int) -> None:
    """Its kernels, compiled for the same instruction in the encoding of AVX-512."""
    x, w, scales = random_product(m, n, k)
    expected = multiply_int8(*groups_of_int8(x), w, scales)
    found = multiply_in_c("avx_vnni", 1 + m % 3, x, w, scales, forced=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_activations(isa: str) -> None:
    """The largest sums there are, zeros, ties, and what is too small for a scale."""
    x, w, scales = random_product(16, 40, 256, seed=1)
    w[:8] = -128
    w[8:16] = 127
    x[0], x[1], x[2], x[3] = 1, -1, 0, 2.0**-120
    x[4, :128], x[5, 128:] = 0, 0
    x[6] = np.resize(np.arange(-127, 128, dtype=np.float32), 256) / 2  # half are ties
    x[7] = 3e38
    x = round_bf16(x)
    with np.errstate(over="ignore"):  # row 7
        expected = multiply_int8(*groups_of_int8(x), w, scales)
    found = multiply_in_c(isa, 2, x, w, scales)
    np.testing.assert_array_equal(found, expected)
    assert not found[2:4].any()
    assert found[:2].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(isa: str, value: float) -> None:
    x, w, scales = random_product(33, 20, 300, seed=2)
    clean = multiply_in_c(isa, 1, x, w, scales)
    x[17, 200] = value
    found = multiply_in_c(isa, 1, x, w, scales)
    assert np.isnan(found[17]).all()
    np.testing.assert_array_equal(np.delete(found, 17, 0), np.delete(clean, 17, 0))


# ---- weights ----


def rounded_in_c(folder: Path, config: dict[str, Any]) -> list[Any]:
    """The output of tests/c/round_to_int8.c as arrays."""
    sources = ["tests/c/round_to_int8.c", "tests/c/model_args.c", *ENGINE]
    program = build("round_to_int8", sources)
    names = ["hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads", "head_dim"]
    sizes = [str(config[name]) for name in [*names, "vocab_size"]]
    paths = [str(path) for path in sorted(folder.glob("*.safetensors"))]
    done = subprocess.run(
        [*EMULATOR, str(program), *sizes, *paths], capture_output=True, check=True
    )
    hidden, inter, layers, heads, kv_heads, dim = (config[name] for name in names)
    shapes = [(heads * dim, hidden), *[(kv_heads * dim, hidden)] * 2, (hidden, heads * dim)]
    shapes += [(inter, hidden), (inter, hidden), (hidden, inter)]
    arrays, at = [], 0
    for _ in range(layers):
        parts: list[tuple[str, int]] = [("<f4", hidden), ("<f4", hidden)]
        for n, k in shapes:
            parts += [("<f4", n), ("i1", n * k)]
        for dtype, n in parts:
            arrays.append(np.frombuffer(done.stdout, dtype, n, at))
            at += arrays[-1].nbytes
    assert at == len(done.stdout)
    return arrays


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_uneven(tmp_path_factory.mktemp("uneven"))


@pytest.mark.parametrize("shape", [*SHAPES, "uneven"])
def test_weights_have_the_oracles_bits(models: ModelMaker, uneven: Path, shape: str) -> None:
    folder = uneven if shape == "uneven" else models(shape)
    reference = Reference(folder, "bf16")
    weights = equalised(reference.weights, reference.config)
    if shape == "uneven":
        changed = sum(not np.array_equal(weights[n], reference.weights[n]) for n in weights)
        assert changed == 3 * len(LAYER_PARTS)
    found = iter(rounded_in_c(folder, engine_config(folder)))
    for layer in range(reference.config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            np.testing.assert_array_equal(next(found), weights[f"layers.{layer}.{norm}.weight"])
        for part in LAYER_PARTS:
            if "norm" not in part:
                values, scales = rows_of_int8(weights[f"layers.{layer}.{part}.weight"])
                np.testing.assert_array_equal(next(found), scales)
                np.testing.assert_array_equal(next(found), values.reshape(-1))


def test_equalisation_changes_no_bit_in_fp32(uneven: Path) -> None:
    reference = Reference(uneven)
    text = random_texts([40])[0]
    before = reference.raw_row(text)
    reference.weights = equalised(reference.weights, reference.config)
    np.testing.assert_array_equal(reference.raw_row(text), before)


def test_equalisation_removes_outliers(models: ModelMaker, uneven: Path) -> None:
    """The two models are the same in fp32; without it int8 would lose far more on one."""
    texts = random_texts([*range(10, 42, 4)], seed=4)
    exact = [Reference(uneven).raw_row(text) for text in texts]
    losses = {
        name: cosine_loss([reference.raw_row(text) for text in texts], exact).mean()
        for name, reference in (
            ("even", Int8Reference(models("tiny128"))),
            ("uneven", Int8Reference(uneven)),
            ("not equalised", Int8Reference(uneven, equalise=False)),
        )
    }
    # Channels within a factor of two of the median are left alone, and cost a little.
    assert losses["uneven"] < 1.25 * losses["even"], losses
    assert losses["not equalised"] > 5 * losses["even"], losses


# ---- the forward pass ----


@cache
def rows_of_lengths(folder: Path, lengths: tuple[int, ...]) -> tuple[list[Floats], float]:
    """The oracle's rows, and their distance from those in fp32, as in test_ops.py."""
    texts = random_texts(lengths)
    rounding, exact = Int8Reference(folder), Reference(folder)
    rows = [rounding.raw_row(text) for text in texts]
    return rows, rms(relative_errors(rows, [exact.raw_row(text) for text in texts]))


def engine_errors(folder: Path, lengths: list[int], isa: str) -> tuple[Floats, float]:
    expected, noise = rows_of_lengths(folder, tuple(lengths))
    engine = open_engine(folder, isa, dtype="int8")
    rows = embed(engine, random_texts(lengths), expected[0].size, normalize=False)
    engine.close()
    return relative_errors(rows, expected), noise


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_equals_the_oracle(models: ModelMaker, shape: str, isa: str) -> None:
    """As test_ops.py derives it: a value on the other side of a rounding makes others likely."""
    errors, noise = engine_errors(models(shape), LENGTHS, isa)
    assert rms(errors) < TOLERANCE * noise, (rms(errors) / noise, errors / noise)
    assert errors.max() < 4.0 * noise, errors / noise


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_roundings_are_the_named_ones(models: ModelMaker, shape: str, isa: str) -> None:
    errors, noise = engine_errors(models(shape, num_hidden_layers=1), SHORT_LENGTHS, isa)
    assert np.median(errors) < ROUNDED_ALIKE * noise, errors / noise


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", ["tiny64", "odd128"])
def test_the_rest_of_the_batch_changes_no_bit(models: ModelMaker, shape: str, isa: str) -> None:
    folder = models(shape)
    texts = random_texts(LENGTHS)
    engine = open_engine(folder, isa, num_threads=1, dtype="int8")
    alone = np.concatenate([embed(engine, [text], 64) for text in texts])
    np.testing.assert_array_equal(embed(engine, texts, 64), alone)
    np.testing.assert_array_equal(embed(engine, texts[::-1], 64), alone[::-1])
    for options in ({"num_threads": 2}, {"num_threads": 5}, {"batch_tokens": 300}):
        other = open_engine(folder, isa, dtype="int8", **options)
        np.testing.assert_array_equal(embed(other, texts, 64), alone, str(options))


def test_shared_prefix_changes_no_bit(models: ModelMaker) -> None:
    engine = open_engine(models("tiny128"), dtype="int8")
    prefix, *tails = random_texts([300, 1, 17, 64, 150])
    texts = [np.concatenate([prefix, tail]) for tail in tails]
    alone = np.concatenate([embed(engine, [text], 192) for text in texts])
    np.testing.assert_array_equal(embed(engine, texts, 192), alone)


@pytest.mark.parametrize(
    "layout", [{"dtype": "f32"}, {"shards": 3}, {"misalign": 1}, {"prefix": "model."}]
)
def test_layout_changes_no_bit(models: ModelMaker, layout: dict[str, Any]) -> None:
    texts = random_texts(LENGTHS)
    same = {"dtype": "f32"} if "dtype" in layout else {}
    expected = embed(open_engine(models("odd64", **same), dtype="int8"), texts, 72)
    rows = embed(open_engine(models("odd64", **layout), dtype="int8"), texts, 72)
    np.testing.assert_array_equal(rows, expected)


# ---- from Python ----


def test_not_on_a_gpu(models: ModelMaker) -> None:
    with pytest.raises(DeviceError, match="dtype int8: not on device cuda:0; use 'int8-weights'"):
        open_engine(models("tiny64"), device="cuda:0", dtype="int8")


def test_embedder(models: ModelMaker) -> None:
    folder = models("tiny64")
    with (
        Embedder(folder, device="cpu") as plain,
        Embedder(folder, device="cpu", dtype="int8") as model,
    ):
        assert model.dtype == "int8"
        assert model.fingerprint != plain.fingerprint
        assert model.info["owned_bytes"] > plain.info["owned_bytes"]
        losses = cosine_loss(model.encode(TEXTS), plain.encode(TEXTS))
        assert 0 < losses.max() < 0.02


def test_non_finite(poisoned_folder: Path) -> None:
    with Embedder(poisoned_folder, device="cpu", dtype="int8") as model:
        with pytest.raises(NonFiniteError):
            model.encode(["a", "~"])
        assert np.isfinite(model.encode(["a", "b"])).all()


def test_pages_in_bf16_are_released(models: ModelMaker) -> None:
    """Of the mapped file only embeddings stay, and what shares a page with them."""
    folder = models("small")
    engine = open_engine(folder, dtype="int8")
    embed(engine, random_texts([5, 70]), 32)
    path = re.escape(str((folder / "model.safetensors").resolve()))
    found = re.search(rf"{path}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    assert found is not None
    size_kb = (folder / "model.safetensors").stat().st_size // 1024
    assert int(found[1]) < size_kb / 4, (found[1], size_kb)
    engine.close()


def test_adapter(models: ModelMaker, tmp_path: Path) -> None:
    """An adapter's matrices are merged in bf16, then rounded: as in a merged model's folder."""
    base = models("tiny64")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "down_proj"])
    merged = merge_into_copy(base, adapter, tmp_path / "merged")
    with (
        Embedder(base, device="cpu", dtype="int8") as model,
        Embedder(merged, device="cpu", dtype="int8") as other,
    ):
        own = model.encode(TEXTS)
        owned_bytes = model.info["owned_bytes"]
        model.add_adapter("a", adapter)
        np.testing.assert_array_equal(model.encode(TEXTS), own)
        model.set_adapter("a")
        # The adapter is equalised by its base's scales, which here are those of the merged model.
        np.testing.assert_array_equal(model.encode(TEXTS), other.encode(TEXTS))
        assert model.info["owned_bytes"] > owned_bytes
        model.set_adapter(None)
        np.testing.assert_array_equal(model.encode(TEXTS), own)


def test_mini() -> None:
    """Its vectors of ordinary sentences stay within 2e-4 of those in bf16."""
    sentences = [*TEXTS[:1], "How tall is Mount Everest?", "def add(a, b): return a + b"]
    sentences += ["The cat sat on the mat.", "Rain is expected in the north on Sunday."]
    with (
        Embedder("mini", device="cpu") as plain,
        Embedder("mini", device="cpu", dtype="int8") as model,
    ):
        losses = cosine_loss(model.encode(sentences), plain.encode(sentences))
        assert losses.mean() < 2e-4, losses
