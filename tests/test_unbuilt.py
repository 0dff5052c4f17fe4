"""Python in a clone whose C extension was never built, as after `pip install .`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "from qwen3_embed import Embedder"],
        ["-c", "from qwen3_embed.reranker import Reranker"],
        ["-c", "import qwen3_embed.integrations.opening"],
        ["-m", "qwen3_embed", "info"],
        ["-m", "qwen3_embed", "info", "--model", "mini"],
    ],
)
def test_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    """As docs/troubleshooting.md says it, in the words of its row."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "qwen3_embed", tmp_path / "qwen3_embed", ignore=ignored)
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "C extension is not built" in last
    for advice in ("`pip install -e .`", "start Python in another folder"):
        assert advice in last
        assert advice in (ROOT / "docs" / "troubleshooting.md").read_text()
