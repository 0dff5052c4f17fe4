"""The teacher, all-MiniLM-L6-v2, packed small enough to travel, and its vectors.

The one idea: matrices are kept as int8 with one scale a row (a quarter of the size); the
vectors stay within a cosine of 0.999 of the original's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

MAX_TOKENS = 256
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
    """MiniLM as a function from texts to unit vectors (n, 384)."""

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
        self.model = model.to(device).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    @torch.no_grad()
    def encode(self, texts: list[str], budget: int = 131072) -> Tensor:
        """Return the unit vectors (n, 384) fp32 of `texts` on the device."""
        encodings = []
        for start in range(0, len(texts), 8192):
            batch = self.tokenizer.encode_batch_fast(texts[start : start + 8192])
            encodings += [np.array(e.ids, dtype=np.int32) for e in batch]
        lengths = np.array([len(ids) for ids in encodings])
        out = torch.empty(len(texts), HIDDEN, device=self.device)
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= budget:
                stop += 1
            rows = order[start:stop]
            width = int(lengths[rows].max())
            ids = np.zeros((len(rows), width), dtype=np.int64)
            for i, row in enumerate(rows):
                ids[i, : lengths[row]] = encodings[row]
            mask = np.arange(width) < lengths[rows][:, None]
            ids_t = torch.from_numpy(ids).to(self.device)
            mask_t = torch.from_numpy(mask).to(self.device)
            enabled = self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
                hidden = self.model(ids_t, attention_mask=mask_t.long()).last_hidden_state
            weight = mask_t[..., None].float()
            mean = (hidden.float() * weight).sum(1) / weight.sum(1)
            out[torch.from_numpy(rows).to(self.device)] = torch.nn.functional.normalize(mean, dim=1)
            start = stop
        return out
