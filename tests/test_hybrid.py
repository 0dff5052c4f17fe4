"""HybridIndex: its rule against one computed by hand, and every change of the corpus."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, Reranker
from tests.support.rerankers import make_reranker

pytest.importorskip("bm25s")

from qwen3_embed.integrations.hybrid import HybridIndex, character_bigrams, fuse, words

TEXTS = [
    "gzip compresses a file; gunzip restores it",
    "git reset takes back a commit",
    "删除目录及其中所有文件",
    "An ISO 9001 audit checks how a company works",
    "def read_file(path): return openTextFile(path)",
    "Boil the eggs for six minutes",
    "the the the the",
]
QUERIES = ["iso audit 9001", "delete a folder", "the", "删除目录", "open text file", "?!", "", "猫"]


@pytest.fixture(scope="module")
def model() -> Iterator[Embedder]:
    with Embedder("mini") as model:
        yield model


@pytest.fixture(scope="module")
def index(model: Embedder) -> HybridIndex:
    return HybridIndex(model, TEXTS)


def expected_scores(model: Embedder, texts: list[str], query: str) -> list[float]:
    """The rule of the docstring in plain Python; BM25 as Lucene has it, k1 = 1.5, b = 0.75."""
    cosines = (model.encode_document(texts) @ model.encode_query(query)).tolist()
    mean = sum(cosines) / len(cosines)
    deviation = math.sqrt(sum((c - mean) ** 2 for c in cosines) / len(cosines))
    documents = [character_bigrams(text) for text in texts]
    average = sum(map(len, documents)) / len(documents)
    coverage = [0.0] * len(texts)
    total = 4.0
    for token in character_bigrams(query):
        n = sum(token in document for document in documents)
        idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        total += idf
        for i, document in enumerate(documents):
            count = document.count(token)
            norm = 1.5 * (1 - 0.75 + 0.75 * len(document) / average)
            coverage[i] += idf * count / (count + norm)
    coverage = [c / total for c in coverage]
    fifth = sorted(coverage, reverse=True)[min(5, len(texts)) - 1]
    return [
        (cosine - mean) / deviation + 2 * c + 6 * max(0, c - fifth)
        for cosine, c in zip(cosines, coverage, strict=True)
    ]


@pytest.mark.parametrize("query", QUERIES)
def test_the_rule(index: HybridIndex, model: Embedder, query: str) -> None:
    expected = expected_scores(model, TEXTS, query)
    hits = index.search(query, top_k=len(TEXTS))
    assert [hit.document for hit in hits] == sorted(
        range(len(TEXTS)), key=lambda i: (-expected[i], i)
    )
    # float32 sums of a few terms below 10
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected)[::-1], abs=1e-4)
    assert [hit.text for hit in hits] == [TEXTS[hit.document] for hit in hits]
    assert index.search(query, top_k=3) == hits[:3]


def test_words_that_are_weak_evidence_do_not_decide(model: Embedder) -> None:
    """Reciprocal ranks put the Chinese text, the right one, last: it does not contain "a"."""
    assert HybridIndex(model, TEXTS[:3]).search("delete a folder")[0].document == 2


@pytest.mark.parametrize("query", ["the", "a", "?!", "", "猫", "キツネ"])
def test_words_without_evidence_leave_the_order_to_the_vectors(model: Embedder, query: str) -> None:
    texts = [f"{text}, and the rest is a story" for text in TEXTS[:6] if text.isascii()]
    cosines = model.encode_document(texts) @ model.encode_query(query)
    hits = HybridIndex(model, texts).search(query)
    assert [hit.document for hit in hits] == np.argsort(-cosines, kind="stable").tolist()


def test_names_are_found_by_their_words(model: Embedder) -> None:
    texts = [f"Order {1000 + i} was shipped to the customer" for i in range(200)]
    index = HybridIndex(model, texts)
    assert [index.search(f"order {1000 + i}")[0].document for i in (0, 57, 199)] == [0, 57, 199]


def test_empty_and_tiny(model: Embedder) -> None:
    index = HybridIndex(model)
    assert (len(index), index.search("x")) == (0, [])
    assert index.add(["one"]) == [0]
    assert index.search("one")[0][:2] == (0, pytest.approx(2 * index_coverage("one")))
    assert HybridIndex(model, ["?!", ""]).search("x", top_k=9)[1].text in ("?!", "")
    with pytest.raises(ValueError, match="top_k=-1, expected a positive int"):
        index.search("x", top_k=-1)
    with pytest.raises(TypeError, match="reranker is str, expected a Reranker or None"):
        index.search("x", reranker="Qwen3-Reranker-0.6B")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str"):
        HybridIndex(model, "one text")


def index_coverage(word: str) -> float:
    """Coverage of a corpus of this one word: IDF log(4/3), BM25 1 / 2.5 of it."""
    idf = math.log(1 + 0.5 / 1.5)
    return idf / 2.5 / (idf + 4)


def test_equal_scores_by_number(model: Embedder) -> None:
    hits = HybridIndex(model, ["same"] * 300).search("same", top_k=20)
    assert [hit.document for hit in hits] == list(range(20))


def test_add_and_delete(model: Embedder) -> None:
    index = HybridIndex(model, TEXTS[:4], dim=64)
    assert index.add(TEXTS[4:]) == [4, 5, 6]
    index.delete([0, 3, 3])
    assert len(index) == 5
    assert list(index.texts) == [1, 2, 4, 5, 6]
    fresh = HybridIndex(model, [TEXTS[i] for i in (1, 2, 4, 5, 6)], dim=64)
    for query in QUERIES:
        assert [hit[1:] for hit in index.search(query)] == [hit[1:] for hit in fresh.search(query)]
    with pytest.raises(KeyError, match="document 0 is not in the index"):
        index.delete([1, 0])
    assert len(index) == 5
    assert index.add(["new"]) == [7]  # numbers are not used again
    index.delete(index.texts)
    assert index.search("x") == []


def test_save_and_load(model: Embedder, index: HybridIndex, tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    index.save(path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = HybridIndex.load(path, model)
    assert loaded.texts == index.texts
    for query in QUERIES:
        assert loaded.search(query) == index.search(query)
    loaded.delete([2])
    assert loaded.add(["new"]) == [len(TEXTS)]
    loaded.save(path)
    again = HybridIndex.load(path, model)
    assert again.search("new") == loaded.search("new")
    HybridIndex(model).save(path)
    assert len(HybridIndex.load(path, model)) == 0


def test_damaged_and_foreign_files(model: Embedder, index: HybridIndex, tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    index.save(path)
    with np.load(path) as content:
        good = dict(content)

    def rejects(**changed: Any) -> None:
        np.savez(path, **(good | changed))
        with pytest.raises(ValueError, match="not a HybridIndex file"):
            HybridIndex.load(path, model)

    rejects(format=2)
    rejects(numbers=good["numbers"][::-1])
    rejects(numbers=good["numbers"][:-1])
    rejects(numbers=good["numbers"] - 1)
    rejects(next_number=3)
    rejects(vectors=good["vectors"].astype(np.float64))
    rejects(vectors=good["vectors"] * np.nan)
    rejects(vectors=good["vectors"][0])
    rejects(text_ends=good["text_ends"] + 1)
    rejects(text_ends=good["text_ends"][::-1])
    rejects(text_bytes=np.full_like(good["text_bytes"], 0xFF))
    np.savez(path, **{name: array for name, array in good.items() if name != "text_ends"})
    with pytest.raises(ValueError, match="not a HybridIndex file"):
        HybridIndex.load(path, model)
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(ValueError, match="not a HybridIndex file"):
        HybridIndex.load(path, model)
    np.savez(path, **(good | {"fingerprint": "0" * 64}))
    with pytest.raises(ValueError, match="was made with another model than mini"):
        HybridIndex.load(path, model)


def test_reranker(index: HybridIndex, tmp_path: Path) -> None:
    with Reranker(str(make_reranker(tmp_path / "reranker"))) as ranker:
        hits = index.search("capital?", top_k=2, candidates=5, reranker=ranker)
        candidates = index.search("capital?", top_k=5)
        scores = ranker.predict([("capital?", hit.text) for hit in candidates])
    best = np.argsort(-scores, kind="stable")[:2]
    assert [hit.document for hit in hits] == [candidates[i].document for i in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist())


def test_own_segmenter(model: Embedder) -> None:
    index = HybridIndex(model, TEXTS, tokenize=lambda text: list(text))
    assert index.search("删")[0].document == 2


def test_tokens() -> None:
    assert words("HTTPServer, readTextFile2 and read_file") == [
        *("httpserver", "read", "text", "file2", "and", "read", "file")
    ]
    assert character_bigrams("GPU 重力加速度 x猫") == [
        *("gpu", "重力", "力加", "加速", "速度", "x猫")
    ]


def test_fusion_by_hand() -> None:
    """1/61 + 1/62 beats 1/61, and 1/61 beats 1/62."""
    assert fuse([[3, 1], [1, 2]]) == [(1, 1 / 62 + 1 / 61), (3, 1 / 61), (2, 1 / 62)]
    assert fuse([[], []]) == []
