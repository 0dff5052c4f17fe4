"""Vectors of a data set's queries and documents: from a model, from files, from a server."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from ..templates import INSTRUCTIONS
from .datasets import Dataset

if TYPE_CHECKING:
    from ..embedder import Embedder
    from ..retrieval.domain_map import DomainMap

__all__ = ["DEFAULT", "Vectors", "of_arrays", "of_model", "of_server"]

DEFAULT = "default"  # the model's own prompt for queries
_TIMED_QUERIES = 20
_TEXTS_PER_REQUEST = 64

Rows = npt.NDArray[np.float32]
Source = str | os.PathLike[str] | npt.NDArray[Any]


@dataclass(frozen=True)
class Vectors:
    """Vectors and what they cost.

    Attributes
    ----------
    name : str
    documents : ndarray
        (n_documents, dim) float32.
    queries : dict of str to ndarray
        Per instruction, (n_queries, dim) float32.
    query_ms : float or None
        Median time of one warm query, alone.
    texts_per_s : float or None
        Documents per second.
    peak_mb : float or None
        Peak memory of this process meanwhile; a GPU's memory is not in it.
    model_name : str
        `Embedder.name`; "" of vectors from elsewhere.
    """

    name: str
    documents: Rows
    queries: dict[str, Rows]
    query_ms: float | None = None
    texts_per_s: float | None = None
    peak_mb: float | None = None
    model_name: str = ""

    def projected(self, domain: DomainMap) -> Vectors:
        """The same vectors with a domain map after the model."""
        queries = {label: domain.apply(rows) for label, rows in self.queries.items()}
        documents = domain.apply(self.documents)
        return replace(self, name=f"{self.name} + map", documents=documents, queries=queries)


class _Prompt(TypedDict, total=False):
    prompt: str
    prompt_name: str
    instruction: str


def _prompt_of(instruction: str, prompts: Mapping[str, str]) -> _Prompt:
    """The keyword arguments of `encode_query` for one instruction as the user names it."""
    if instruction == DEFAULT:
        return {}
    if instruction == "none":
        return {"prompt": ""}
    if instruction in INSTRUCTIONS or instruction in prompts:
        return {"prompt_name": instruction}
    if " " in instruction.strip() or not instruction.isascii():
        return {"instruction": instruction}
    raise ValueError(
        f"the instruction {instruction!r} is unknown; expected none, default, a sentence, or one "
        f"of {', '.join(sorted({*INSTRUCTIONS, *prompts}))}"
    )


def of_model(
    model: Embedder, name: str, data: Dataset, instructions: Sequence[str], *, progress: bool
) -> Vectors:
    """Encodes a data set: documents once, queries once per instruction.

    Parameters
    ----------
    model : Embedder
    name : str
    data : Dataset
    instructions : sequence of str
        "default", "none", a name, or a sentence.
    progress : bool
        Show a progress bar for the documents.

    Raises
    ------
    ValueError
        An unknown instruction.
    """
    prompts = {label: _prompt_of(label, model.prompts) for label in instructions}
    _reset_peak()
    start = time.perf_counter()
    documents = model.encode_document(data.documents, show_progress_bar=progress)
    documents_s = time.perf_counter() - start
    queries = {
        label: model.encode_query(data.queries, show_progress_bar=False, **prompt)
        for label, prompt in prompts.items()
    }
    times = []
    for text in data.queries[:_TIMED_QUERIES]:
        start = time.perf_counter()
        model.encode_query(text, show_progress_bar=False, **prompts[instructions[0]])
        times.append(time.perf_counter() - start)
    query_ms = float(np.median(times)) * 1e3
    texts_per_s = len(documents) / documents_s
    return Vectors(name, documents, queries, query_ms, texts_per_s, _peak_mb(), model.name)


def _reset_peak() -> None:
    """Lets the peak of resident memory begin anew; Linux from 4.0 on (man 5 proc)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_arrays(name: str, documents: Source, queries: Source, data: Dataset) -> Vectors:
    """Vectors made elsewhere, compared by cosine.

    Parameters
    ----------
    name : str
    documents, queries : ndarray, or path of an .npy file
        (n, dim) numbers: a row per document and per query, in the order of `data`; queries may
        also have a row per query of the file that `data` was read from.
    data : Dataset

    Raises
    ------
    ValueError
        Another number of rows, other dims, or values that aren't finite numbers.
    """
    rows = _rows(f"documents of {name}", documents)
    own = _rows(f"queries of {name}", queries)
    if len(rows) != len(data.documents):
        raise ValueError(
            f"documents of {name}: {len(rows)} rows, expected {len(data.documents)}, one per "
            f"document"
        )
    if len(own) == data.n_query_rows:
        own = own[data.query_rows]
    if len(own) != len(data.queries):
        counts = sorted({len(data.queries), data.n_query_rows})
        raise ValueError(
            f"queries of {name}: {len(own)} rows, expected {' or '.join(map(str, counts))}, one "
            f"per query"
        )
    if rows.shape[1] != own.shape[1]:
        raise ValueError(
            f"{name}: documents have {rows.shape[1]} dimensions and queries {own.shape[1]}"
        )
    return Vectors(name, rows, {"": own})


def _rows(what: str, source: Source) -> Rows:
    if not isinstance(source, np.ndarray):
        try:
            source = np.load(source, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{what}: {source} is no .npy file ({error})") from None
    rows = np.asarray(source)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or rows.shape[1] == 0:
        raise ValueError(f"{what}: {rows.dtype} {rows.shape}, expected numbers (n, dim)")
    rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"{what}: row {np.argmin(np.isfinite(rows).all(axis=1))} is not finite")
    return rows


def of_server(name: str, url: str, model: str, data: Dataset) -> Vectors:
    """Vectors of an OpenAI-compatible server; texts are sent as they are.

    Parameters
    ----------
    name : str
    url : str
        With the version: "http://127.0.0.1:8000/v1". The key is read from OPENAI_API_KEY.
    model : str
        As the server names it.
    data : Dataset

    Raises
    ------
    ImportError
        openai is not installed.
    ValueError
        An answer without one finite vector per text.
    """
    try:
        from openai import OpenAI
    except ImportError:
        raise ImportError(
            "a server's vectors need openai: pip install 'qwen3-embed-native[evaluate]'"
        ) from None
    client = OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=5)

    def encode(texts: Sequence[str]) -> Rows:
        found: list[Any] = []
        for start in range(0, len(texts), _TEXTS_PER_REQUEST):
            part = list(texts[start : start + _TEXTS_PER_REQUEST])
            answer = client.embeddings.create(model=model, input=part)
            vectors = sorted(answer.data, key=lambda entry: entry.index)
            if [entry.index for entry in vectors] != list(range(len(part))):
                raise ValueError(f"{url}: {len(vectors)} vectors for {len(part)} texts")
            found += [entry.embedding for entry in vectors]
        if len({len(vector) for vector in found}) != 1:
            raise ValueError(f"{url}: vectors of different sizes")
        return _rows(f"vectors of {name}", np.array(found))

    with client:
        start = time.perf_counter()
        documents = encode(data.documents)
        documents_s = time.perf_counter() - start
        queries = encode(data.queries)
        times = []
        for text in data.queries[:_TIMED_QUERIES]:
            start = time.perf_counter()
            encode([text])
            times.append(time.perf_counter() - start)
    query_ms = float(np.median(times)) * 1e3
    return Vectors(name, documents, {"": queries}, query_ms, len(documents) / documents_s)
