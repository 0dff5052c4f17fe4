"""Fixtures that many tests share: model folders, made once a session, and one opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from make_model import make_model

if os.environ.get("QE_TEST_DEVICE", "cpu") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that device="auto" is the CPU everywhere

from qwen3_embed import Embedder

ModelMaker = Callable[..., Path]

TEXTS = ["The capital of China is Beijing.", "", "重力", "x = [i**2 for i in range(9)]", "🦊 " * 30]
HIDDEN = 128


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelMaker:
    """models(shape, **options) -> a folder from make_model; don't change what is in it."""
    folders: dict[str, Path] = {}

    def folder_of(shape: str = "tiny64", **options: Any) -> Path:
        key = repr((shape, sorted(options.items())))
        if key not in folders:
            folders[key] = make_model(tmp_path_factory.mktemp(shape), shape, **options)
        return folders[key]

    return folder_of


@pytest.fixture(scope="module")
def folder(models: ModelMaker) -> Path:
    return models("tiny64")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Embedder]:
    with Embedder(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(model: Embedder) -> Any:
    return model.encode(TEXTS)
