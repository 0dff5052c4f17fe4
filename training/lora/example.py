"""Pairs for the worked example: lint messages and why they matter, from ruff's own rules.

    python -m training.lora.example FOLDER

Domain: the documentation of the rules of the Python package ruff (MIT licence), which `ruff
rule --all` prints. A query is a rule's message or its name in words, its document the section
that says why. Base task: the standard library's docstrings (PSF licence), first sentence to
the rest, which fine-tuning must not unlearn. Rules and modules are held out by a hash of
their names.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from training.lora.pairs import Pair, write_pairs

INSTRUCTION = "Given a message of a Python linter, retrieve the explanation why it matters"
BASE_INSTRUCTION = "Given the summary of a Python function, retrieve its description"
MIN_CHARACTERS, MAX_CHARACTERS = 60, 1200


def is_held_out(name: str) -> bool:
    """A third of all names."""
    return hashlib.sha256(name.encode()).digest()[0] < 85


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\??\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found.group(1).split())[:MAX_CHARACTERS] if found else ""


def rule_pairs() -> tuple[list[Pair], list[Pair]]:
    """(train, held out)"""
    command = [sys.executable, "-m", "ruff", "rule", "--all", "--output-format", "json"]
    rules = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    train: list[Pair] = []
    held_out: list[Pair] = []
    reasons: dict[str, str] = {}
    for rule in rules:
        reason = section(rule["explanation"], "Why is this bad")
        # Families of rules share a reason: a rule joins the one that had it first.
        owner = reasons.setdefault(reason, rule["name"])
        if len(reason) < MIN_CHARACTERS:
            continue
        held = is_held_out(owner)
        queries = [rule["summary"]]
        if not held:
            queries += [
                rule["name"].replace("-", " "),
                section(rule["explanation"], "What it does"),
            ]
        pairs = [Pair(q, reason, instruction=INSTRUCTION) for q in queries if q]
        (held_out if held else train).extend(pairs)
    return train, held_out


def docstring_pairs() -> list[Pair]:
    """Of the held-out modules of the standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    pairs = []
    for path in sorted(folder.glob("*.py")):
        if not is_held_out(path.name):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8", errors="replace"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            summary, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            rest = " ".join(rest.split())[:MAX_CHARACTERS]
            if len(summary) >= 20 and len(rest) >= MIN_CHARACTERS:
                pairs.append(Pair(" ".join(summary.split()), rest, instruction=BASE_INSTRUCTION))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the three files go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = rule_pairs()
    for name, pairs in (("train", train), ("held_out", held_out), ("base", docstring_pairs())):
        write_pairs(folder / f"{name}.jsonl", pairs)
        print(f"{name}.jsonl: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
