"""The corpus on the device: token arrays and pairs of texts.

The one idea: all tokens lie in one flat array on the device, and a batch is a gather from
it, so that no data loader can starve the GPU.
"""

from __future__ import annotations

import json
import lzma
import multiprocessing
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

DEFAULT_TASK = "Given a web search query, retrieve relevant passages that answer the query"
TASKS = {
    "en": "Given a one-line summary, retrieve the description it belongs to",
    "crop": "Given a few words, retrieve the text they are taken from",
    "zh": "Given a one-line summary, retrieve the description it belongs to",
    "crop_zh": "Given a few words, retrieve the text they are taken from",
    "zh_en": "Given a Chinese query, retrieve the English passage it asks for",
    "en_zh": "Given an English query, retrieve the Chinese passage it asks for",
    "parallel": "Retrieve the translation of the text",
    "sense": "Given a definition, retrieve a sentence that uses the defined word",
    "word": "Given a word, retrieve its definition or a sentence that uses it",
    "related": "Given a definition, retrieve the definition of a related word",
    "entry": "Given a word, retrieve its dictionary entry",
    "title": "Given a heading, retrieve the section below it",
    "long": "Given a heading, retrieve the document below it",
    "code": "Given a description, retrieve the function that does it",
    "code_named": "Given a description, retrieve the function that does it",
    "code_name": "Given the name of a function, retrieve its code",
}
CROPS = {"en": 2, "title": 1, "long": 6}  # crops of each document of a kind
MIN_CROPPED = {False: 160, True: 50}  # fewest characters of a text that is cropped; Chinese


def prompted(task: str, query: str) -> str:
    """Return `query` behind the official instruction template."""
    return f"Instruct: {task}\nQuery:{query}"


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device without waiting for what runs there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@dataclass
class Texts:
    """Token sequences back to back: tokens (T,) and offsets (n,) on the device, lengths (n,)."""

    tokens: Tensor
    offsets: Tensor
    lengths: np.ndarray

    def rows(self, index: np.ndarray, width: int, end: int) -> tuple[Tensor, Tensor]:
        """Gather the texts `index` cut to `width` tokens: ids (n, longest), lengths (n,).

        A cut text still ends in the token `end`, as the tokenizer's truncation makes it.
        """
        device = self.tokens.device
        both = np.stack([index, np.minimum(self.lengths[index], width)])
        at, lengths = to_device(both, device)
        column = torch.arange(int(both[1].max()), device=device)
        where = (self.offsets[at][:, None] + column).clamp_(max=len(self.tokens) - 1)
        ids = torch.where(column[None] >= lengths[:, None] - 1, end, self.tokens[where].long())
        return ids, lengths


def _encode(job: tuple[str, list[str], int]) -> tuple[np.ndarray, np.ndarray]:
    path, texts, limit = job
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    found = [np.array(e.ids, dtype=np.int32) for e in tokenizer.encode_batch_fast(texts)]
    return np.concatenate(found), np.array([len(ids) for ids in found], dtype=np.int64)


def encoders() -> Pool:
    """Start one tokenising process per core; to be done before the device is first used."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    return multiprocessing.get_context("fork").Pool()


def tokenise(
    pool: Pool, path: Path, texts: Sequence[str], limit: int, device: torch.device
) -> Texts:
    """Encode `texts`, each cut to `limit` tokens, into one flat device array."""
    jobs = [(str(path), list(texts[i : i + 8192]), limit) for i in range(0, len(texts), 8192)]
    parts = pool.map(_encode, jobs, chunksize=1)
    lengths = np.concatenate([n for _, n in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = torch.as_tensor(np.concatenate([ids for ids, _ in parts]), device=device)
    return Texts(flat, torch.as_tensor(offsets, device=device), lengths)


@dataclass
class Pairs:
    """Records of one kind: indices of texts, groups, and validation marks, each (n,)."""

    query: np.ndarray
    document: np.ndarray
    group: np.ndarray
    validation: np.ndarray


Row = tuple[str, str, str, int]  # group, query, document, is validation


def crops(text: str, n: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Yield `n` (few words of `text`, the text around them) pairs; every second one keeps
    the words in the text, so that both exact words and their surroundings are learnt.
    """
    chinese = not is_english(text)
    units = list(text) if chinese else text.split()
    joint = "" if chinese else " "
    if len(text) < MIN_CROPPED[chinese] or len(units) < 14:
        return
    for i in range(n):
        size = chance.randint(5, 24) if chinese else chance.randint(3, 14)
        size = min(size, len(units) // 2)
        start = chance.randint(0, len(units) - size)
        low = max(0, start - chance.randint(40, 100))
        high = start + size + chance.randint(40, 100)
        query = units[start : start + size]
        around = units[low:start] + (query if i % 2 else []) + units[start + size : high]
        yield joint.join(query), joint.join(around)


def _add_crops(rows: dict[str, list[Row]], limit: int | None) -> None:
    chance = random.Random(1)
    for kind, n in CROPS.items():
        for group, _, document, validation in rows.get(kind, []):
            if kind == "long" and not is_english(document):
                continue
            for query, around in crops(document, n, chance):
                rows["crop"].append((group or document, query, around, validation))
    sources = [("zh", 2), ("parallel", 1), ("en_zh", 1)]
    for kind, n in sources:
        for group, _, document, validation in rows.get(kind, []):
            if not is_english(document):
                for query, around in crops(document, n, chance):
                    rows["crop_zh"].append((group or document, query, around, validation))
    if limit is not None:
        for kind in ("crop", "crop_zh"):
            rows[kind] = rows[kind][:limit]


class Corpus:
    """Unique texts of the corpus and the records of each kind over them."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        rows: dict[str, list[Row]] = defaultdict(list)
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                kind, _, group, query, document, validation = json.loads(line)
                if limit is None or len(rows[kind]) < limit:
                    rows[kind].append((group, query, document, validation))
        _add_crops(rows, limit)
        ids: dict[str, int] = {}
        groups: dict[str, int] = {}
        self.kinds = {}
        for kind, values in rows.items():
            table = np.empty((4, len(values)), dtype=np.int64)
            for i, (group, query, document, validation) in enumerate(values):
                # Messages and other ungrouped texts are their own group.
                number = groups.setdefault(f"{kind} {group or query}", len(groups))
                q, d = ids.setdefault(query, len(ids)), ids.setdefault(document, len(ids))
                table[:, i] = q, d, number, validation
            self.kinds[kind] = Pairs(table[0], table[1], table[2], table[3] > 0)
        self.texts = list(ids)


_WIDE = re.compile(r"[\u2e80-\U0010ffff]")


def is_english(text: str) -> bool:
    """Tell whether the English teacher can read a text: hardly anything outside Latin."""
    head = text[:400]
    return len(_WIDE.findall(head)) * 20 < len(head)
