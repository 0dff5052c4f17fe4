"""The corpus on the device: token arrays, teacher targets and batches of pairs.

The one idea: all tokens lie in one flat array on the device, and a batch is a gather from
it, so that no data loader can starve the GPU.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

DEFAULT_TASK = "Given a web search query, retrieve relevant passages that answer the query"
TASKS = {
    "en": "Given a one-line summary, retrieve the description it belongs to",
    "zh": "Given a one-line summary, retrieve the description it belongs to",
    "zh_en": "Given a Chinese query, retrieve the English passage it asks for",
    "en_zh": "Given an English query, retrieve the Chinese passage it asks for",
    "parallel": "Retrieve the translation of the text",
    "sense": "Given a definition, retrieve a sentence that uses the defined word",
    "entry": "Given a word, retrieve its dictionary entry",
    "title": "Given a heading, retrieve the section below it",
    "long": "Given a heading, retrieve the document below it",
    "code": "Given a description, retrieve the function that does it",
    "code_named": "Given a description, retrieve the function that does it",
}
MAX_LONG_TOKENS = 2048


def prompted(task: str, query: str) -> str:
    """Return `query` behind the official instruction template."""
    return f"Instruct: {task}\nQuery:{query}"


@dataclass
class Texts:
    """Token sequences back to back: tokens (T,) on the device, offsets and lengths (n,)."""

    tokens: Tensor
    offsets: Tensor
    lengths: np.ndarray

    def rows(self, index: np.ndarray, width: int, end: int) -> tuple[Tensor, Tensor]:
        """Gather the texts `index` cut to `width` tokens: ids (n, longest), lengths (n,).

        A cut text still ends in the token `end`, as the tokenizer's truncation makes it.
        """
        device = self.tokens.device
        at = torch.as_tensor(index, device=device)
        lengths = torch.as_tensor(np.minimum(self.lengths[index], width), device=device)
        longest = int(np.minimum(self.lengths[index], width).max())
        column = torch.arange(longest, device=device)
        where = (self.offsets[at][:, None] + column).clamp_(max=len(self.tokens) - 1)
        ids = self.tokens[where].long()
        ids[column[None] >= lengths[:, None] - 1] = end
        return ids, lengths


def tokenise(tokenizer: Tokenizer, texts: list[str], limit: int, device: torch.device) -> Texts:
    """Encode `texts`, each cut to `limit` tokens, into one flat device array."""
    tokenizer.enable_truncation(limit)
    parts, lengths = [], np.zeros(len(texts), dtype=np.int64)
    for start in range(0, len(texts), 8192):
        for i, encoding in enumerate(tokenizer.encode_batch_fast(texts[start : start + 8192])):
            ids = np.array(encoding.ids, dtype=np.int32)
            parts.append(ids)
            lengths[start + i] = len(ids)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = torch.as_tensor(np.concatenate(parts), device=device)
    return Texts(flat, torch.as_tensor(offsets, device=device), lengths)


@dataclass
class Pairs:
    """Records of one kind: indices of texts, groups, and validation marks, each (n,)."""

    query: np.ndarray
    document: np.ndarray
    group: np.ndarray
    validation: np.ndarray


class Corpus:
    """Unique texts of the corpus and the records of each kind over them."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        ids: dict[str, int] = {}
        groups: dict[str, int] = {}
        rows: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        self.sources: dict[str, int] = defaultdict(int)
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                kind, source, group, query, document, validation = json.loads(line)
                if limit is not None and len(rows[kind]) >= limit:
                    continue
                # Messages and other ungrouped texts are their own group.
                group = groups.setdefault(f"{kind} {group or query}", len(groups))
                q = ids.setdefault(query, len(ids))
                d = ids.setdefault(document, len(ids))
                rows[kind].append((q, d, group, validation))
                self.sources[source] += 1
        self.texts = list(ids)
        self.kinds = {}
        for kind, values in rows.items():
            table = np.array(values, dtype=np.int64)
            self.kinds[kind] = Pairs(table[:, 0], table[:, 1], table[:, 2], table[:, 3] > 0)


def is_english(text: str) -> bool:
    """Tell whether the English teacher can read a text: hardly anything outside Latin."""
    return sum(ord(c) > 0x2E80 for c in text[:400]) * 20 < len(text[:400])
