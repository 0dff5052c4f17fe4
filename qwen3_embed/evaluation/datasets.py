"""A retrieval data set: queries, documents, and which document answers which query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Dataset", "Query"]


class Query(NamedTuple):
    """A query as it was read.

    Attributes
    ----------
    text : str
    relevant : mapping of str to int
        Grade per document id; a grade of 0 is a judged wrong document.
    candidates : sequence of str or None
        Ids of the documents it is to be ranked with; None: all.
    kind : str
        A group to report apart, "" without.
    """

    text: str
    relevant: Mapping[str, int]
    candidates: Sequence[str] | None = None
    kind: str = ""


@dataclass(frozen=True)
class Dataset:
    """Queries, documents and judgments, checked.

    Attributes
    ----------
    name : str
    queries, documents : list of str
    relevant : list of dict of int to int
        Per query, the grades (> 0) of its right documents by their index.
    candidates : list of list of int, or None
        Per query, the documents that it is ranked with; None: all documents.
    kinds : list of str
        Per query; all "" without kinds.
    query_rows : list of int
        Position of each query among all queries of the file.
    n_query_rows : int
        Queries of the file.
    notes : list of str
        What was left out or looks wrong, counted.

    Examples
    --------
    >>> documents = {"a": "gzip compresses a file", "b": "git undoes a commit"}
    >>> data = Dataset.of("notes", [Query("undo a commit", {"b": 1})], documents)
    >>> data.relevant
    [{1: 1}]
    """

    name: str
    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, int]]
    candidates: list[list[int]] | None
    kinds: list[str]
    query_rows: list[int]
    n_query_rows: int
    notes: list[str]

    @classmethod
    def of(
        cls,
        name: str,
        queries: Sequence[Query],
        documents: Mapping[str, str],
        notes: Sequence[str] = (),
    ) -> Dataset:
        """Checks queries and judgments; what can't be used is left out and counted in `notes`.

        Parameters
        ----------
        name : str
        queries : sequence of Query
        documents : mapping of str to str
            Text per id, in the order of the vectors.
        notes : sequence of str
            Of the reader.

        Raises
        ------
        ValueError
            No query is left, or there is only one document.
        """
        if len(documents) < 2:
            raise ValueError(
                f"{name} has {len(documents)} document{'s' * (len(documents) != 1)}, expected "
                f"at least two: any order of fewer is right"
            )
        place = {document: i for i, document in enumerate(documents)}
        counts = _Counts()
        kept, relevant, candidates = [], [], []
        for row, query in enumerate(queries):
            right = {d: grade for d, grade in query.relevant.items() if grade > 0}
            known = {place[d]: grade for d, grade in right.items() if d in place}
            counts.missing += len(right) - len(known)
            if not query.text.strip():
                counts.empty += 1
            elif not query.relevant:
                counts.not_judged += 1
            elif not known:
                counts.without_answer += 1
            else:
                kept.append(row)
                relevant.append(known)
                ranked = query.candidates
                among = [*known, *(place[d] for d in ranked or () if d in place)]
                candidates.append(list(dict.fromkeys(among)))
                counts.always_right += ranked is not None and len(candidates[-1]) == len(known)
        texts = [queries[row].text for row in kept]
        if not texts:
            told = "; ".join([*notes, *counts.notes()]) or "it is empty"
            raise ValueError(f"{name} has no query with a right document ({told})")
        counts.repeated_queries = len(texts) - len(set(texts))
        counts.repeated_documents = len(documents) - len(set(documents.values()))
        counts.empty_documents = sum(not text.strip() for text in documents.values())
        ranks_all = any(queries[row].candidates is None for row in kept)
        return cls(
            name,
            texts,
            list(documents.values()),
            relevant,
            None if ranks_all else candidates,
            [queries[row].kind for row in kept],
            kept,
            len(queries),
            [*notes, *counts.notes()],
        )


@dataclass
class _Counts:
    """Counts of the irregularities of the data."""

    missing: int = 0
    empty: int = 0
    not_judged: int = 0
    without_answer: int = 0
    always_right: int = 0
    repeated_queries: int = 0
    repeated_documents: int = 0
    empty_documents: int = 0

    def notes(self) -> list[str]:
        """One sentence per irregularity, with its count."""
        sentences = [
            (self.missing, "judgments of documents that are not in the corpus: left out"),
            (self.empty, "empty queries: left out"),
            (self.not_judged, "queries without judgments: left out"),
            (self.without_answer, "queries without a right document in the corpus: left out"),
            (self.always_right, "queries without a wrong candidate: any order of theirs is right"),
            (self.repeated_queries, "queries that repeat the text of another: each counts"),
            (
                self.repeated_documents,
                "documents that repeat the text of another: only those judged right count as right",
            ),
            (self.empty_documents, "empty documents"),
        ]
        return [f"{count} {sentence}" for count, sentence in sentences if count]
