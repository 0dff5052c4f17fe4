"""The shipped sets follow from their sources, and a broken rule is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from training.sets import blind, expand, measure, rules, source


@pytest.mark.parametrize("name", source.SETS)
def test_shipped_set(name: str) -> None:
    items = expand.items_of_set(name)
    assert source.read_items(source.SHIPPED / f"{name}.jsonl") == items
    assert list(rules.broken(name, items)) == []


def test_shipped_size() -> None:
    assert {path.name for path in source.SHIPPED.iterdir()} == {f"{s}.jsonl" for s in source.SETS}
    assert sum(path.stat().st_size for path in source.SHIPPED.iterdir()) < 1_500_000


def test_nobody_knows_the_answer_from_its_place_in_the_blind_file() -> None:
    items = source.read_items(source.SHIPPED / "hard_zh.jsonl")
    places = [blind.shuffled(item).index(item.positive) for item in items]
    counts = np.bincount(places, minlength=16)
    expected = len(items) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi-square, 15 degrees, p = 0.001


def test_broken_rules_are_named() -> None:
    items = expand.items_of_set("zh_en")
    copy = dataclasses.replace(items[0], id="copy", query=items[0].query + "！")
    fewer = dataclasses.replace(items[1], negatives=items[1].negatives[:14])
    told = [
        dataclasses.replace(item, positive=item.query, query=item.query + " 。") for item in items
    ]
    assert any("share 100%" in text for text in rules.broken("zh_en", [*items, copy]))
    assert any("15 different" in text for text in rules.broken("zh_en", [fewer]))
    assert any("BM25" in text for text in rules.broken("zh_en", told))
    assert any("59 queries" in text for text in rules.broken("zh_en", items[:59]))


def test_shared_is_containment_over_the_smaller_set() -> None:
    assert rules.units("北京，大学") == {"北京", "京大", "大学"}
    assert rules.shared("北京大学", "北京大学的图书馆在哪里") == 1.0
    assert rules.shared("the red car", "a red car stops") == 0.5


def test_groups(tmp_path: Path) -> None:
    path = tmp_path / "kind.txt"
    path.write_text("# a comment\n? q1\n= a1\n? q2\n= a2\n  more\n- d\n! x\n\n? q3\n= a3\n- e\n")
    first, second, third = source.read_blocks(path)
    assert (first.query, first.answer, first.near) == ("q1", "a1", ("a2\n  more", "d"))
    assert (second.near, second.excluded) == (("a1", "d"), ("x",))
    assert (third.kind, third.near) == ("kind", ("e",))
    assert first.group == second.group != third.group
    path.write_text("? q1\n- d\n")
    with pytest.raises(SystemExit, match="has the marks"):
        source.read_blocks(path)


def test_metrics_share_ties() -> None:
    scores = np.array([[2.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 3.0, 2.0, 1.0]])
    found = measure.metrics(scores)
    np.testing.assert_allclose(found[0], [1, 1, 1, 1])
    np.testing.assert_allclose(found[1], [0.5, 1, 1, (1 + 1 / np.log2(3)) / 2])
    np.testing.assert_allclose(found[2], [0, 0, 1, 1 / np.log2(5)])


def test_picks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = source.read_items(source.SHIPPED / "code.jsonl")[:3]
    letters = [blind.LETTERS[blind.shuffled(item).index(item.positive)] for item in items]
    path = tmp_path / "picks.txt"
    path.write_text(f"1 {letters[0]}\n2. {letters[1].upper()}\n3 ?\n")
    blind.score(items, blind.read_picks(path, 3))
    printed = capsys.readouterr().out
    assert "2 of    3  66.7%" in printed
    assert items[2].query in printed
    path.write_text("4 a\n")
    with pytest.raises(SystemExit, match="expected a query's number"):
        blind.read_picks(path, 3)
