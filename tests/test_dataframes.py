"""Columns of tables as texts; docs/dataframes.md is run by test_pages.py."""

from __future__ import annotations

import pytest


def test_a_null_is_named() -> None:
    pandas = pytest.importorskip("pandas")
    from qwen3_embed import Embedder

    with Embedder("mini") as model, pytest.raises(TypeError, match=r"texts\[1\] is"):
        model.encode(pandas.Series(["a", None]))
