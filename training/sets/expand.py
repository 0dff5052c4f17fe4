"""Expands the written queries to 16 candidates each, checks every rule, and writes the sets.

python -m training.sets.expand             # writes qwen3_embed/retrieval/sets/*.jsonl
python -m training.sets.expand --check     # writes nothing; fails if a shipped set differs
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence

import bm25s

from qwen3_embed.integrations.hybrid import character_bigrams
from training.sets import rules, source
from training.sets.source import Block, Item

CANDIDATES = 16
NEAREST = 5  # at most, drawn by BM25
FROM_ONE_GROUP = 2  # at most, so that drawn candidates are of many subjects
SEED = "qwen3_embed"


def draw(
    block: Block, blocks: Sequence[Block], nearest: Sequence[str], uses: Counter[str]
) -> list[str]:
    """The distractors of a query: its own, the nearest of other groups, then other right answers.

    Right answers, because a candidate's style must not tell whether it was written as an answer.

    Parameters
    ----------
    blocks : sequence of Block
        All queries of the kind.
    nearest : sequence of str
        Candidates of the kind that share words with the query, nearest first.
    uses : Counter
        How often a text was drawn so far; those drawn least come first, then chance decides.
    """
    chance = random.Random(f"{SEED} {block.query}")
    group_of = {text: other.group for other in blocks for text in other.written}
    answers = [other.answer for other in blocks]
    chance.shuffle(answers)
    answers.sort(key=uses.__getitem__)
    chosen = list(dict.fromkeys(block.written))
    drawn_from: Counter[int] = Counter()
    few = min(len(chosen) + NEAREST, CANDIDATES)
    pools = [(nearest, few, FROM_ONE_GROUP), (answers, CANDIDATES, FROM_ONE_GROUP)]
    pools.append((sorted(group_of, key=uses.__getitem__), CANDIDATES, CANDIDATES))  # a small kind's
    for pool, limit, from_one_group in pools:
        for text in pool:
            if len(chosen) >= limit:
                break
            group = group_of[text]
            if text in chosen or any(term in text for term in block.excluded):
                continue
            if group != block.group and drawn_from[group] < from_one_group:
                drawn_from[group] += 1
                uses[text] += 1
                chosen.append(text)
    return chosen[1:]


def items_of_kind(name: str, blocks: Sequence[Block]) -> list[Item]:
    """The queries of one kind, each with its 15 distractors."""
    texts = list(dict.fromkeys(text for block in blocks for text in block.written))
    bm25 = bm25s.BM25()
    bm25.index([character_bigrams(text) for text in texts], show_progress=False)
    uses: Counter[str] = Counter()
    items = []
    for number, block in enumerate(blocks, 1):
        scores = bm25.get_scores(character_bigrams(block.query))
        nearest = [texts[i] for i in (-scores).argsort(kind="stable") if scores[i] > 0]
        negatives = tuple(draw(block, blocks, nearest, uses))
        item_id = f"{name}-{block.kind}-{number:03}"
        items.append(Item(item_id, block.kind, block.query, block.answer, negatives))
    return items


def items_of_set(name: str) -> list[Item]:
    """The set, kind by kind."""
    items = []
    for path in sorted((source.SOURCES / name).glob("*.txt")):
        items += items_of_kind(name.replace("_", "-"), source.read_blocks(path))
    return items


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help="sets (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()
    failures = []
    for name in arguments.names or source.SETS:
        items = items_of_set(name)
        path = source.SHIPPED / f"{name}.jsonl"
        failures += rules.report(name, items)
        if not arguments.check:
            source.write_items(path, items)
        elif not path.exists() or source.read_items(path) != items:
            failures.append(f"{path} differs from its sources: run expand.py")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
