"""The held-out retrieval tasks: what is asked, among which documents, what is right.

The one idea: every task is a list of queries and a list of documents where query i is
answered by document i and by no other; the measure is nDCG@10 over all documents.
These definitions were fixed before the first training run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.mini import debian, functions, held_out, records, wordnet

N_ENGLISH = 1500
N_ACROSS = 3000
N_SENSES = 2000
N_FUNCTIONS = 2000
MIN_DESCRIPTION_CHARS = 120


@dataclass
class Task:
    """Query i is answered by document i; documents beyond the queries are distractors."""

    name: str
    queries: list[str]
    documents: list[str]


def _by_hash(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _first_of_each(names: list[str], key: dict[str, str]) -> list[str]:
    """Keep the first name of each key, so that no two answers are the same text."""
    seen: set[str] = set()
    kept = []
    for name in names:
        if key[name] not in seen:
            seen.add(key[name])
            kept.append(name)
    return kept


def _described(packages: dict[str, debian.Package], names: Iterable[str]) -> list[str]:
    return [
        n
        for n in names
        if len(packages[n].description) >= MIN_DESCRIPTION_CHARS
        and "ransitional" not in packages[n].summary
    ]


def package_tasks(packages: dict[str, debian.Package]) -> list[Task]:
    """English, Chinese and Chinese-to-English summary -> description."""
    held = held_out.held_out_packages({n: p.source for n, p in packages.items()})
    evaluated = [n for n in packages if n in held and held_out.package_is_evaluated(n)]
    source = {n: p.source for n, p in packages.items()}
    english = {n: debian.mask_name(p.description, n) for n, p in packages.items()}
    chinese = {n: debian.mask_name(p.description_zh, n) for n, p in packages.items()}

    one_each = _first_of_each(_by_hash(_described(packages, evaluated)), source)
    one_each = _first_of_each(one_each, english)[:N_ENGLISH]
    summaries = [debian.mask_name(packages[n].summary, n) for n in one_each]
    tasks = [Task("english", summaries, [english[n] for n in one_each])]

    def translated(name: str) -> bool:
        text = packages[name].description_zh
        return len(text) >= 30 and records.is_chinese(text) and bool(packages[name].summary_zh)

    asked = _by_hash(n for n in evaluated if translated(n))
    asked = _first_of_each(_first_of_each(asked, source), chinese)
    known = _by_hash(n for n in packages if n not in held and translated(n))
    pool = _first_of_each([*asked, *known], chinese)
    questions = [debian.mask_name(packages[n].summary_zh, n) for n in asked]
    tasks.append(Task("chinese", questions, [chinese[n] for n in pool]))

    asked = [n for n in asked if len(packages[n].description) >= 60]
    rest = _by_hash(_described(packages, evaluated))
    pool = _first_of_each([*asked, *rest], english)[:N_ACROSS]
    questions = [debian.mask_name(packages[n].summary_zh, n) for n in asked]
    tasks.append(Task("chinese_to_english", questions, [english[n] for n in pool]))
    return tasks


def sense_task(folder: Path) -> Task:
    """WordNet definition -> the first example sentence of the synset."""
    found: dict[str, str] = {}
    for synset in wordnet.load(folder):
        if held_out.synset_is_evaluated(synset.offset) and synset.examples:
            found.setdefault(synset.examples[0], synset.definition)
    chosen = _by_hash(found)[:N_SENSES]
    return Task("wordnet", [found[example] for example in chosen], chosen)


def function_task(libraries: list[Path]) -> Task:
    """Docstring -> its function without names and comments."""
    found: dict[str, str] = {}
    docs: set[str] = set()
    for root in libraries:
        for path, text in records.library_files(root):
            if held_out.file_is_evaluated(path):
                for function in functions.load(text):
                    if function.doc not in docs:
                        docs.add(function.doc)
                        found.setdefault(function.stripped, function.doc)
    chosen = _by_hash(found)[:N_FUNCTIONS]
    return Task("code_stripped", [found[code] for code in chosen], chosen)


def all_tasks(lists: Path, synsets: Path, libraries: list[Path]) -> list[Task]:
    """Return every task; `lists` holds apt's indices, `synsets` WordNet's data files."""
    packages = debian.load(lists)
    return [*package_tasks(packages), sense_task(synsets), function_task(libraries)]
