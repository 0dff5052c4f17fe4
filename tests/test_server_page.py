"""docs/server.md: each client's lines run as they stand there, and give the model's own vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder, Reranker
from tests.support.client_environments import run_with
from tests.support.rerankers import make_reranker
from tests.support.served import Served

PAGE = Path(__file__).resolve().parents[1] / "docs" / "server.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
TEXTS = ["Beijing is a city.", "Gravity is a force."]
QUERY = "capital?"
REPORT = """
import json
found = {name: globals().get(name) for name in ("documents", "query", "order")}
found = {name: value for name, value in found.items() if value is not None}
print("found:" + json.dumps(found, default=lambda array: array.tolist()))
"""


def module_of(block: str) -> str:
    """The client that a block imports, the last of its modules."""
    return re.findall(r"^(?:import|from) (\S+)", block, re.MULTILINE)[-1]


@pytest.fixture(scope="module")
def ranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("rerankers") / "Qwen3-Reranker-0.6B")


@pytest.fixture(scope="module")
def server(ranker_folder: Path) -> Iterator[Served]:
    served = Served("--model", "mini", "--reranker", str(ranker_folder))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def expected(ranker_folder: Path) -> dict[str, Any]:
    with Embedder("mini") as model, Reranker(ranker_folder) as ranker:
        return {
            "documents": model.encode(TEXTS),
            "query": model.encode_query(QUERY),
            "order": [each["corpus_id"] for each in ranker.rank(QUERY, TEXTS)],
        }


@pytest.mark.parametrize("block", BLOCKS, ids=module_of)
def test_lines_of_a_client(server: Served, expected: dict[str, Any], block: str) -> None:
    assert "localhost:8000" in block
    code = block.replace("localhost:8000", f"127.0.0.1:{server.port}") + REPORT
    printed = run_with(module_of(block), code)
    found = json.loads(next(line[6:] for line in printed.splitlines() if line[:6] == "found:"))
    assert found
    for name, value in found.items():
        assert np.array_equal(np.array(value, np.float32), np.array(expected[name], np.float32))
