"""A Reranker in int8: rounded at open, from a quantised folder, from GGUF."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import ModelFileError, Reranker
from qwen3_embed.adapters.quantizing import quantize_model
from tests.support.engines import cpu_only
from tests.support.rerankers import NO, YES, convert_to_classifier, make_reranker
from tests.test_reranker import PAIRS

pytestmark = cpu_only


def logits(model: Path, **settings: Any) -> Any:
    with Reranker(model, device="cpu", **settings) as ranker:
        return ranker.predict(PAIRS, activation=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def exact(folder: Path) -> Any:
    return logits(folder)


@pytest.fixture(scope="module")
def rounded(folder: Path) -> Any:
    return logits(folder, dtype="int8")


def check_near(found: Any, exact: Any) -> None:
    """Int8 moves a vector by about its loss's root, 0.1; a random head is a random direction."""
    assert not np.array_equal(found, exact)
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.15 * np.sqrt(np.mean(exact**2))


def test_scores(exact: Any, rounded: Any) -> None:
    check_near(rounded, exact)


def test_quantised_folder(folder: Path, rounded: Any, tmp_path: Path) -> None:
    quantize_model(folder, tmp_path / "int8")
    np.testing.assert_array_equal(logits(tmp_path / "int8"), rounded)


def test_classifier(folder: Path, rounded: Any, tmp_path: Path) -> None:
    """A stored score keeps its bits; the same model as one for sequence classification."""
    classifier = convert_to_classifier(folder, tmp_path / "classifier")
    expected = logits(classifier, dtype="int8")
    quantize_model(classifier, tmp_path / "int8")
    np.testing.assert_array_equal(logits(tmp_path / "int8"), expected)


def test_untied_head(tmp_path: Path) -> None:
    folder = make_reranker(tmp_path / "untied", lm_head=True, num_hidden_layers=1)
    expected = logits(folder, dtype="int8")
    quantize_model(folder, tmp_path / "int8")
    np.testing.assert_array_equal(logits(tmp_path / "int8"), expected)


def test_gguf(folder: Path, exact: Any, tmp_path: Path) -> None:
    """With the head that llama.cpp's converter stores, or the embedding's rows of yes and no."""
    pytest.importorskip("gguf")
    from tests.support.make_gguf import make_gguf

    def write(name: str, **options: Any) -> Path:
        (tmp_path / name).mkdir()
        shutil.copy(folder / "tokenizer.json", tmp_path / name)
        return make_gguf(folder, tmp_path / name / "a.gguf", tokenizer=False, **options)

    with_head = logits(write("head", pooling=4, answers=(YES, NO)))
    check_near(with_head, exact)
    # The same rows, quantised.
    np.testing.assert_array_equal(logits(write("tied", pooling=None)), with_head)
    with pytest.raises(ModelFileError, match=r"cls.output.weight has shape \(3, 128\)"):
        Reranker(write("three", pooling=4, answers=(YES, NO, NO)))
