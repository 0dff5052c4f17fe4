"""The code of docs/dataframes.md, run as printed, where its packages are installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "dataframes.md"


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_as_printed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The best row is the right one, and the file holds the rows' own vectors."""
    module = pytest.importorskip(package)
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [code for code in blocks if f"import {package} " in code]
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert "restart the kernel" in capsys.readouterr().out
    stored = module.read_parquet(f"{package}.parquet")
    expected = names["model"].encode_document(list(stored["text"]))
    assert np.array_equal(np.array(stored["embedding"].to_list(), np.float32), expected)
    assert list(stored["id"]) == [7, 8, 9]


def test_a_null_is_named() -> None:
    pandas = pytest.importorskip("pandas")
    from qwen3_embed import Embedder

    with Embedder("mini") as model, pytest.raises(TypeError, match=r"texts\[1\] is"):
        model.encode(pandas.Series(["a", None]))
