"""choose(): the cheapest dimension, precision and oversampling that keep a share of the quality."""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..retrieval.corpus_files import find_files
from ..retrieval.passages import read_files
from .bootstrap import ratio_bounds
from .choice_report import COSTS, Choice, Cost, Option, cost_of
from .datasets import Dataset
from .metrics import HEADLINE, Judge
from .pseudo_queries import take_sentences
from .rankings import PRECISIONS, Index, Precision, Setting
from .readers import BUILT_IN, read_dataset
from .vectors import DEFAULT, Source, Vectors, of_arrays, of_model

if TYPE_CHECKING:
    from ..embedder import Embedder

__all__ = ["choose", "read_for_choice"]

_OVERSAMPLES = (2.0, 4.0, 10.0, 20.0)
_TOP_K = 10
_MAX_CANDIDATES = 0.1  # of the documents: with more, a choice among candidates tests little
_MIN_DIM = 32  # the smallest that the models were trained with


def choose(
    data: Dataset | str | os.PathLike[str],
    model: str | Embedder = "mini",
    *,
    target: float = 0.98,
    n_documents: int | None = None,
    minimise: Cost = "bytes",
    dims: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("float32", "int8", "binary", "binary+int8"),
    oversamples: Sequence[float] = _OVERSAMPLES,
    instruction: str = DEFAULT,
    vectors: tuple[Source, Source] | None = None,
    split: str = "test",
    show_progress_bar: bool = False,
    **settings: Any,
) -> Choice:
    """Finds the cheapest setting whose nDCG@10 is at least `target` times that of full vectors.

    A setting qualifies if the lower confidence bound of its ratio reaches the target. The bounds
    hold with 95 % confidence for all settings at once (`ratio_bounds`), so that the choice among
    them is covered. Full float32 vectors always qualify.

    Parameters
    ----------
    data : Dataset, str or path-like
        As `read_dataset` takes it; all documents are ranked. Texts without queries, as
        `qwen3-embed search` reads them, get pseudo-queries.
    model : str or Embedder
        A name is opened and closed.
    target : float
        Share of the quality, above 0 and at most 1.
    n_documents : int, optional
        For the sizes in the report; by default those of `data`.
    minimise : {"bytes", "memory"}
        Of one vector: all stored bytes, or those that every search reads, which leaves out
        codes that only candidates need.
    dims : sequence of int, optional
        By default the model's, its halves down to 32, and three quarters of each.
    precisions : sequence of Precision
    oversamples : sequence of float
        Of "binary+int8" and "binary+float32". Where ten times as many candidates are more than
        a tenth of the documents, the setting is left out: bits would hardly be tested.
    instruction : str
        For queries, as in `evaluate`.
    vectors : (documents, queries), optional
        Instead of a model, as in `evaluate`.
    split
        As in `read_dataset`.
    show_progress_bar : bool
    **settings
        Of `Embedder`, for a model opened by name.

    Returns
    -------
    Choice
        `print(choice)` says what was chosen and why not the next one.

    Raises
    ------
    ImportError
        ir-measures is not installed.
    ValueError
        Data or arguments that can't be used.

    Warns
    -----
    UserWarning
        What of the data was left out, counted; that queries were made of documents.

    Examples
    --------
    >>> choice = choose("notes", n_documents=10_000_000)                   # doctest: +SKIP
    >>> choice.chosen.setting                                              # doctest: +SKIP
    Setting(dim=128, precision='int8', oversample=1.0)
    """
    _check(target, n_documents, minimise, precisions, oversamples)
    if not isinstance(data, Dataset):
        data = read_for_choice(data, split)
    for note in data.notes:
        warnings.warn(f"{data.name}: {note}", stacklevel=2)
    encoded = _encode(data, model, instruction, vectors, show_progress_bar, settings)
    (queries,) = encoded.queries.values()
    full = encoded.documents.shape[1]
    reference = Setting(full)
    grid = [reference]
    for setting in _grid(dims or _default_dims(full), precisions, oversamples):
        if not 1 <= setting.dim <= full:
            raise ValueError(f"dim={setting.dim}, expected 1..{full} for {encoded.name}")
        n_candidates = math.ceil(setting.oversample * _TOP_K) if "+" in setting.precision else 0
        if setting != reference and n_candidates <= len(data.documents) * _MAX_CANDIDATES:
            grid.append(setting)
    judge = Judge(data.relevant, len(data.documents))
    columns = []
    for setting in grid:
        index = Index(encoded.documents, setting, encoded.model_name, data.candidates)
        columns.append(judge.judge(index.rank(queries, _TOP_K))[HEADLINE])
    values = np.column_stack(columns)
    ratios, bounds = ratio_bounds(values)
    options = [
        Option(setting, float(ratio), float(bound))
        for setting, ratio, bound in zip(grid, ratios, bounds, strict=True)
    ]
    options.sort(key=lambda option: cost_of(option.setting, minimise))
    return Choice(
        data.name,
        encoded.name,
        len(data.queries),
        len(data.documents),
        data.notes,
        float(values[:, 0].mean()),
        target,
        len(data.documents) if n_documents is None else n_documents,
        minimise,
        options,
    )


def read_for_choice(data: str | os.PathLike[str], split: str = "test") -> Dataset:
    """Reads a data set, or texts without queries, which get pseudo-queries.

    Parameters
    ----------
    data : str or path-like
        A file or folder as `read_dataset` takes it; otherwise as `qwen3-embed search` does.
    split : str
        Of BEIR's judgments.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_dataset`, `read_files` and `take_sentences`.
    """
    name = os.fspath(data)
    path = Path(name)
    if name in BUILT_IN or not path.exists() or _has_queries(path):
        return read_dataset(data, split=split, all_documents=True)
    files = read_files(find_files(name), leaves_out=path.is_dir())
    return take_sentences(name, [p.in_context for _, passages in files for p in passages])


def _has_queries(path: Path) -> bool:
    """True if a file or folder has queries, judged by its names or its first record."""
    if path.is_dir():
        return (path / "queries.jsonl").is_file()
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".json", ".csv"):
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        if path.suffix.lower() == ".csv":
            return "query" in next(csv.reader(file), [])
        first = next((line for line in file if line.strip()), "")
    try:
        record = json.loads(first)
    except ValueError:
        return False
    return isinstance(record, dict) and "query" in record


def _encode(
    data: Dataset,
    model: str | Embedder,
    instruction: str,
    vectors: tuple[Source, Source] | None,
    progress: bool,
    settings: dict[str, Any],
) -> Vectors:
    from ..embedder import Embedder

    if vectors is not None:
        return of_arrays("vectors", *vectors, data)
    if isinstance(model, Embedder):
        return of_model(model, model.name, data, [instruction], progress=progress)
    with Embedder(model, **settings) as opened:
        return of_model(opened, os.fspath(model), data, [instruction], progress=progress)


def _default_dims(full: int) -> list[int]:
    """The full dimension, its halves down to 32, and three quarters of each."""
    dims = []
    while full >= _MIN_DIM:
        dims += [full, full * 3 // 4]
        full //= 2
    return [dim for dim in dims if dim >= _MIN_DIM] or [full]


def _grid(
    dims: Sequence[int], precisions: Sequence[Precision], oversamples: Sequence[float]
) -> Iterator[Setting]:
    for dim in dict.fromkeys(dims):
        for precision in dict.fromkeys(precisions):
            rescored = "+" in precision
            for oversample in dict.fromkeys(oversamples) if rescored else [1.0]:
                yield Setting(dim, precision, float(oversample))


def _check(
    target: float,
    n_documents: int | None,
    minimise: str,
    precisions: Sequence[str],
    oversamples: Sequence[float],
) -> None:
    if not 0 < target <= 1:
        raise ValueError(f"target={target!r}, expected a share above 0 and at most 1")
    if n_documents is not None and n_documents < 1:
        raise ValueError(f"n_documents={n_documents!r}, expected a positive int")
    if minimise not in COSTS:
        raise ValueError(f"minimise={minimise!r}, expected one of {', '.join(COSTS)}")
    if unknown := [precision for precision in precisions if precision not in PRECISIONS]:
        raise ValueError(f"precisions={unknown!r}, expected some of {', '.join(PRECISIONS)}")
    if not all(1 <= oversample < np.inf for oversample in oversamples):
        raise ValueError(f"oversamples={list(oversamples)!r}, expected numbers of 1 or more")
