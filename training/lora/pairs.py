"""The JSON lines that fine-tuning reads: {"query", "positive", "negatives", "instruction"}."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen3_embed.templates import DEFAULT_INSTRUCTION, instruct_prompt


@dataclass(frozen=True)
class Pair:
    """A query, a document that answers it, and documents that don't."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    instruction: str = DEFAULT_INSTRUCTION

    @property
    def prompted(self) -> str:
        """The query as the model reads it; documents stand bare."""
        return instruct_prompt(self.instruction) + self.query


def read_pairs(path: Path) -> list[Pair]:
    """All lines; an error names the line."""
    pairs = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            negatives = content.get("negatives") or []
            pair = Pair(
                content["query"],
                content["positive"],
                tuple(negatives),
                content.get("instruction") or DEFAULT_INSTRUCTION,
            )
            texts = (pair.query, pair.positive, pair.instruction, *pair.negatives)
            if not isinstance(negatives, list) or not all(isinstance(t, str) for t in texts):
                raise TypeError("a text is no string, or negatives no list")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SystemExit(
                f'error: {path}:{number}: {error!r}; expected {{"query": str, "positive": str, '
                f'"negatives": [str, ...], "instruction": str}}, the last two optional'
            ) from error
        pairs.append(pair)
    if not pairs:
        raise SystemExit(f"error: {path} holds no pairs")
    return pairs


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            record = {"query": pair.query, "positive": pair.positive}
            more = {"negatives": list(pair.negatives), "instruction": pair.instruction}
            file.write(json.dumps(record | more, ensure_ascii=False) + "\n")


def batches(pairs: Sequence[Pair], batch_size: int, seed: int, epoch: int) -> Iterator[list[Pair]]:
    """One epoch's batches, shuffled by seed and epoch alone, so that a run can go on.

    The rest that fills no batch is left out: fewer in-batch negatives are another loss.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    for start in range(0, len(pairs) - batch_size + 1, batch_size):
        yield [pairs[i] for i in order[start : start + batch_size]]
