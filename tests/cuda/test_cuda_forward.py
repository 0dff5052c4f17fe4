"""The CUDA engine's forward pass: right to the last rounding, and the same bits always.

Tolerances are those of tests/test_ops.py, with the reference that rounds where this
engine does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ModelMaker
from tests.cuda.reference_cuda import needs_gpu, open_cuda, reference_rows
from tests.support.engines import Tokens, embed, random_texts, relative_errors, rms
from tests.support.reference import Floats

pytestmark = needs_gpu

SHAPES = ["tiny64", "tiny128", "odd64", "odd128"]
LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300]
SHORT_LENGTHS = [*range(2, 18)] * 2
ROUNDED_ALIKE = 0.05
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def errors_of(folder: Path, lengths: Sequence[int]) -> tuple[Floats, float]:
    """Each text's distance from the reference, and the reference's own."""
    expected, noise = reference_rows(folder, tuple(lengths))
    engine = open_cuda(folder)
    rows = embed(engine, random_texts(lengths), expected[0].size, normalize=False)
    engine.close()
    return relative_errors(rows, expected), noise


def alone(engine: Any, texts: Tokens, dim: int) -> Floats:
    return np.concatenate([embed(engine, [text], dim) for text in texts])


@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": shape} for shape in SHAPES),
        {"shape": "tiny64", "head_dim": 96},
        {"shape": "tiny64", "head_dim": 256},
        {"shape": "tiny128", "rope_scaling": YARN},
        {"shape": "tiny128", "rms_norm_eps": 1e-3},
    ],
    ids=str,
)
def test_forward_equals_reference(models: ModelMaker, changes: dict[str, Any]) -> None:
    errors, noise = errors_of(models(**changes), LENGTHS)
    assert rms(errors) < 1.5 * noise, (rms(errors) / noise, errors / noise)
    assert errors.max() < 4.0 * noise, errors / noise


@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": shape} for shape in SHAPES),
        {"shape": "tiny64", "head_dim": 96},
        {"shape": "tiny64", "head_dim": 256},
        {"shape": "tiny64", "dtype": "f16"},
        {"shape": "tiny64", "misalign": 1},
        {"shape": "odd64", "shards": 3},
    ],
    ids=str,
)
def test_roundings_are_the_named_ones(models: ModelMaker, changes: dict[str, Any]) -> None:
    errors, noise = errors_of(models(num_hidden_layers=1, **changes), SHORT_LENGTHS)
    assert np.median(errors) < ROUNDED_ALIKE * noise, errors / noise


@pytest.mark.parametrize("shape", SHAPES)
def test_company_changes_no_bit(models: ModelMaker, shape: str) -> None:
    """Alone, together, in other orders, beside equals, in small passes."""
    texts = random_texts(LENGTHS)
    engine = open_cuda(models(shape))
    expected = alone(engine, texts, 64)
    np.testing.assert_array_equal(embed(engine, texts, 64), expected)
    np.testing.assert_array_equal(embed(engine, texts[::-1], 64), expected[::-1])
    np.testing.assert_array_equal(embed(engine, texts * 40, 64), np.tile(expected, (40, 1)))
    for row, text in zip(expected, texts, strict=True):
        np.testing.assert_array_equal(embed(engine, [text] * 3, 64), [row] * 3)
    other = open_cuda(models(shape), batch_tokens=300)
    np.testing.assert_array_equal(embed(other, texts, 64), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": "tiny128"},
        {"shape": "tiny64", "head_dim": 96},
        {"shape": "odd128", "head_dim": 256},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_prefix", [256, 300, 383, 384, 385])
def test_shared_prefix_changes_no_bit(
    models: ModelMaker, n_prefix: int, changes: dict[str, Any]
) -> None:
    engine = open_cuda(models(**changes))
    prefix, *tails = random_texts([n_prefix, 1, 2, 17, 63, 64, 65, 150, 1])
    texts = [np.concatenate([prefix, tail]) for tail in tails] + [prefix, prefix[:-1]]
    expected = alone(engine, texts, 64)
    np.testing.assert_array_equal(embed(engine, texts, 64), expected)
    assert len(np.unique(expected, axis=0)) == len({text.tobytes() for text in texts})


@pytest.mark.parametrize("shape", ["tiny64", "tiny128"])
def test_a_graph_serves_batches_of_other_lengths(models: ModelMaker, shape: str) -> None:
    """Batches that are padded to the same lengths share a graph: 300 random ones, of one to
    forty texts, on each side of every limit; each text has the bits that it has alone."""
    engine = open_cuda(models(shape))
    texts = random_texts([*range(1, 140)])
    rows = alone(engine, texts, 64)
    source = np.random.default_rng(0)
    for _ in range(300):
        longest = int(source.choice([8, 33, 65, 140]))
        chosen = source.integers(0, longest - 1, int(source.integers(1, 41)))
        made = embed(engine, [texts[i] for i in chosen], 64)
        np.testing.assert_array_equal(made, rows[chosen])
    engine.close()


@pytest.mark.parametrize(
    ("n_texts", "changes", "options"),
    [
        (600, {"shape": "tiny64"}, {"batch_tokens": 640}),
        (2000, {"shape": "tiny64", "hidden_size": 4096}, {}),
    ],
    ids=["more rows than the batch has", "more results than the ring has"],
)
def test_many_texts_of_one_token(
    models: ModelMaker, n_texts: int, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    """Padding stops at the batch's rows; results that the ring can't hold come in pieces."""
    engine = open_cuda(models(**changes), **options)
    texts = random_texts([1] * n_texts)
    dim = changes.get("hidden_size", 64)
    rows = alone(engine, texts[:40], dim)
    for _ in range(3):
        np.testing.assert_array_equal(embed(engine, texts, dim)[:40], rows)
    engine.close()


def test_long_texts(models: ModelMaker) -> None:
    """Whole range of lengths in one call; the longest beside one token."""
    folder = models("small", num_hidden_layers=2, max_position_embeddings=32768)
    engine = open_cuda(folder)
    texts = random_texts([1, 4000, 32768, 1, 511, 8191, 2049])
    expected = alone(engine, texts, 256)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(embed(engine, texts, 256), expected)
    small = open_cuda(folder, batch_tokens=1000)
    np.testing.assert_array_equal(embed(small, texts, 256), expected)


def test_dim_cuts_then_normalises(models: ModelMaker) -> None:
    engine = open_cuda(models("tiny128"))
    texts = random_texts([5, 40])
    raw = embed(engine, texts, 192, normalize=False)
    for dim in (1, 32, 100, 192):
        np.testing.assert_array_equal(embed(engine, texts, dim, normalize=False), raw[:, :dim])
        unit = raw[:, :dim] / np.linalg.norm(raw[:, :dim], axis=1, keepdims=True)
        # a few fp32 roundings: the sum of squares, the root, the quotient
        np.testing.assert_allclose(embed(engine, texts, dim), unit, rtol=1e-6, atol=0)


def poison(folder: Path, token: int, hidden_size: int) -> None:
    """Makes the token's embedding NaN; embed_tokens is the file's first tensor."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little") + token * hidden_size * 2
    data[begin : begin + hidden_size * 2] = b"\xff\x7f" * hidden_size
    path.write_bytes(data)


def test_a_neighbours_nan_stays_there(models: ModelMaker) -> None:
    """A NaN text beside healthy ones: it fails by index, they keep their bits."""
    folder = models("tiny128", seed=7)
    poison(folder, 5, 192)
    engine = open_cuda(folder)
    texts = [text[text != 5] for text in random_texts([40, 64, 30, 200, 129])]
    expected = alone(engine, texts, 192)
    for length in (1, 3, 63, 64, 100, 300):
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


def test_large_activations(models: ModelMaker) -> None:
    """A residual stream far past fp16's range."""
    folder = models("tiny128", seed=8)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    table = np.frombuffer(data, np.uint16, 320 * 192, begin)
    values = (table.astype(np.uint32) << 16).view(np.float32) * np.float32(2.0**24)
    data[begin : begin + 2 * table.size] = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path.write_bytes(data)
    expected, noise = reference_rows(folder, (1, 17, 64))
    rows = embed(open_cuda(folder), random_texts([1, 17, 64]), 192, normalize=False)
    errors = relative_errors(rows, expected)
    assert errors.max() < 4.0 * max(noise, 2.0**-16), (errors, noise)


def test_what_is_missing_is_named(models: ModelMaker, tmp_path: Path) -> None:
    from qwen3_embed.errors import DeviceError, DeviceMemoryError

    folder = models("tiny64")
    with pytest.raises(DeviceError, match="cuda:99"):
        open_cuda(folder, device="cuda:99")
    with pytest.raises(DeviceMemoryError, match=r"GB needed.*GB free"):
        open_cuda(folder, batch_tokens=200_000_000)
    with pytest.raises(DeviceError, match="head_dim 160"):
        open_cuda(models("tiny64", head_dim=160))


def test_a_damaged_cache_is_no_matter(models: ModelMaker, tmp_path: Path) -> None:
    texts = random_texts(LENGTHS)
    cache = tmp_path / "deep" / "cache"
    expected = embed(open_cuda(models("tiny64"), cache_folder=str(cache)), texts, 64)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    half = len(good) // 2
    for bad in (b"", b"\0" * 1000, good[:half], good[:half] + b"9" + good[half + 1 :]):
        path.write_bytes(bad)
        rows = embed(open_cuda(models("tiny64"), cache_folder=str(cache)), texts, 64)
        np.testing.assert_array_equal(rows, expected)
        assert path.read_bytes().startswith(good.split(b"\n")[0])


def test_two_engines_and_many_threads(models: ModelMaker) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts = random_texts(LENGTHS)
    engines = [open_cuda(models("tiny64")), open_cuda(models("tiny128"))]
    expected = [alone(engine, texts, 64) for engine in engines]

    def call(i: int) -> None:
        j = i % 2
        np.testing.assert_array_equal(embed(engines[j], texts, 64), expected[j])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(64)))


def test_rows_outlive_the_engine(models: ModelMaker) -> None:
    engine = open_cuda(models("tiny64"))
    rows = embed(engine, random_texts([5, 9]), 64)
    copy = rows.copy()
    engine.close()
    del engine
    np.testing.assert_array_equal(rows, copy)
    closed = open_cuda(models("tiny64"))
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        embed(closed, random_texts([5]), 64)


def test_fork_is_refused(models: ModelMaker) -> None:
    engine = open_cuda(models("tiny64"))
    expected = embed(engine, random_texts([5]), 64)
    child = os.fork()
    if child == 0:
        from qwen3_embed.errors import DeviceError

        try:
            embed(engine, random_texts([5]), 64)
        except DeviceError as error:
            os._exit(0 if "fork" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(embed(engine, random_texts([5]), 64), expected)
