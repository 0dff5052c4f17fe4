"""Bytes and bits of vectors: the values of sentence-transformers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Quantizer
from qwen3_embed.retrieval.quantizer import Precision, quantize_binary

RNG = np.random.default_rng(7)
SAMPLE = RNG.standard_normal((500, 48)).astype(np.float32)
# Beyond the sample's range as well, so that clipping is tested.
OTHERS = (2 * RNG.standard_normal((100, 48))).astype(np.float32)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_values_of_sentence_transformers(precision: Precision) -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    quantizer = Quantizer.fit(SAMPLE)
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


def test_save_and_load(tmp_path: Path) -> None:
    quantizer = Quantizer.fit(SAMPLE)
    quantizer.save(tmp_path / "q.npz")
    loaded = Quantizer.load(tmp_path / "q.npz")
    np.testing.assert_array_equal(loaded.ranges, quantizer.ranges)
    assert loaded.dim == 48
    assert [path.name for path in tmp_path.iterdir()] == ["q.npz"]
    with pytest.raises(ValueError, match="read-only"):
        loaded.ranges[0, 0] = 1.0


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
    with pytest.raises(ValueError, match="not finite"):
        Quantizer.fit([[1.0, np.inf], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"shape \(100, 12\), expected \(n, 48\)"):
        quantizer.quantize(OTHERS[:, :12], "int8")
    with pytest.raises(TypeError, match="dtype int8"):
        quantizer.quantize(quantizer.quantize(OTHERS, "int8"), "int8")
    with pytest.raises(ValueError, match="precision='int4'"):
        quantizer.quantize(OTHERS, "int4")  # type: ignore[arg-type]
