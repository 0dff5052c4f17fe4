"""dtype="int8-weights" and the table of embeddings on the host: right, the same bits always, and
within the memory that was promised.

The reference equalises the weights, rounds their rows to int8 and multiplies by the bf16 that
these expand to, as the engine does: so the engine is as close to it as in bf16. The products
alone, bit by bit, are in test_canonical.py.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, Reranker
from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.cli import main
from qwen3_embed.errors import DeviceError, DeviceMemoryError
from qwen3_embed.loading.device_memory import memory_need
from qwen3_embed.loading.files import find_model
from qwen3_embed.loading.hub_options import HubOptions
from tests.conftest import TEXTS, ModelMaker
from tests.cuda.reference_cuda import change_weights, needs_gpu, open_cuda
from tests.cuda.test_cuda_adapters import save_all_else, with_adapter
from tests.cuda.test_plans import driver, free_bytes
from tests.support.engines import Tokens, embed, engine_config, random_texts, relative_errors, rms
from tests.support.make_adapter import make_adapter, merge_into_copy
from tests.support.make_model import bf16_bits, make_model
from tests.support.reference import Floats, Reference, read_weights
from tests.support.reference_int8 import Int8WeightsReference
from tests.support.rerankers import make_reranker

pytestmark = needs_gpu

LENGTHS = [1, 2, 16, 17, 33, 63, 64, 65, 129, 300]
INT8 = {"dtype": "int8-weights"}
# Of one call: on each side of the limits of a tile, of a launch of few rows, of our own kernels,
# and of what is a small batch.
ROWS = [1, 15, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1100, 2048, 2100]


def reference_rows(folder: Path, texts: Tokens) -> tuple[list[Floats], float]:
    """Raw rows of the reference, and its distance from the same weights in fp32."""
    rounding, exact = Int8WeightsReference(folder), Int8WeightsReference(folder, None)
    rows = [rounding.raw_row(text) for text in texts]
    return rows, rms(relative_errors(rows, [exact.raw_row(text) for text in texts]))


def check_rows(folder: Path, rows: Any, texts: Tokens) -> None:
    """Bounds as of test_cuda_forward.py: roundings to bf16 fall to either side."""
    expected, noise = reference_rows(folder, texts)
    errors = relative_errors(rows, expected)
    assert rms(errors) < 1.5 * noise, errors / noise
    assert errors.max() < 4.0 * noise, errors / noise


def add_outliers(folder: Path) -> None:
    """Norm weights of the first layer times 64, and the columns that read them divided."""
    width = engine_config(folder)["hidden_size"]
    for norm, readers in (
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        change_weights(folder, f"layers.0.{norm}.weight", 64.0, slice(3, 5))
        for name in readers:
            for column in (3, 4):
                where = slice(column, None, width)
                change_weights(folder, f"layers.0.{name}.weight", 1 / 64, where)


# ---- right ----


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": "tiny64"},
        {"shape": "tiny128"},
        {"shape": "small"},
        {"shape": "odd64"},
        {"shape": "odd128"},
        {"shape": "tiny64", "head_dim": 96, "num_attention_heads": 3, "num_key_value_heads": 1},
        {"shape": "tiny64", "dtype": "f32"},
    ],
    ids=str,
)
def test_vectors_against_the_oracle(models: ModelMaker, changes: dict[str, Any]) -> None:
    folder, texts = models(**changes), random_texts(LENGTHS)
    engine = open_cuda(folder, **INT8)
    dim = engine_config(folder)["hidden_size"]
    check_rows(folder, embed(engine, texts, dim, normalize=False), texts)
    engine.close()


def test_the_loss_is_that_of_int8(models: ModelMaker) -> None:
    """Against the model that was not rounded: as far as the reference, to 15 %."""
    folder, texts = models("small"), random_texts([*range(2, 130, 4)])
    exact = [Reference(folder).raw_row(text) for text in texts]
    rounded = [Int8WeightsReference(folder).raw_row(text) for text in texts]
    rows = embed(open_cuda(folder, **INT8), texts, len(exact[0]), normalize=False)
    of_engine = rms(relative_errors(rows, exact)) ** 2
    of_reference = rms(relative_errors(rounded, exact)) ** 2
    assert of_engine < 1.15 * of_reference


def test_outliers_are_equalised(tmp_path: Path) -> None:
    """Without that, rows of 64 times larger activations would read columns of one or two steps."""
    folder = make_model(tmp_path / "outliers", "small", num_hidden_layers=2)
    plain = make_model(tmp_path / "plain", "small", num_hidden_layers=2)
    add_outliers(folder)
    texts = random_texts(LENGTHS)
    exact = [Reference(plain).raw_row(text) for text in texts]
    losses = [
        rms(
            relative_errors(
                embed(open_cuda(path, **INT8), texts, len(exact[0]), normalize=False), exact
            )
        )
        for path in (plain, folder)
    ]
    assert losses[1] < 1.3 * losses[0]
    rows = embed(open_cuda(folder, **INT8), texts, len(exact[0]), normalize=False)
    check_rows(folder, rows, texts)


def test_rows_of_nothing(tmp_path: Path) -> None:
    """Rows of zeros in a matrix have no largest value to be divided by."""
    folder = make_model(tmp_path / "nothing", "tiny128")
    change_weights(folder, "layers.1.mlp.up_proj.weight", 0.0, slice(5 * 192, 9 * 192))
    change_weights(folder, "layers.1.self_attn.v_proj.weight", 2.0**-100, slice(0, 2 * 192))
    texts = random_texts(LENGTHS)
    rows = embed(open_cuda(folder, **INT8), texts, 192, normalize=False)
    check_rows(folder, rows, texts)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "nan", "tiny128")
    change_weights(folder, "layers.1.mlp.down_proj.weight", np.nan, slice(700, 701))
    engine = open_cuda(folder, **INT8)
    for text in random_texts([1, 70, 300]):
        with pytest.raises(ArithmeticError, match="texts"):
            embed(engine, [text], 192)


# ---- the same bits ----


@pytest.mark.parametrize("shape", ["tiny64", "tiny128", "odd64"])
def test_batch_changes_no_bit(models: ModelMaker, shape: str) -> None:
    texts = random_texts(LENGTHS)
    engine = open_cuda(models(shape), **INT8)
    expected = np.concatenate([embed(engine, [text], 64) for text in texts])
    for _ in range(2):  # the second time as graphs
        again = np.concatenate([embed(engine, [text], 64) for text in texts])
        np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(embed(engine, texts, 64), expected)
    np.testing.assert_array_equal(embed(engine, texts[::-1], 64), expected[::-1])
    np.testing.assert_array_equal(embed(engine, texts * 40, 64), np.tile(expected, (40, 1)))


@pytest.mark.parametrize("shape", ["tiny128", "small"])
def test_a_text_alone_and_in_batches_of_any_rows(models: ModelMaker, shape: str) -> None:
    engine = open_cuda(models(shape), **INT8)
    first, *others = random_texts([1, *range(1, 66)])
    expected = embed(engine, [first], 64)
    for n_rows in ROWS:
        batch, left, i = [first], n_rows - 1, 0
        while left > 0:
            text = others[i % len(others)][:left]
            batch.append(text)
            left -= len(text)
            i += 7
        np.testing.assert_array_equal(embed(engine, batch, 64)[:1], expected, str(n_rows))
    engine.close()


def test_no_product_is_slow(models: ModelMaker, tmp_path: Path) -> None:
    """Every range of row counts has a fast plan; the cache keeps int8's apart from bf16's."""
    texts = random_texts([1, 16, 33, 100, 250, 500, 1000, 2000, 4000])
    folder, cache = models("small", max_position_embeddings=4096), str(tmp_path)
    rows = []
    for options in (INT8, {}, INT8):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine = open_cuda(folder, cache_folder=cache, **options)
            rows.append([embed(engine, [text], 256) for text in texts])
        assert engine.info["note"] == ""
        engine.close()
    np.testing.assert_array_equal(np.concatenate(rows[0]), np.concatenate(rows[2]))
    (path,) = tmp_path.iterdir()
    dtypes = {line.split(" ")[1] for line in path.read_text().splitlines()[1:]}
    assert dtypes == {"0", "3"}, "enum qe_compute_dtype"


# ---- adapters, rerankers ----


@pytest.mark.parametrize("embedding", ["device", "host"])
def test_adapters(tmp_path: Path, embedding: str) -> None:
    """Merged matrices are rounded as a merged model's are: the same bits. Parts of fused ones,
    too; and norms and the table of embeddings, whole."""
    base = make_model(tmp_path / "base", "odd64")
    texts = random_texts(LENGTHS)
    engine = open_cuda(base, embedding=embedding, **INT8)
    plain = embed(engine, texts, 72, normalize=False)
    targets = (["q_proj", "up_proj"], ["v_proj", "o_proj", "down_proj"])
    adapters = [
        make_adapter(tmp_path / f"{i}", base, seed=i, target_modules=names)
        for i, names in enumerate(targets)
    ]
    adapters.append(save_all_else(tmp_path / "whole", base))
    for number, adapter in enumerate(adapters, 1):
        tensors = Adapter(adapter, "a", find_model(base, HubOptions())).tensors()
        assert engine.add_adapter(tensors) == number
    for number, adapter in enumerate(adapters, 1):
        merged = merge_into_copy(base, adapter, tmp_path / f"merged{number}")
        rows = with_adapter(engine, texts, number, 72)
        expected = embed(open_cuda(merged, **INT8), texts, 72, normalize=False)
        np.testing.assert_array_equal(rows, expected)
        check_rows(merged, rows, texts)
        assert (rows != plain).any(axis=1).all()
    np.testing.assert_array_equal(embed(engine, texts, 72, normalize=False), plain)


def test_adapters_are_equalised_as_their_base(tmp_path: Path) -> None:
    """One that replaces layers by the same weights changes no bit, though channels are scaled."""
    base = make_model(tmp_path / "base", "odd64")
    add_outliers(base)
    weights = {
        name: values.astype(np.float32) if values.ndim == 1 else bf16_bits(values)
        for name, values in read_weights(base).items()
        if name.startswith("layers.")
    }
    texts = random_texts(LENGTHS)
    engine = open_cuda(base, **INT8)
    plain = embed(engine, texts, 72, normalize=False)
    parts = ("", "self_attn.v_proj", "norm", "o_proj", "mlp.")
    for number, part in enumerate(parts, 1):
        assert engine.add_adapter({n: w for n, w in weights.items() if part in n}) == number
        np.testing.assert_array_equal(with_adapter(engine, texts, number, 72), plain)


def test_a_reranker(tmp_path: Path) -> None:
    """Its scores are near those of bf16, and each is the same alone and among others."""
    folder = make_reranker(tmp_path / "reranker", num_hidden_layers=2)
    pairs = [("what falls", f"{text} {i}") for i in range(12) for text in TEXTS]
    options = {"device": "cuda", "batch_tokens": 2048}
    with Reranker(folder, **options) as model:
        expected = model.predict(pairs, activation_fn=None)
    with Reranker(folder, dtype="int8-weights", **options) as model:
        assert model.dtype == "int8-weights"
        scores = model.predict(pairs, activation_fn=None)
        alone = np.array([model.predict([pair])[0] for pair in pairs[:20]])
        np.testing.assert_array_equal(alone, model.predict(pairs)[:20])
    assert not np.array_equal(scores, expected)
    assert np.corrcoef(scores, expected)[0, 1] > 0.9


# ---- the table of embeddings on the host ----


@pytest.mark.parametrize("dtype", ["bfloat16", "int8-weights"])
@pytest.mark.parametrize("shape", ["tiny128", "odd64"])
def test_the_table_on_the_host_gives_the_same_bits(
    models: ModelMaker, shape: str, dtype: str
) -> None:
    texts = random_texts([*LENGTHS, 3000])
    rows = []
    for embedding in ("device", "host", "auto"):
        engine = open_cuda(models(shape), dtype=dtype, embedding=embedding)
        rows.append(
            [embed(engine, texts, 64), *(embed(engine, [t], 64) for t in texts for _ in range(3))]
        )
        assert engine.info["note"] == ""
        engine.close()
    for other in rows[1:]:
        for made, expected in zip(other, rows[0], strict=True):
            np.testing.assert_array_equal(made, expected)


def test_info_counts_the_table(models: ModelMaker) -> None:
    folder = models("tiny64")
    with Embedder(folder, device="cuda", embedding="host") as model:
        assert model.info["owned_bytes"] >= 320 * 128 * 2
        vectors = model.encode(TEXTS)
        fingerprint = model.fingerprint
    with Embedder(folder, device="cuda") as model:
        np.testing.assert_array_equal(model.encode(TEXTS), vectors)
        assert model.fingerprint == fingerprint
    with Embedder(folder, device="cuda", dtype="int8-weights") as model:
        assert model.fingerprint != fingerprint


# ---- memory ----

MB = 1 << 20
ALLOCATION_BYTES = 2 * MB  # of the driver: each of a dozen allocations is rounded to it


@contextmanager
def all_memory_but(left: int) -> Iterator[None]:
    """Takes the GPU's free memory, but for so many bytes."""
    library, taken = driver(), []
    for step in (256 * MB, 16 * MB, ALLOCATION_BYTES):
        while free_bytes() - step >= left:
            place = ctypes.c_uint64()
            if library.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(step)) != 0:
                break
            taken.append(place)
    try:
        yield
    finally:
        for place in taken:
            library.cuMemFree_v2(place)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8", "int8-weights"])
def test_it_takes_less_memory_than_promised(models: ModelMaker, dtype: str) -> None:
    """With the first passes, plans and graphs; and not much less, but for what is spare."""
    folder = models("small", vocab_size=100_000, max_position_embeddings=2048)
    config = engine_config(folder)
    texts = random_texts([2048, 1, 700, 64, 16])
    open_cuda(folder, dtype=dtype).close()  # loads the kernels, once per process
    for embedding in ("device", "host"):
        need = memory_need(config, "cuda:0", dtype=dtype, embedding=embedding, batch_tokens=2048)
        before = free_bytes()
        engine = open_cuda(folder, dtype=dtype, embedding=embedding, batch_tokens=2048)
        opened = before - free_bytes()
        for _ in range(3):
            embed(engine, texts, 256)
            for text in texts:
                embed(engine, [text], 256)
        taken = before - free_bytes()
        engine.close()
        print(f"{dtype}, {embedding}: promised {need.device_bytes}, taken {taken}")
        exact = need.weights + need.activations
        assert abs(opened - exact) < 24 * ALLOCATION_BYTES, (opened, exact)
        assert taken <= need.device_bytes


def test_a_short_device_takes_less_memory_by_the_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """embedding="auto" puts the table where it fits, and says so; the vectors are the same."""
    folder = make_model(tmp_path / "wide", "tiny64", vocab_size=1_000_000, hidden_size=256)
    options = {"device": "cuda", "max_length": 512, "batch_tokens": 512}
    command = ["info", "--model", str(folder), "--device", "cuda"]
    command += ["--max-length", "512", "--batch-tokens", "512"]
    with Embedder(folder, **options) as model:
        expected = model.encode(TEXTS)
        config = model.config.for_engine(512)
    needs = {
        place: memory_need(
            config, "cuda:0", dtype="bfloat16", embedding=place, batch_tokens=512
        ).device_bytes
        for place in ("device", "host")
    }
    assert needs["device"] - needs["host"] > 500e6
    with all_memory_but((needs["device"] + needs["host"]) // 2):
        model = Embedder(folder, **options)
        with pytest.warns(RuntimeWarning, match="the table of embeddings is in host memory"):
            rows = model.encode(TEXTS)
        assert "in host memory, 0.51 GB" in model.info["note"]
        model.close()
        np.testing.assert_array_equal(rows, expected)
        with pytest.raises(DeviceMemoryError, match=r"GB needed.*use embedding='host', use dtype"):
            Embedder(folder, embedding="device", **options)
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert "fits with --embedding host" in printed
        assert "note:" in printed
    with all_memory_but(needs["host"] - 100 * MB):
        with pytest.raises(DeviceMemoryError, match=r"without the embeddings.*GB free; lower"):
            Embedder(folder, **options)
        assert main(command) == 0
        assert "does not open:" in capsys.readouterr().out
    with Embedder(folder, **options) as model:
        assert model.info["note"] == ""


# ---- refused ----


def test_what_a_gpu_refuses(models: ModelMaker) -> None:
    folder = models("tiny64")
    with pytest.raises(DeviceError, match="dtype int8: not on device cuda; use 'int8-weights'"):
        open_cuda(folder, dtype="int8")
    with pytest.raises(ValueError, match="embedding: 'disk', expected 'auto', 'device' or 'host'"):
        open_cuda(folder, embedding="disk")
