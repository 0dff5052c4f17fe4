"""Data sets of evaluate: every format, and bad data named or counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3_embed.evaluation import read_dataset
from qwen3_embed.evaluation.readers import BUILT_IN


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path


def write_beir(folder: Path, corpus: list[Any], queries: list[Any], qrels: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return folder


CORPUS = [{"_id": f"d{i}", "title": "T" * (i == 0), "text": f"text {i}"} for i in range(3)]
QUERIES = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str) -> None:
    data = read_dataset(name)
    assert data.notes == []
    assert data.candidates is not None
    assert {len(own) for own in data.candidates} == {16}
    answers = zip(data.relevant, data.candidates, strict=True)
    assert all(next(iter(right)) in own for right, own in answers)
    assert read_dataset(name, all_documents=True).candidates is None


def test_beir(tmp_path: Path) -> None:
    data = read_dataset(write_beir(tmp_path / "b", CORPUS, QUERIES, "q0\td1\t2\nq2\td0\t1\n"))
    assert data.documents == ["T text 0", "text 1", "text 2"]
    assert data.queries == ["query 0", "query 2"]
    assert data.relevant == [{1: 2}, {0: 1}]
    assert (data.query_rows, data.n_query_rows, data.candidates) == ([0, 2], 3, None)
    assert data.notes == ["1 queries without judgments: left out"]


def test_beir_that_is_bad_is_counted(tmp_path: Path) -> None:
    queries = [*QUERIES, QUERIES[0], {"_id": "empty", "text": " "}]
    corpus = [*CORPUS, CORPUS[1], {"_id": "same", "text": "text 1"}, {"_id": "blank", "text": ""}]
    qrels = "q0\td1\t1\nq0\tgone\t1\nq1\tgone\t1\nnobody\td1\t1\nempty\td1\t1\nq2\td0\t0\n"
    data = read_dataset(write_beir(tmp_path / "b", corpus, queries, qrels))
    assert data.queries == ["query 0"]
    assert data.notes == [
        "1 documents repeat an id: left out",
        "1 queries repeat an id: left out",
        "1 judgments of queries that are not in queries.jsonl: left out",
        "2 judgments of documents that are not in the corpus: left out",
        "1 empty queries: left out",
        "2 queries without a right document in the corpus: left out",
        "1 documents that repeat the text of another: only those judged right count as right",
        "1 empty documents",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qrels": "q0\td1\n"}, r"test.tsv, line 2: 2 fields, expected query-id"),
        ({"qrels": "q0\td1\tyes\n"}, "the relevance 'yes' is no whole number"),
        ({"qrels": "q0\tgone\t1\n"}, "no query with a right document .*1 judgments of documents"),
        ({"qrels": ""}, "no query with a right document .3 queries without judgments"),
        ({"corpus": CORPUS[:1], "qrels": "q0\td0\t1\n"}, "1 document, expected at least two"),
        ({"corpus": []}, "0 documents, expected at least two"),
        ({"corpus": [*CORPUS, {"_id": "d0", "text": "x"}]}, "line 4: the id 'd0' is there already"),
        ({"corpus": [{"id": "d0", "text": "x"}]}, "line 1: '_id' is no string .found id, text"),
        ({"queries": ["text"]}, "queries.jsonl, line 1: str, expected an object"),
    ],
)
def test_beir_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    files = {"corpus": CORPUS, "queries": QUERIES, "qrels": "q0\td1\t1\n"} | change
    with pytest.raises(ValueError, match=words):
        read_dataset(write_beir(tmp_path / "b", **files))


def test_beir_split(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "b", CORPUS, QUERIES, "q0\td1\t1\n")
    assert read_dataset(folder, split="dev").queries == ["query 0"]  # the only one there is
    (folder / "qrels" / "train.tsv").write_text("q1\td1\t1\n")
    assert read_dataset(folder, split="train").queries == ["query 1"]
    with pytest.raises(FileNotFoundError, match=r"no qrels/dev\.tsv; splits found: test, train"):
        read_dataset(folder, split="dev")
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no corpus\.jsonl"):
        read_dataset(folder)


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {"query": "a", "positive": "A", "negatives": ["B", "C"]},
        {"query": "b", "positives": ["B", "D"], "negatives": ["A"], "kind": "k"},
    ]
    data = read_dataset(write_lines(tmp_path / "d.jsonl", records))
    assert data.documents == ["A", "B", "C", "D"]
    assert data.relevant == [{0: 1}, {1: 1, 3: 1}]
    assert data.candidates is not None
    assert [sorted(own) for own in data.candidates] == [[0, 1, 2], [0, 1, 3]]
    assert data.kinds == ["", "k"]
    records[0]["negatives"] = []
    assert read_dataset(write_lines(tmp_path / "d.jsonl", records)).candidates is None


def test_json_lines_that_are_bad_are_counted(tmp_path: Path) -> None:
    records = [
        {"query": "a", "positive": "A", "negatives": ["A", "B"], "instruction": "find"},
        {"query": "a", "positive": "A", "negatives": ["B"]},
        {"query": "", "positive": "A", "negatives": ["B"]},
    ]
    data = read_dataset(write_lines(tmp_path / "d.jsonl", records))
    assert data.notes == [
        "1 documents are both positive and negative: counted as positive",
        "1 lines have an instruction of their own: not used, pass instructions",
        "1 empty queries: left out",
        "1 queries that repeat the text of another: each counts",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "line 1: list, expected an object"),
        ('{"positive": "a"}', "'query' is no string .found positive"),
        ('{"query": 1, "positive": "a"}', "'query' is no string .found int"),
        ('{"query": "q"}', "neither 'positive' nor 'positives'"),
        ('{"query": "q", "positive": [1]}', "'positive' is neither a string nor a list"),
        ('{"query": "q", "positive": "a"}', "1 document, expected at least two"),
    ],
)
def test_json_lines_refused(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=words):
        read_dataset(path)


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('query,document,relevance\nq,"one,\ntwo",\nq,three,0\nr,three,2\nr,three,1\n')
    data = read_dataset(path)
    assert data.documents == ["one,\ntwo", "three"]
    assert data.relevant == [{0: 1}, {1: 2}]
    assert data.notes == ["1 rows repeat a query and its document"]
    for content, words in [
        ("q,d\n", "the columns are q, d, expected query, document"),
        ("", r"the columns are \(none\)"),
        ("query,document\nq\n", "line 2: expected 2 fields"),
        ("query,document\nq,d,e\n", "line 2: expected 2 fields"),
        ('query,document\nq,"d\n', "unexpected end of data"),
        ("query,document,relevance\nq,d,x\n", "'x' is no whole number"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=words):
            read_dataset(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no built-in set of that name: hard-zh"):
        read_dataset("hard-fr")
    path = tmp_path / "d.txt"
    path.write_text("x")
    with pytest.raises(ValueError, match="expected a folder in BEIR's layout, or a file"):
        read_dataset(path)
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"query": "\xff"}\n')
    with pytest.raises(ValueError, match="not UTF-8 in line 1"):
        read_dataset(path)
