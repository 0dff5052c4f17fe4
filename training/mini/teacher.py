"""The teacher, all-MiniLM-L6-v2, packed small enough to travel, and its vectors.

The one idea: matrices are kept as int8 with one scale per row (a quarter of the size); the
vectors stay within a cosine of 0.999 of the original's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.mini.data import Texts, to_device

MAX_TOKENS = 256
END = 102  # BERT's [SEP]
HIDDEN = 384


def pack(model: Path, out: Path) -> None:
    """Write the teacher's folder `model` as int8 rows plus scales into `out`."""
    from safetensors.numpy import load_file

    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if name.startswith("pooler."):  # mean pooling does not use it
            continue
        if weight.ndim == 2 and weight.dtype == np.float32:
            scale = np.abs(weight).max(axis=1, keepdims=True) / 127 + 1e-12
            arrays[name] = np.round(weight / scale).astype(np.int8)
            arrays[name + ".scale"] = scale.astype(np.float32)
        elif weight.dtype == np.float32:
            arrays[name] = weight
    np.savez_compressed(out / "teacher.npz", **arrays)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(model / name, out / name)


class Teacher:
    """MiniLM as a function from tokenised texts to unit vectors (n, 384)."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import BertConfig, BertModel

        config = BertConfig(**json.loads((folder / "config.json").read_text()))
        model = BertModel(config, add_pooling_layer=False)
        arrays = np.load(folder / "teacher.npz")
        state = {}
        for name in arrays.files:
            if name.endswith(".scale"):
                continue
            value = arrays[name]
            if value.dtype == np.int8:
                value = value.astype(np.float32) * arrays[name + ".scale"]
            state[name] = torch.from_numpy(value)
        model.load_state_dict(state)
        self.device = device
        # fp16 keeps three more bits of a vector than bf16, and BERT stays within its range.
        self.model = model.to(device, torch.float16 if device.type == "cuda" else None).eval()
        self.tokenizer = folder / "tokenizer.json"

    @torch.no_grad()
    def encode(self, texts: Texts, budget: int = 262144) -> Tensor:
        """Return the unit vectors (n, 384) fp32 of `texts`, tokenised for the teacher."""
        out = torch.empty(len(texts.lengths), HIDDEN, device=self.device)
        order = np.argsort(texts.lengths, kind="stable")
        start = 0
        while start < len(order):
            # The longest of the next texts is the last that fits; sorted, so a guess is near.
            n = max(1, budget // int(texts.lengths[order[start]]))
            n = max(1, budget // int(texts.lengths[order[min(start + n, len(order)) - 1]]))
            rows = order[start : start + n]
            ids, lengths = texts.rows(rows, MAX_TOKENS, END)
            mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            hidden = self.model(ids, attention_mask=mask.long()).last_hidden_state.float()
            mean = (hidden * mask[..., None]).sum(1) / lengths[:, None]
            out[to_device(rows, self.device)] = F.normalize(mean, dim=1)
            start += n
        return out
