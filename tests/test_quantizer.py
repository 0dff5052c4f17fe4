"""Codes of vectors: one symmetric scale, and the ranges and bits of sentence-transformers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Quantizer
from qwen3_embed.retrieval.quantizer import Precision, default_quantizer, quantize_binary

RNG = np.random.default_rng(7)
SAMPLE = RNG.standard_normal((500, 48)).astype(np.float32)
# Beyond the sample's range as well, so that clipping is tested.
OTHERS = (2 * RNG.standard_normal((100, 48))).astype(np.float32)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_values_of_sentence_transformers(precision: Precision) -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    quantizer = Quantizer.fit(SAMPLE, kind="ranges")
    expected = quantization.quantize_embeddings(OTHERS, precision, ranges=quantizer.ranges)
    found = quantizer.quantize(OTHERS, precision)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_levels_by_hand() -> None:
    quantizer = Quantizer([[0.0, -1.0], [2.55, -1.0]])  # the second dimension never moved
    vectors = np.array([[0.0, -1.0], [2.55, -1.0], [1.0, 5.0], [-9.0, -9.0], [9.0, 300.0]])
    # 2.55 / 255 steps of 0.01; a range of nothing counts in steps of 1.
    assert quantizer.quantize(vectors, "uint8").tolist() == [
        [0, 0],
        [255, 0],
        [100, 6],
        [0, 0],
        [255, 255],
    ]
    assert quantizer.quantize(vectors, "int8").tolist() == [
        [-128, -128],
        [127, -128],
        [-28, -122],
        [-128, -128],
        [127, 127],
    ]


def test_bits_by_hand() -> None:
    bits = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 1], bool)
    vector = np.where(bits, 0.5, -0.5).astype(np.float32)
    vector[1] = 0.0  # not positive
    assert quantize_binary(vector, "ubinary").tolist() == [0b10110001, 0b11000000]
    assert quantize_binary(vector, "binary").tolist() == [0b10110001 - 128, 0b11000000 - 128]
    assert quantize_binary(np.empty((0, 10), np.float32), "binary").shape == (0, 2)


def test_one_vector_and_float16() -> None:
    quantizer = Quantizer.fit(SAMPLE)
    assert quantizer.quantize(OTHERS[0], "int8").shape == (48,)
    assert quantizer.quantize(OTHERS.astype(np.float16), "uint8").shape == OTHERS.shape


def test_scale_by_hand() -> None:
    quantizer = Quantizer(scale=0.01, dim=4)
    # Rounded to even, symmetric, clipped at 127 on both sides.
    vectors = np.array([[0.0, 0.5, -0.5, 1.27], [-9.0, 9.0, 0.004, -0.006]], np.float32)
    expected = [[0, 50, -50, 127], [-127, 127, 0, -1]]
    codes = quantizer.quantize(vectors, "int8")
    assert codes.dtype == np.int8
    assert codes.tolist() == expected
    bytes_ = quantizer.quantize(vectors, "uint8")
    assert bytes_.dtype == np.uint8
    assert bytes_.tolist() == (np.array(expected) + 128).tolist()
    restored = (np.array(expected) * np.float32(0.01)).astype(np.float32)
    np.testing.assert_array_equal(quantizer.dequantize(codes), restored)
    np.testing.assert_array_equal(quantizer.dequantize(bytes_), restored)
    np.testing.assert_array_equal(quantizer.quantize(-vectors, "int8"), -codes)


def test_scale_is_fitted_on_the_quantile() -> None:
    """127 steps reach the 0.9999 quantile of |v|: an outlier does not make the steps coarser."""
    vectors = np.append(SAMPLE, np.full((1, 48), 1000.0, np.float32), axis=0)
    expected = np.quantile(np.abs(SAMPLE), 0.9999) / 127
    assert Quantizer.fit(SAMPLE).scale == pytest.approx(expected, rel=1e-6)
    outlier = SAMPLE.copy()
    outlier[3, 5] = 1000.0
    # One value in 24,000 moves the quantile by two ranks.
    assert Quantizer.fit(outlier).scale == pytest.approx(expected, rel=0.1)
    assert Quantizer.fit(vectors).scale == pytest.approx(1000 / 127)
    assert Quantizer.fit(SAMPLE).kind == "scale"


@pytest.mark.parametrize("kind", ["scale", "ranges"])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_dequantize_is_within_half_a_step(kind: Any, precision: Precision) -> None:
    quantizer = Quantizer.fit(SAMPLE, kind)
    limit = 127 * quantizer.scale if quantizer.scale else np.inf
    inside = np.clip(SAMPLE, -limit, limit)
    restored = quantizer.dequantize(quantizer.quantize(inside, precision))
    if quantizer.scale:
        half_step: Any = quantizer.scale / 2
    else:
        half_step = (quantizer.ranges[1] - quantizer.ranges[0]) / 255 / 2  # type: ignore[index]
    # 1e-5: float32 rounding of values up to 5.
    assert (np.abs(restored - inside) <= half_step + 1e-5).all()
    with pytest.raises(TypeError, match="dtype float32, expected int8 or uint8"):
        quantizer.dequantize(restored)
    with pytest.raises(ValueError, match=r"codes has shape \(3,\), expected \(n, 48\)"):
        quantizer.dequantize(np.zeros(3, np.int8))


def test_codes_rank_as_vectors() -> None:
    """Dot products of codes differ from those of unit vectors by the rounding error alone."""
    rows = SAMPLE / np.linalg.norm(SAMPLE, axis=1, keepdims=True)
    quantizer = Quantizer.fit(rows)
    codes = quantizer.quantize(rows, "int8").astype(np.float32)
    scale = np.float32(quantizer.scale or 0)
    errors = codes @ codes.T * scale**2 - rows @ rows.T
    np.fill_diagonal(errors, 0)  # a row's error with itself is not independent
    # Two unit vectors with independent errors, uniform in a step: sqrt(2 / 12) steps.
    assert errors.std() == pytest.approx(scale * (2 / 12) ** 0.5, rel=0.1)


def test_default_quantizer() -> None:
    assert default_quantizer("mini", 256).scale == pytest.approx(0.65 / 127)
    assert default_quantizer("Qwen/Qwen3-Embedding-0.6B", 1024).scale == pytest.approx(
        10 / 32 / 127
    )
    # No coordinate of a unit vector is above 1.
    assert default_quantizer("other", 32).scale == pytest.approx(1 / 127)


def test_save_and_load(tmp_path: Path) -> None:
    for kind in ("scale", "ranges"):
        quantizer = Quantizer.fit(SAMPLE, kind)  # type: ignore[arg-type]
        quantizer.save(tmp_path / "q.npz")
        loaded = Quantizer.load(tmp_path / "q.npz")
        assert (loaded.kind, loaded.dim) == (kind, 48)
        np.testing.assert_array_equal(
            loaded.quantize(OTHERS, "int8"), quantizer.quantize(OTHERS, "int8")
        )
        assert [path.name for path in tmp_path.iterdir()] == ["q.npz"]
    assert loaded.ranges is not None
    with pytest.raises(ValueError, match="read-only"):
        loaded.ranges[0, 0] = 1.0
    assert repr(loaded) == "Quantizer(kind='ranges', dim=48)"


def test_files_from_before_there_were_scales(tmp_path: Path) -> None:
    """They hold format 1 and ranges, and open as ranges."""
    save(tmp_path / "q.npz", format=np.int64(1), ranges=np.array([[0.0], [255.0]], np.float32))
    quantizer = Quantizer.load(tmp_path / "q.npz")
    assert quantizer.kind == "ranges"
    assert quantizer.scale is None
    assert quantizer.quantize([7.0], "uint8").tolist() == [7]


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def save(path: Path, **arrays: Any) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write(path, b""),
        lambda path: write(path, b"PK\x03\x04 not a zip"),
        lambda path: write(path, b"\x80\x04\x95."),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        lambda path: save(path, ranges=np.zeros((2, 4))),
        lambda path: save(path, format=np.int64(2), ranges=np.zeros((2, 4))),
        lambda path: save(path, format=np.int64(1), scale=np.float32(1), dim=np.int64(4)),
        lambda path: save(path, format=np.int64(2), scale=np.float32(0), dim=np.int64(4)),
        lambda path: save(path, format=np.int64(2), scale=np.float32("nan"), dim=np.int64(4)),
        lambda path: save(path, format=np.int64(2), scale=np.float32(1), dim=np.int64(0)),
        lambda path: save(path, format=np.int64(2), scale=np.ones(3), dim=np.int64(4)),
        lambda path: save(path, format=np.zeros(2), ranges=np.zeros((2, 4))),
        lambda path: save(path, format=np.int64(1), ranges=np.zeros((3, 4))),
        lambda path: save(path, format=np.int64(1), ranges=np.full((2, 4), np.nan)),
        lambda path: save(path, format=np.int64(1), ranges=np.array([[1.0], [0.0]])),
        lambda path: save(path, format=np.int64(1), ranges=np.array([{}, []], object)),
        lambda path: zipfile.ZipFile(path, "w").close(),
    ],
)
def test_damaged_files(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "q.npz"
    make(path)
    with pytest.raises(ValueError, match=r"Quantizer file|ranges"):
        Quantizer.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Quantizer.load(tmp_path / "none.npz")


def test_refusals() -> None:
    quantizer = Quantizer.fit(SAMPLE)
    with pytest.raises(ValueError, match="n >= 2"):
        Quantizer.fit(SAMPLE[:1])
    with pytest.raises(ValueError, match="n >= 2"):
        Quantizer.fit(SAMPLE[0])
    with pytest.raises(ValueError, match="kind='affine', expected 'scale' or 'ranges'"):
        Quantizer.fit(SAMPLE, "affine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only zeros"):
        Quantizer.fit(np.zeros((5, 4)))
    for wrong in ({}, {"scale": 1.0}, {"dim": 4}, {"ranges": [[0], [1]], "scale": 1.0, "dim": 1}):
        with pytest.raises(TypeError, match="either ranges, or scale= and dim="):
            Quantizer(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        Quantizer.fit([[1.0, np.inf], [0.0, 0.0]], kind="ranges")
    with pytest.raises(ValueError, match="not finite"):
        Quantizer.fit([[1.0, np.inf], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"shape \(100, 12\), expected \(n, 48\)"):
        quantizer.quantize(OTHERS[:, :12], "int8")
    with pytest.raises(TypeError, match="dtype int8"):
        quantizer.quantize(quantizer.quantize(OTHERS, "int8"), "int8")
    with pytest.raises(ValueError, match="precision='int4'"):
        quantizer.quantize(OTHERS, "int4")  # type: ignore[arg-type]
