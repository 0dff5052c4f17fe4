"""The table of docs/gpu.md: the memory of each model and dtype, and the cards that have it.

Nothing is measured here. cuda/memory_plan.h, by which an engine reserves its memory, is compiled
with the host's compiler. Not counted are the indices of a batch, less than a megabyte.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.results_table import ROOT
from tests.support.cuda_plans import DTYPES, config_of, load_plans

__all__ = ["card_table"]

TOKENS = 2048
CARDS_GB = (4, 6, 8, 10, 12, 16, 24)
HEADINGS = ("model", "dtype", "embeddings", "weights", "a pass", "in all", "host", "smallest card")


def _spare_gb() -> float:
    """The memory that the engine leaves to the CUDA context and cuBLAS."""
    found = re.search(r"define SPARE_BYTES \(\(size_t\)(\d+) << 20\)", _device_source())
    assert found is not None
    return int(found[1]) * 2**20 / 1e9


def _device_source() -> str:
    return (ROOT / "cuda" / "device.cu").read_text()


def card_table() -> str:
    """A row per model, dtype and place of the embeddings, in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    with TemporaryDirectory() as folder:
        plans = load_plans(Path(folder))
        for model in ("0.6B", "4B", "8B"):
            config = config_of(model, TOKENS)
            for dtype in ("bfloat16", "int8-weights"):
                for place in ("device", "host"):
                    need = plans.memory(
                        ctypes.byref(config), DTYPES[dtype], place == "host", TOKENS
                    )
                    parts = [need.weights / 1e9, need.activations / 1e9]
                    total = sum(parts) + _spare_gb()
                    card = next(gb for gb in CARDS_GB if total <= gb)
                    figures = [f"{each:.2f}" for each in (*parts, total, need.host / 1e9)]
                    lines.append((model, f"`{dtype}`", place, *figures, f"{card} GB"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
