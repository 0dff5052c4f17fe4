"""evaluate: metrics, ties, intervals and verdicts against formulas; the command; plots."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("ir_measures")

from qwen3_embed import Embedder, Reranker
from qwen3_embed.cli import main
from qwen3_embed.evaluation import Dataset, evaluate, read_dataset
from qwen3_embed.evaluation.bootstrap import Bootstrap
from qwen3_embed.evaluation.datasets import Query
from qwen3_embed.evaluation.metrics import Judge
from qwen3_embed.evaluation.rankings import (
    PRECISIONS,
    Index,
    Setting,
    rank,
    rank_candidates,
    tie_places,
)
from qwen3_embed.retrieval.quantizer import default_quantizer, quantize_binary
from qwen3_embed.retrieval.staged_search import staged_search

Capture = pytest.CaptureFixture[str]


def expected_metrics(ranking: list[int], grades: dict[int, int]) -> dict[str, float]:
    """The formulas (Jaervelin and Kekaelaeinen, 2002, with linear gains, as trec_eval has them)."""
    gains = [grades.get(document, 0) for document in ranking]
    ideal = sorted(grades.values(), reverse=True)

    def dcg(values: list[int]) -> float:
        return sum(gain / np.log2(i + 2) for i, gain in enumerate(values[:10]))

    first = next((i + 1 for i, gain in enumerate(gains[:10]) if gain), None)
    found = {"nDCG@10": dcg(gains) / dcg(ideal), "MRR@10": 1 / first if first else 0.0}
    found |= {f"recall@{k}": sum(g > 0 for g in gains[:k]) / len(grades) for k in (10, 100)}
    return found | {f"Top-{k}": float(any(gains[:k])) for k in (1, 3, 5)}


def test_metrics_on_runs_with_ties() -> None:
    """Equal to 1e-6 to the formulas over the order (score, place in the fixed permutation)."""
    random = np.random.default_rng(5)
    n_queries, n_documents = 60, 250
    # Small integers: a dot product is exact, and most scores are shared by many documents.
    queries = random.integers(-1, 2, (n_queries, 6)).astype(np.float32)
    documents = random.integers(-1, 2, (n_documents, 6)).astype(np.float32)
    relevant = [
        {int(d): int(random.integers(1, 4)) for d in random.choice(n_documents, 1 + i % 5, False)}
        for i in range(n_queries)
    ]
    scores = queries @ documents.T
    assert len(np.unique(scores)) < 20
    places = tie_places(n_documents)
    found = Judge(relevant, n_documents).judge(rank(queries, documents, 100))
    assert len(found) == 7
    for i, grades in enumerate(relevant):
        ranking = sorted(range(n_documents), key=lambda d: (-scores[i, d], places[d]))
        for metric, value in expected_metrics(ranking, grades).items():
            assert found[metric][i] == pytest.approx(value, abs=1e-6), (metric, i)


def test_candidates_are_ranked_alone() -> None:
    random = np.random.default_rng(6)
    queries = random.integers(-1, 2, (20, 4)).astype(np.float32)
    documents = random.integers(-1, 2, (50, 4)).astype(np.float32)
    candidates = [random.choice(50, 16, False).tolist() for _ in queries]
    places = tie_places(50)
    rankings = rank_candidates(queries, documents, candidates)
    for query, own, ranking in zip(queries, candidates, rankings, strict=True):
        scores = documents @ query
        assert ranking.tolist() == sorted(own, key=lambda d: (-scores[d], places[d]))
    assert "recall@100" not in Judge([{0: 1}], 16).names


def test_ties_favour_no_place() -> None:
    """A system without an opinion has the Top-1 of chance, wherever the right answers stand."""
    n = 800
    documents = np.ones((n * 4, 2), np.float32)
    queries = np.ones((n, 2), np.float32)
    for place in range(4):
        relevant = [{4 * i + place: 1} for i in range(n)]
        candidates = [list(range(4 * i, 4 * i + 4)) for i in range(n)]
        rankings = rank_candidates(queries, documents, candidates)
        top1 = Judge(relevant, 4).judge(rankings)["Top-1"].mean()
        # Four standard deviations of a binomial share.
        assert abs(top1 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)


def test_binary_is_hamming() -> None:
    random = np.random.default_rng(7)
    rows = random.standard_normal((60, 24)).astype(np.float32)
    bits = rows[:, :16] > 0
    hamming = (bits[:, None] != bits[None]).sum(axis=2)
    places = tie_places(60)
    rankings = Index(rows, Setting(16, "binary")).rank(rows, 60)
    for i, ranking in enumerate(rankings):
        assert ranking.tolist() == sorted(range(60), key=lambda d: (hamming[i, d], places[d]))


def test_zeros_have_no_direction() -> None:
    rows = np.array([[0, 0], [3, 4], [-3, 4]], np.float32)
    for precision in ("float32", "int8"):
        ranking = Index(rows, Setting(2, precision)).rank(rows[1:2], 3)[0]
        assert ranking.tolist() == [1, 2, 0]


def test_int8_is_the_codes_of_encode() -> None:
    """Documents and queries by the codes of `encode(precision="int8")`, cut and normalised."""
    data = read_dataset("hard-en")
    with Embedder("mini") as model:
        full = model.encode(data.documents), model.encode(data.queries)
        codes = [
            model.encode(texts, dim=64, precision="int8").astype(np.int64)
            for texts in (data.documents, data.queries)
        ]
    found = Index(full[0], Setting(64, "int8"), "mini").rank(full[1], 10)
    places = tie_places(len(data.documents))
    scores = codes[1] @ codes[0].T
    for i, ranking in enumerate(found):
        expected = sorted(range(len(places)), key=lambda d: (-scores[i, d], places[d]))
        assert ranking.tolist() == expected[:10]


@pytest.mark.parametrize("second", ["int8", "float32"])
def test_rescoring_is_staged_search(second: str) -> None:
    """The same candidates and order as `staged_search`, where no Hamming distance ties."""
    random = np.random.default_rng(9)
    rows = random.standard_normal((60, 512)).astype(np.float32)
    queries = random.standard_normal((20, 512)).astype(np.float32)
    rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    codes = rows if second == "float32" else default_quantizer("", 512).quantize(rows, "int8")
    setting = Setting(512, f"binary+{second}", 2)  # type: ignore[arg-type]
    rankings = Index(rows, setting).rank(queries, 20)
    _, expected = staged_search(queries, quantize_binary(rows, "ubinary"), codes, 10, 2)
    bits = np.where(rows > 0, 1, -1) @ np.where(queries > 0, 1, -1).T
    n_compared = 0
    for i, (ranking, other) in enumerate(zip(rankings, expected, strict=True)):
        border = np.sort(bits[:, i])[::-1][19:21]
        if border[0] != border[1]:
            n_compared += 1
            assert ranking[:10].tolist() == other.tolist()
    assert n_compared > 10


def test_costs() -> None:
    assert [Setting(100, p).bytes_per_vector for p in PRECISIONS] == [400, 100, 13, 113, 413]
    assert [Setting(100, p).memory_per_vector for p in PRECISIONS] == [400, 100, 13, 13, 13]
    assert str(Setting(64, "binary+int8", 4)) == "64 dims, binary+int8 x4"


def test_intervals() -> None:
    """Close to the normal interval of a mean; 2,000 draws leave 5 % of noise in its ends."""
    values = np.random.default_rng(8).standard_normal((400, 3))
    low, high = Bootstrap(400).intervals(values)
    half = 1.96 * values.std(axis=0) / np.sqrt(400)
    np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.1 * half.max())
    np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.1 * half.max())


def fruits(right: str, n: int = 40) -> Dataset:
    """Queries with two equally good answers; `right`, "ab" or one letter, says which is judged."""
    documents = {f"{k}{i}": f"{word} {i}" for i in range(n) for k, word in FRUITS.items()}
    queries = [
        Query(f"{i}", {f"{right[i % len(right)]}{i}": 1}, [f"a{i}", f"b{i}"]) for i in range(n)
    ]
    return Dataset.of("fruits", queries, documents)


FRUITS = {"a": "苹果", "b": "apple"}


@pytest.mark.parametrize(
    ("right", "effect", "words"),
    [("a", "better", "helps"), ("b", "worse", "hurts"), ("ab", "no clear effect", "no clear")],
)
def test_instructions(right: str, effect: str, words: str) -> None:
    """An instruction that asks for Chinese, which is right, wrong, or right half the time."""
    instruction = "苹果 苹果"
    report = evaluate(fruits(right), ["mini"], instructions=["none", instruction])
    (comparison,) = report.comparisons
    assert comparison.effect == effect
    assert f"instruction {instruction} against none" in str(comparison)
    assert words in str(comparison)
    assert comparison.low <= comparison.difference <= comparison.high


def test_few_queries_are_no_verdict() -> None:
    report = evaluate(fruits("a", 19), ["mini"], instructions=["none", "苹果 苹果"])
    assert report.comparisons[0].effect == "too few queries"
    assert "19 queries are too few" in report.conclusions[-1]


def test_same_vectors_make_no_difference() -> None:
    data = read_dataset("hard-en")
    with Embedder("mini") as model:
        pair = (model.encode_document(data.documents), model.encode_query(data.queries))
        report = evaluate(data, [model], vectors={"copy": pair})
    (comparison,) = report.comparisons
    assert (comparison.difference, comparison.low, comparison.high) == (0, 0, 0)
    assert "makes no clear difference: 0.0 points" in str(comparison)


def test_settings_are_compared_one_at_a_time() -> None:
    report = evaluate(
        "hard-en",
        dims=[64, 256],
        precisions=["float32", "binary", "int8", "binary+int8"],
        oversample=4,
        instructions=["default", "none", "legal"],
    )
    assert len(report.rows) == 24
    base = report.rows[1]
    assert (base.instruction, base.dim, base.precision) == ("none", 256, "float32")
    subjects = [comparison.subject for comparison in report.comparisons]
    precisions = ["binary", "int8", "binary+int8 x4"]
    assert subjects == ["instruction default", "instruction legal", *precisions, "64 dimensions"]
    sizes = [row.bytes_per_vector for row in report.rows[::3]]
    assert sizes == [1024, 32, 256, 288, 256, 8, 64, 72]
    with Embedder("mini") as model:
        data = read_dataset("hard-en")
        documents = model.encode_document(data.documents, dim=64)
        queries = model.encode_query(data.queries, dim=64, prompt_name="legal")
    own = evaluate(data, [], vectors={"v": (documents, queries)}).rows[0]
    found = report.rows[14]
    assert (found.instruction, found.dim, found.precision) == ("legal", 64, "float32")
    for metric in report.metrics:
        np.testing.assert_array_equal(found.values[metric], own.values[metric])


class Lengths:
    """Scores a document by its length; keeps the pairs."""

    def predict(self, pairs: list[tuple[str, str]], **others: Any) -> Any:
        self.pairs = pairs
        return np.array([len(document) for _, document in pairs], np.float32)


def test_reranker() -> None:
    """Its order of the best documents; what it doesn't read stays behind."""
    documents = {"a": "x", "b": "xxxx", "c": "xx", "d": "xxx"}
    queries = [Query("q", {"b": 1}), Query("r", {"d": 1})]
    data = Dataset.of("lengths", queries, documents)
    rows = np.eye(4, dtype=np.float32)
    weights = np.array([[4, 3, 2, 1], [4, 1, 2, 3]], np.float32)
    ranker = Lengths()
    report = evaluate(
        data, [], vectors={"v": (rows, weights)}, reranker=cast("Reranker", ranker), rerank_top=3
    )
    assert ranker.pairs == [
        ("q", "x"), ("q", "xxxx"), ("q", "xx"), ("r", "x"), ("r", "xxx"), ("r", "xx")
    ]  # fmt: skip
    first, reranked = report.rows
    assert (first.name, reranked.name) == ("v", "v + reranker")
    assert first.values["MRR@10"].tolist() == [0.5, 0.5]
    assert reranked.values["MRR@10"].tolist() == [1, 1]
    assert report.comparisons[0].subject == "reranking"
    shallow = evaluate(
        data, [], vectors={"v": (rows, weights)}, reranker=cast("Reranker", ranker), rerank_top=1
    )
    assert shallow.rows[1].values["MRR@10"].tolist() == [0.5, 0.5]


def test_vectors_of_the_whole_file() -> None:
    """Rows of all queries that were read fit too: those left out are skipped."""
    documents = {"a": "one", "b": "two"}
    queries = [Query("", {"a": 1}), Query("q", {"b": 1}), Query("r", {"gone": 1})]
    data = Dataset.of("d", queries, documents)
    assert data.query_rows == [1]
    rows = np.eye(2, dtype=np.float32)
    whole = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    with pytest.warns(UserWarning, match="left out") as caught:
        report = evaluate(data, [], vectors={"v": (rows, whole)})
    assert report.rows[0].mean("Top-1") == 100
    assert [str(warning.message) for warning in caught] == [
        "d: 1 judgments of documents that are not in the corpus: left out",
        "d: 1 empty queries: left out",
        "d: 1 queries without a right document in the corpus: left out",
    ]


@pytest.mark.parametrize(
    ("documents", "queries", "words"),
    [
        (np.ones((3, 2)), np.ones((40, 2)), "3 rows, expected 80"),
        (np.ones((80, 2)), np.ones((3, 2)), "3 rows, expected 40"),
        (np.ones((80, 2)), np.ones((40, 3)), "documents have 2 dimensions and queries 3"),
        (np.ones((80, 2)), np.full((40, 2), np.nan), "row 0 is not finite"),
        (np.ones(80), np.ones((40, 2)), r"\(80,\), expected numbers"),
    ],
)
def test_vectors_refused(documents: Any, queries: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(fruits("a"), [], vectors={"v": (documents, queries)})


def test_arguments_refused() -> None:
    data = fruits("a")
    for options, words in [
        ({"dims": [512]}, r"mini has 1\.\.256 dimensions, and none of dims=512"),
        ({"instructions": ["leagl"]}, "'leagl' is unknown; expected none, default"),
        ({"precisions": ["int4"]}, "precisions are float32, int8, binary"),
        ({"rerank_top": 0}, "expected a positive int"),
        ({"oversample": 0.5}, "expected a number of 1 or more"),
        ({"models": []}, "nothing to evaluate"),
    ]:
        with pytest.raises(ValueError, match=words):
            evaluate(data, **options)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"mini has 1\.\.256 dimensions: 512 left out"):
        assert len(evaluate(data, dims=[512, 64]).rows) == 1


def test_command(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "hard-en", "--write-texts", "texts"]) == 0
    texts = {
        name: [
            json.loads(line)["text"]
            for line in Path(f"texts/{name}.jsonl").read_text("utf-8").splitlines()
        ]
        for name in ("documents", "queries")
    }
    with Embedder("mini") as model:
        np.save("d.npy", model.encode_document(texts["documents"], dim=96))
        np.save("q.npy", model.encode_query(texts["queries"], dim=96))
    arguments = ["--vectors", "other=d.npy,q.npy", "--dims", "256", "96", "-o", "report"]
    assert main(["evaluate", "hard-en", *arguments]) == 0
    captured = capsys.readouterr()
    assert "other has 1..96 dimensions: 256 left out" in captured.err
    assert "71 queries, 16 candidates each, of 196 documents" in captured.out
    assert "qwen3-embed evaluate hard-en --model mini Qwen3-Embedding-0.6B" in captured.out
    for name in ("quality.png", "size.png"):
        assert Path("report", name).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(Path("report/report.csv").read_text("utf-8").splitlines()))
    assert [(row["model"], row["dim"]) for row in rows] == [
        ("mini", "256"), ("mini", "96"), ("other", "96")
    ]  # fmt: skip
    assert rows[1]["nDCG@10"] == rows[2]["nDCG@10"]
    content = json.loads(Path("report/report.json").read_text())
    system = content["systems"][0]["metrics"]["nDCG@10"]
    assert np.mean(system["per_query"]) == pytest.approx(system["mean"], abs=1e-6)
    assert system["low"] < system["mean"] < system["high"]
    assert float(rows[0]["nDCG@10"]) == pytest.approx(100 * system["mean"], abs=1e-4)
    markdown = Path("report/report.md").read_text()
    assert "## Top-1 by kind" in markdown
    assert "96 dimensions against 256 dimensions" in markdown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no built-in set of that name: hard-zh"),
        (["hard-en", "--vectors", "x.npy"], "expected NAME=DOCS.npy,QUERIES.npy"),
        (["hard-en", "--server", "m@localhost"], "expected MODEL@URL"),
        (["hard-en", "--no-model"], "--no-model needs --vectors or --server"),
        (["hard-en", "--no-model", "--vectors", "v=no.npy,no.npy"], "no.npy"),
    ],
)
def test_command_refused(arguments: list[str], words: str, capsys: Capture) -> None:
    try:
        status = main(["evaluate", *arguments])
    except SystemExit as error:
        status = error.code  # type: ignore[assignment]
    assert status in (1, 2)
    assert words in capsys.readouterr().err


def test_server(folder: Path) -> None:
    """Our own server, asked as OpenAI's, has the row that the model has without an instruction."""
    pytest.importorskip("openai")
    pytest.importorskip("uvloop")
    from tests.support.served import Served

    served = Served("--model", str(folder))
    try:
        servers = {"served": (f"{served.url}/v1", folder.name)}
        data = fruits("ab", 24)
        report = evaluate(data, [str(folder)], instructions=["none"], servers=servers)
    finally:
        served.stop()
    model, server = report.rows
    assert server.texts_per_s
    for metric in report.metrics:
        np.testing.assert_array_equal(model.values[metric], server.values[metric])
