"""Reranker folders with random weights, the real tokenizer and few layers."""

from __future__ import annotations

import json
import lzma
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qwen3_embed.loading.tensors import TensorFiles, as_bf16, write_tensors
from tests.support.make_model import QWEN3_TOKENIZER, make_model, write_json

YES, NO = 9693, 2152


@lru_cache(maxsize=4)
def _files(shape: str, options: tuple[tuple[str, Any], ...]) -> dict[str, bytes]:
    """Content by name: the table of all tokens and the tokenizer take a second to make."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, shape, tokenizer="qwen3", **dict(options))
        for name in ("modules.json", "config_sentence_transformers.json"):
            (folder / name).unlink()
        shutil.rmtree(folder / "1_Pooling")
        with lzma.open(QWEN3_TOKENIZER / "tokenizer.json.xz", "rb") as file:
            (folder / "tokenizer.json").write_bytes(file.read())
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_reranker(folder: Path, shape: str = "tiny64", **options: Any) -> Path:
    """A folder as the rerankers' repositories ship it; options as of `make_model`."""
    options = {"prefix": "model.", "vocab_size": 151669} | options
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _files(shape, tuple(sorted(options.items()))).items():
        (folder / name).write_bytes(content)
    return folder


def convert_to_classifier(source: Path, folder: Path, n_scores: int = 1) -> Path:
    """The same model as Qwen3ForSequenceClassification: score.weight = W[yes] - W[no]."""
    shutil.copytree(source, folder)
    tensors = list(TensorFiles([source / "model.safetensors"]))
    table = next(t for t in tensors if t.name.endswith(("embed_tokens.weight", "lm_head.weight")))
    rows = table.floats()
    score = as_bf16(np.repeat(rows[YES : YES + 1] - rows[NO], n_scores, axis=0))
    kept = [t for t in tensors if t.name != "lm_head.weight"]
    layout = {t.name: (t.dtype, t.shape) for t in kept} | {"score.weight": ("BF16", score.shape)}
    write_tensors(folder / "model.safetensors", layout, [*(t.stored() for t in kept), score])
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": n_scores}
    config |= {"pad_token_id": 151643}
    write_json(folder / "config.json", config)
    return folder
