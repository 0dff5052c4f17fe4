"""Hugging Face Transformers on torch CPU: the yardstick of parity and of speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers

Floats = npt.NDArray[np.float32]


class Transformers:
    """A Qwen3 model as Transformers runs it, pooled at the last token.

    Parameters
    ----------
    dtype : "float32" or "bfloat16".
    attention : "sdpa" or "eager".
    """

    def __init__(self, folder: Path, dtype: str, attention: str = "sdpa") -> None:
        transformers.logging.disable_progress_bar()
        self.model = transformers.AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention
        ).eval()

    def set_attention(self, attention: str) -> None:
        self.model.set_attn_implementation(attention)

    def encode(self, texts: Sequence[npt.NDArray[np.integer]]) -> Floats:
        """(n, C) unit rows of texts of equal length, as one batch without padding."""
        with torch.inference_mode():
            ids = torch.from_numpy(np.stack(texts).astype(np.int64))
            rows = self.model(ids, use_cache=False).last_hidden_state[:, -1].float()
            unit: Floats = torch.nn.functional.normalize(rows, dim=-1).numpy()
        return unit

    def encode_each(self, texts: Sequence[Sequence[int]]) -> Floats:
        """(n, C) unit rows of texts of any lengths, each alone."""
        return np.concatenate([self.encode([np.asarray(text)]) for text in texts])


def token_ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Ids by the folder's own tokenizer as Transformers loads it, end token included."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts]
