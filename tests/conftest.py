"""Fixtures that many tests share: model folders, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_model import make_model

ModelMaker = Callable[..., Path]


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
