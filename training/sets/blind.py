"""A blind second reader: prints queries without the answers, and scores what the reader picked.

    python -m training.sets.blind show hard_zh -o hard_zh.txt
    python -m training.sets.blind score hard_zh picks.txt

The reader writes one line per query: its number and a letter from a to p, or ? for "can't tell".
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from pathlib import Path

from training.sets import source
from training.sets.source import Item

LETTERS = "abcdefghijklmnop"
PICK = re.compile(r"(\d+)[\s.:)]+([a-p?])\)?", re.IGNORECASE)


def shuffled(item: Item) -> list[str]:
    """The candidates in the order of their letters."""
    candidates = item.candidates
    random.Random(f"blind {item.id}").shuffle(candidates)
    return candidates


def show(items: list[Item]) -> str:
    """The queries and their candidates, without a mark."""
    blocks = []
    for number, item in enumerate(items, 1):
        lines = [f"{number}. {item.query}"]
        for letter, text in zip(LETTERS, shuffled(item), strict=True):
            lines.append(f"   {letter}) " + text.replace("\n", "\n      "))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def read_picks(path: Path, count: int) -> dict[int, str]:
    """Letter per query number; an error names the line."""
    picks: dict[int, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        found = PICK.fullmatch(line.strip())
        if not found or not 1 <= int(found.group(1)) <= count:
            raise SystemExit(f"error: {path}:{number}: {line!r}, expected a query's number and a-p")
        if int(found.group(1)) in picks:
            raise SystemExit(f"error: {path}:{number}: query {found.group(1)} is answered twice")
        picks[int(found.group(1))] = found.group(2).lower()
    return picks


def score(items: list[Item], picks: dict[int, str]) -> None:
    """Prints the share of marked answers that were picked, and each miss. A gap is a miss."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for number, item in enumerate(items, 1):
        order = shuffled(item)
        answer = LETTERS[order.index(item.positive)]
        pick = picks.get(number, "?")
        total[item.kind] += 1
        right[item.kind] += pick == answer
        if pick != answer:
            other = order[LETTERS.index(pick)] if pick in LETTERS else "(none)"
            print(f"{number}. {item.query}\n   picked {pick}: {other}")
            print(f"   marked {answer}: {item.positive}")
    for kind, count in total.items():
        print(f"{kind:<18} {right[kind]:4} of {count:4}  {right[kind] / count:.1%}")
    print(
        f"{'all':<18} {right.total():4} of {total.total():4}  {right.total() / total.total():.1%}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("show", "score"):
        subparser = commands.add_parser(command)
        subparser.add_argument("name", choices=source.SETS)
    commands.choices["show"].add_argument("-o", "--output", type=Path)
    commands.choices["score"].add_argument("picks", type=Path)
    arguments = parser.parse_args()
    items = source.read_items(source.SHIPPED / f"{arguments.name}.jsonl")
    if arguments.command == "score":
        score(items, read_picks(arguments.picks, len(items)))
    elif arguments.output:
        arguments.output.write_text(show(items), "utf-8")
    else:
        print(show(items), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
