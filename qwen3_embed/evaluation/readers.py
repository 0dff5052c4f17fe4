"""Data sets from files: BEIR's folders, JSON lines, CSV, and the built-in sets.

The layout of BEIR (Thakur et al., NeurIPS Datasets 2021) is corpus.jsonl, queries.jsonl and
qrels/SPLIT.tsv.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ..retrieval.passages import decode_text
from .datasets import Dataset, Query

__all__ = ["BUILT_IN", "read_dataset"]

BUILT_IN = ("hard-zh", "hard-en", "zh-en", "code")
_RECORDS = (".jsonl", ".ndjson", ".json")


def read_dataset(
    data: str | os.PathLike[str], *, split: str = "test", all_documents: bool = False
) -> Dataset:
    """Reads a data set.

    Parameters
    ----------
    data : str or path-like
        A built-in set ("hard-zh", "hard-en", "zh-en", "code"), a folder in BEIR's layout, a
        JSON-lines file of {"query", "positive" or "positives", "negatives"}, or a CSV file with
        the columns query, document and, optional, relevance (default 1).
    split : str
        Of BEIR's judgments; a folder with one file of judgments needs none.
    all_documents : bool
        Rank all documents for every query. Otherwise queries of JSON lines that all have
        negatives are ranked with their own positives and negatives.

    Returns
    -------
    Dataset
        Its notes count what was left out.

    Raises
    ------
    FileNotFoundError
        Neither a file or folder nor a built-in set.
    ValueError
        Content that can't be read; the message names file and line.

    Examples
    --------
    >>> len(read_dataset("hard-en").queries)
    71
    """
    name = os.fspath(data)
    path = Path(name)
    if name in BUILT_IN:
        file = name.replace("-", "_") + ".jsonl"
        content = resources.files("qwen3_embed").joinpath("retrieval", "sets", file).read_bytes()
        return _of_records(name, content, all_documents)
    if path.is_dir():
        return _of_folder(path, split)
    if not path.exists():
        raise FileNotFoundError(
            f"no file or folder {name!r}, and no built-in set of that name: {', '.join(BUILT_IN)}"
        )
    if path.suffix.lower() in _RECORDS:
        return _of_records(name, path.read_bytes(), all_documents)
    if path.suffix.lower() == ".csv":
        return _of_table(name, path.read_bytes())
    raise ValueError(
        f"{name}: expected a folder in BEIR's layout, or a file that ends in "
        f"{', '.join(_RECORDS)} or .csv"
    )


def _lines_of(name: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of a JSON-lines file; blank lines are skipped."""
    for number, line in enumerate(decode_text(content, name).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{place}: {type(record).__name__}, expected an object")
        yield place, record


def _string(record: dict[str, Any], key: str, place: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        found = ", ".join(map(str, record)) if key not in record else type(value).__name__
        raise ValueError(f"{place}: {key!r} is no string (found {found})")
    return value


def _strings(record: dict[str, Any], key: str, place: str) -> list[str]:
    value = record.get(key)
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise ValueError(f"{place}: {key!r} is neither a string nor a list of strings")
    return values


def _of_records(name: str, content: bytes, all_documents: bool) -> Dataset:
    """Lines of query, positives and negatives; a document is identified by its text."""
    queries, n_both, n_instructions = [], 0, 0
    documents: dict[str, str] = {}
    for place, record in _lines_of(name, content):
        text = _string(record, "query", place)
        positives = _strings(record, "positive", place) + _strings(record, "positives", place)
        negatives = _strings(record, "negatives", place)
        if not positives:
            raise ValueError(f"{place}: neither 'positive' nor 'positives'")
        n_both += len(set(positives) & set(negatives))
        n_instructions += record.get("instruction") is not None
        for document in (*positives, *negatives):
            documents.setdefault(document, document)
        relevant = dict.fromkeys(negatives, 0) | dict.fromkeys(positives, 1)
        kind = record.get("kind")
        queries.append(Query(text, relevant, list(relevant), kind if isinstance(kind, str) else ""))
    if all_documents or not all(0 in query.relevant.values() for query in queries):
        queries = [query._replace(candidates=None) for query in queries]
    notes = []
    if n_both:
        notes.append(f"{n_both} documents are both positive and negative: counted as positive")
    if n_instructions:
        notes.append(
            f"{n_instructions} lines have an instruction of their own: not used, pass instructions"
        )
    return Dataset.of(name, queries, documents, notes)


def _of_table(name: str, content: bytes) -> Dataset:
    """Rows of query, document and relevance; rows of one query text are one query."""
    reader = csv.DictReader(decode_text(content, name).splitlines(keepends=True), strict=True)
    columns = set(reader.fieldnames or ())
    if not {"query", "document"} <= columns:
        raise ValueError(
            f"{name}: the columns are {', '.join(map(str, reader.fieldnames or ['(none)']))}, "
            f"expected query, document and, optional, relevance"
        )
    documents: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    n_repeated = 0
    try:
        for row in reader:
            place = f"{name}, line {reader.line_num}"
            query, document = row["query"], row["document"]
            if query is None or document is None or None in row:
                raise ValueError(f"{place}: expected {len(columns)} fields")
            grade = _grade(row.get("relevance") or "1", place)
            documents.setdefault(document, document)
            of_query = judged.setdefault(query, {})
            n_repeated += document in of_query
            of_query[document] = max(grade, of_query.get(document, 0))
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: {error}") from None
    notes = [f"{n_repeated} rows repeat a query and its document"] if n_repeated else []
    queries = [Query(query, relevant) for query, relevant in judged.items()]
    return Dataset.of(name, queries, documents, notes)


def _grade(text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{place}: the relevance {text!r} is no whole number") from None


def _of_folder(folder: Path, split: str) -> Dataset:
    """The layout of BEIR."""
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, which BEIR's layout needs")
    documents, notes = _texts(folder / "corpus.jsonl", "documents")
    texts, query_notes = _texts(folder / "queries.jsonl", "queries")
    notes += query_notes
    judged: dict[str, dict[str, int]] = {}
    n_missing = 0
    for query, document, grade in _judgments(_judgment_file(folder, split)):
        n_missing += query not in texts
        judged.setdefault(query, {})[document] = grade
    if n_missing:
        notes.append(f"{n_missing} judgments of queries that are not in queries.jsonl: left out")
    queries = [Query(text, judged.get(query, {})) for query, text in texts.items()]
    return Dataset.of(str(folder), queries, documents, notes)


def _texts(path: Path, noun: str) -> tuple[dict[str, str], list[str]]:
    """Text per id, with a title in front as BEIR has it; notes."""
    texts: dict[str, str] = {}
    n_repeated = 0
    for place, record in _lines_of(str(path), path.read_bytes()):
        key, title = _string(record, "_id", place), record.get("title")
        text = _string(record, "text", place)
        text = f"{title} {text}".strip() if isinstance(title, str) and title else text
        if texts.setdefault(key, text) != text:
            raise ValueError(f"{place}: the id {key!r} is there already, with another text")
        n_repeated += 1
    n_repeated -= len(texts)
    return texts, [f"{n_repeated} {noun} repeat an id: left out"] if n_repeated else []


def _judgment_file(folder: Path, split: str) -> Path:
    found = sorted((folder / "qrels").glob("*.tsv"))
    wanted = folder / "qrels" / f"{split}.tsv"
    if wanted in found:
        return wanted
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.stem for path in found) or "none"
    raise FileNotFoundError(f"{folder} has no qrels/{split}.tsv; splits found: {names}")


def _judgments(path: Path) -> Iterator[tuple[str, str, int]]:
    """(query id, document id, grade) of a table with or without a header."""
    for number, line in enumerate(decode_text(path.read_bytes(), str(path)).split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("query-id")):
            continue
        fields = line.rstrip("\r").split("\t")
        place = f"{path}, line {number}"
        if len(fields) != 3:
            raise ValueError(f"{place}: {len(fields)} fields, expected query-id, corpus-id, score")
        yield fields[0], fields[1], _grade(fields[2], place)
