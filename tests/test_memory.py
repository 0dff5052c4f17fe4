"""An agent's memory: facts on disk, shared by processes, searched by meaning and words."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from qwen3_embed import Embedder, TruncationWarning
from qwen3_embed.retrieval.words import SMOOTHING, WordCoverage, idf
from qwen3_embed.stores.memory import Memory


@pytest.fixture(scope="module")
def mini() -> Iterator[Embedder]:
    with Embedder("mini", num_threads=1) as model:
        yield model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.sqlite"


def texts(memory: Memory, query: str) -> list[str]:
    return [fact.text for fact in memory.recall(query, 99, with_replaced=True)]


def test_facts(mini: Embedder, path: Path) -> None:
    memory = Memory(path, mini)
    assert memory.recall("anything") == []
    first = memory.remember("The build runs on Thursdays")
    second = memory.remember("冰箱里的牛奶后天过期")
    assert memory.recall("when is the build?", 1)[0].id == first
    assert memory.recall("牛奶什么时候过期", 1)[0].id == second
    assert len(memory) == 2
    memory.close()
    assert set(texts(Memory(path, mini), "milk")) == {
        "The build runs on Thursdays",
        "冰箱里的牛奶后天过期",
    }


def test_a_fact_known_already_is_as_of_now(mini: Embedder, path: Path) -> None:
    memory = Memory(path, mini)
    fact = memory.remember("x y")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE facts SET time = 0")
    since = datetime.now(UTC) - timedelta(minutes=1)
    assert memory.recall("x", since=since) == []
    assert memory.remember("x y") == fact
    assert [found.id for found in memory.recall("x", since=since)] == [fact]


def test_equally_near_facts_come_newest_first(mini: Embedder, path: Path) -> None:
    memory = Memory(path, mini)
    ids = [memory.remember("a b")]
    for _ in range(3):
        ids.append(memory.remember("a b", replaces=ids[-1:]))
    assert [fact.id for fact in memory.recall("a", with_replaced=True)] == ids[::-1]
    assert [fact.id for fact in memory.recall("a")] == ids[-1:]
    assert memory.forget(ids[-1:]) == 4  # with its whole history
    assert len(memory) == 0


def test_ids_are_not_given_twice(mini: Embedder, path: Path) -> None:
    memory = Memory(path, mini)
    fact = memory.remember("one")
    memory.forget([fact])
    assert memory.remember("two") == fact + 1


def test_two_at_once(mini: Embedder, path: Path) -> None:
    one, two = Memory(path, mini), Memory(path, mini)
    fact = one.remember("The lamp is red")
    assert texts(two, "lamp") == ["The lamp is red"]
    two.remember("The lamp is blue", replaces=[fact])
    assert [found.text for found in one.recall("lamp")] == ["The lamp is blue"]
    one.forget([fact])
    assert texts(two, "lamp") == ["The lamp is blue"]


def test_another_model_embeds_all_again(mini: Embedder, folder: Path, path: Path) -> None:
    memory = Memory(path, mini)
    facts = [f"fact {i}" for i in range(5)]
    for fact in facts:
        memory.remember(fact)
    memory.close()
    with Embedder(folder, num_threads=1) as other:
        assert other.dim != mini.dim
        assert sorted(texts(Memory(path, other), "fact 3")) == facts
        with sqlite3.connect(path) as database:
            ((row,),) = database.execute("SELECT vector FROM facts WHERE text = 'fact 3'")
        assert np.array_equal(np.frombuffer(row, "<f4"), other.encode_document("fact 3"))


def test_other_files_are_refused(mini: Embedder, path: Path) -> None:
    path.write_bytes(b"something else" * 99)
    with pytest.raises(ValueError, match="is not a memory of this package"):
        Memory(path, mini)


def test_a_full_file_is_an_error_and_nothing_is_lost(path: Path) -> None:
    with Embedder("mini", num_threads=1, max_length=8) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        memory = Memory(path, model, max_bytes=1 << 20)
        kept: list[int] = []

        def fill() -> None:
            while len(kept) < 1000:
                kept.append(memory.remember(f"{len(kept)} " + "x" * 9000))

        with pytest.raises(sqlite3.Error, match="full"):
            fill()
        assert 50 < len(kept) == len(memory)
        memory.forget(kept[:10])
        memory.remember("room again")


def test_coverage() -> None:
    coverage = WordCoverage(["the red lamp", "the blue lamp", "the end"])
    red, lamp = idf(3, 1), idf(3, 2)
    found = coverage.of("where is the RED lamp")  # "where" and "is" are in no text
    total = red + lamp + idf(3, 3) + SMOOTHING
    expected = np.array([red + lamp, lamp, 0]) + idf(3, 3)
    assert np.allclose(found, expected / total, atol=1e-6)
    assert coverage.of("完全不同").tolist() == [0, 0, 0]
