"""evaluate(): every system on one data set, compared query by query.

A system is a model with an instruction, a dimension and a precision. Documents are encoded once per
model, at full dimension, and queries once per instruction; dimensions and precisions are made of
these vectors.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .bootstrap import Bootstrap
from .comparisons import compare
from .datasets import Dataset
from .metrics import DEPTH, Judge
from .rankings import (
    OVERSAMPLE,
    PRECISIONS,
    Index,
    Precision,
    Setting,
    order_by_score,
    tie_places,
)
from .readers import read_dataset
from .report import Report
from .rows import Row
from .vectors import DEFAULT, Source, Vectors, of_arrays, of_model, of_server

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..reranker import Reranker
    from ..retrieval.domain_map import DomainMap

__all__ = ["evaluate"]

Rankings = list[npt.NDArray[np.int64]]


def evaluate(
    data: Dataset | str | os.PathLike[str],
    models: Sequence[str | Embedder] = ("mini",),
    *,
    dims: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("float32",),
    oversample: float = OVERSAMPLE,
    instructions: Sequence[str] = (DEFAULT,),
    reranker: Reranker | None = None,
    rerank_top: int = 50,
    vectors: Mapping[str, tuple[Source, Source]] | None = None,
    servers: Mapping[str, tuple[str, str]] | None = None,
    projection: str | os.PathLike[str] | DomainMap | None = None,
    split: str = "test",
    all_documents: bool = False,
    show_progress_bar: bool = False,
    **settings: Any,
) -> Report:
    """Measures retrieval quality and cost.

    Parameters
    ----------
    data : Dataset, str or path-like
        As `read_dataset` takes it.
    models : sequence of str or Embedder
        Names are opened, one after another, and closed.
    dims : sequence of int, optional
        Dimensions; by default each model's own. Those that a model hasn't are left out, with a
        warning.
    precisions : sequence of {"float32", "int8", "binary", "binary+int8", "binary+float32"}
        As `Setting` defines them; "binary+..." finds candidates by bits and rescores them.
    oversample : float
        Candidates of "binary+..." per document of a search for ten.
    instructions : sequence of str
        For queries: "default" (the model's own prompt), "none", a name of
        `qwen3_embed.INSTRUCTIONS`, or a sentence. Vectors and servers take none.
    reranker : Reranker, optional
        Adds a row per model: its best documents in the reranker's order.
    rerank_top : int
        Documents per query that the reranker reads.
    vectors : mapping of str to (documents, queries), optional
        By name: arrays or .npy files, a row per text of the data set.
    servers : mapping of str to (url, model), optional
        By name: OpenAI-compatible servers.
    projection : path-like or DomainMap, optional
        Of `fit_domain`, for this very model: adds its vectors with the map to the table, by the
        matrix at every dimension.
    split, all_documents
        As in `read_dataset`.
    show_progress_bar : bool
        On standard error.
    **settings
        Of `Embedder`, for models opened by name.

    Returns
    -------
    Report
        One row per system; `print(report)` is the table, `report.save(folder)` writes the files.

    Raises
    ------
    ImportError
        ir-measures is not installed.
    ValueError
        Data, dimensions or instructions that can't be used.

    Warns
    -----
    UserWarning
        What of the data was left out, counted; dimensions that a model hasn't.

    Examples
    --------
    >>> report = evaluate("hard-en", dims=[256, 64])                       # doctest: +SKIP
    >>> print(report.conclusions[0])                                       # doctest: +SKIP
    """
    if type(rerank_top) is not int or rerank_top < 1:
        raise ValueError(f"rerank_top={rerank_top!r}, expected a positive int")
    if not 1 <= oversample < np.inf:
        raise ValueError(f"oversample={oversample!r}, expected a number of 1 or more")
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions or not instructions:
        raise ValueError(
            f"precisions={list(precisions)!r} and instructions={list(instructions)!r}, expected "
            f"at least one of each; precisions are {', '.join(PRECISIONS)}"
        )
    if not isinstance(data, Dataset):
        data = read_dataset(data, split=split, all_documents=all_documents)
    for note in data.notes:
        warnings.warn(f"{data.name}: {note}", stacklevel=2)
    n_ranked = max(map(len, data.candidates)) if data.candidates else len(data.documents)
    table = _Table(data, Judge(data.relevant, n_ranked))
    # Labels repeat neither in the table nor in a comparison.
    instructions = list(dict.fromkeys(instructions))
    precisions = list(dict.fromkeys(precisions))
    for encoded in _sources(
        data,
        models,
        instructions,
        vectors or {},
        servers or {},
        projection,
        show_progress_bar,
        settings,
    ):
        table.add(encoded, _kept_dims(encoded, dims), precisions, oversample)
        if reranker is not None:
            table.add_reranked(reranker, rerank_top, show_progress_bar)
    rows = table.rows
    if not rows:
        raise ValueError("nothing to evaluate: no models, vectors or servers are given")
    bootstrap = Bootstrap(len(data.queries))
    for row in rows:
        ends = bootstrap.intervals(np.column_stack(list(row.values.values())))
        row.intervals.update(zip(row.values, map(tuple, ends.T.tolist()), strict=True))
    return Report(data, rows, compare(rows, bootstrap))


def _sources(
    data: Dataset,
    models: Sequence[str | Embedder],
    instructions: Sequence[str],
    vectors: Mapping[str, tuple[Source, Source]],
    servers: Mapping[str, tuple[str, str]],
    projection: str | os.PathLike[str] | DomainMap | None,
    progress: bool,
    settings: Mapping[str, Any],
) -> Iterator[Vectors]:
    """Vectors of one model, file pair or server after another."""
    from ..embedder import Embedder
    from ..retrieval.domain_map import open_projection

    # Files first: a wrong shape is told before a model runs for an hour.
    loaded = [of_arrays(name, *pair, data) for name, pair in vectors.items()]
    for number, model in enumerate(models, 1):
        given = isinstance(model, Embedder)
        name = f"model {number}" if isinstance(model, Embedder) else os.fspath(model)
        opened = model if isinstance(model, Embedder) else Embedder(model, **settings)
        try:
            # A map of another model is told before that model runs for an hour.
            domain = projection and open_projection(projection, opened.fingerprint, name)
            encoded = of_model(opened, name, data, instructions, progress=progress)
            yield encoded
            if domain:
                yield encoded.projected(domain)
        finally:
            if not given:
                opened.close()
    yield from loaded
    for name, (url, model_name) in servers.items():
        yield of_server(name, url, model_name, data)


def _kept_dims(encoded: Vectors, dims: Sequence[int] | None) -> list[int]:
    """The dimensions that these vectors have, of those asked for; the largest first."""
    full = encoded.documents.shape[1]
    wanted = sorted(set(dims or [full]), reverse=True)
    kept = [dim for dim in wanted if 1 <= dim <= full]
    if len(kept) < len(wanted):
        out = ", ".join(str(dim) for dim in wanted if dim not in kept)
        told = f"{encoded.name} has 1..{full} dimensions"
        if not kept:
            raise ValueError(f"{told}, and none of dims={out} is among them")
        warnings.warn(f"{told}: {out} left out", stacklevel=3)
    return kept


class _Table:
    """Rows of the report, and the rankings that a reranker starts from."""

    def __init__(self, data: Dataset, judge: Judge) -> None:
        self.rows: list[Row] = []
        self._data = data
        self._judge = judge
        self._first: tuple[Row, Rankings] | None = None  # of the latest model

    def add(
        self,
        encoded: Vectors,
        dims: Sequence[int],
        precisions: Sequence[Precision],
        oversample: float,
    ) -> None:
        """A row per dimension, precision and instruction."""
        self._first = None
        candidates = self._data.candidates
        for dim in dims:
            for precision in precisions:
                setting = Setting(dim, precision, oversample if "+" in precision else 1.0)
                index = Index(encoded.documents, setting, encoded.model_name, candidates)
                for instruction, queries in encoded.queries.items():
                    row = Row(
                        encoded.name,
                        instruction,
                        setting,
                        query_ms=encoded.query_ms,
                        texts_per_s=encoded.texts_per_s,
                        peak_mb=encoded.peak_mb,
                    )
                    self._judge_row(row, index.rank(queries, DEPTH))

    def _judge_row(self, row: Row, rankings: Rankings) -> None:
        row.values.update(self._judge.judge(rankings))
        self.rows.append(row)
        if self._first is None:
            self._first = row, rankings

    def add_reranked(self, reranker: Reranker, top: int, progress: bool) -> None:
        """A row for the latest model's first system, its best documents reranked."""
        if self._first is None:
            return
        row, rankings = self._first
        texts = self._data.documents
        pairs = [
            (query, texts[number])
            for query, ranking in zip(self._data.queries, rankings, strict=True)
            for number in ranking[:top].tolist()
        ]
        scores = np.atleast_1d(reranker.predict(pairs, show_progress_bar=progress))
        places = tie_places(len(texts))
        reranked, start = [], 0
        for ranking in rankings:
            head = ranking[:top]
            own = scores[start : start + len(head)]
            start += len(head)
            best = order_by_score(head.tolist(), own, places)
            reranked.append(np.concatenate([best, ranking[top:]]))
        new = replace(
            row,
            reranked=True,
            query_ms=None,
            texts_per_s=None,
            peak_mb=None,
            values={},
            intervals={},
        )
        self._judge_row(new, reranked)
