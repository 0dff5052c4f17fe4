"""The held-out rules and the overlap filter."""

from __future__ import annotations

import hashlib

from training.mini import held_out

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
]
CHINESE = "这个程序提供了一个用于分析科学数据的图形界面"


def test_name_byte_is_the_first_byte_of_sha256_of_utf8() -> None:
    assert held_out.name_byte("0ad") == hashlib.sha256(b"0ad").digest()[0]
    assert held_out.name_byte("词") == hashlib.sha256("词".encode()).digest()[0]


def test_a_sibling_of_a_held_out_package_is_held_out() -> None:
    names = [f"package{i}" for i in range(400)]
    low = next(n for n in names if held_out.name_byte(n) < 0x30)
    high = next(n for n in names if held_out.name_byte(n) >= 0x30)
    other = next(n for n in names if held_out.name_byte(n) >= 0x30 and n != high)
    held = held_out.held_out_packages({low: "one", high: "one", other: "two"})
    assert held == {low, high}


def test_the_edges_of_the_rules() -> None:
    by_byte: dict[int, str] = {}
    for i in range(20_000):
        by_byte.setdefault(held_out.name_byte(f"a/{i}.py"), f"a/{i}.py")
    assert held_out.file_is_held_out(by_byte[0x5F])
    assert not held_out.file_is_held_out(by_byte[0x60])
    assert held_out.file_is_evaluated(by_byte[0x40])
    assert not held_out.file_is_evaluated(by_byte[0x3F])
    assert held_out.package_is_evaluated(by_byte[0x20])
    assert held_out.package_is_evaluated(by_byte[0x2F])
    assert not held_out.package_is_evaluated(by_byte[0x1F])
    assert not held_out.package_is_evaluated(by_byte[0x30])
    assert [held_out.synset_is_held_out(n) for n in (1740, 1745, 1742)] == [True, True, False]
    assert [held_out.synset_is_evaluated(n) for n in (1740, 1745)] == [False, True]


def test_windows_separators_do_not_change_a_file_rule() -> None:
    assert held_out.file_is_held_out("nn\\modules\\a.py") == held_out.file_is_held_out(
        "nn/modules/a.py"
    )


def test_half_of_the_runs_is_kept_and_more_is_dropped() -> None:
    keep = held_out.OverlapFilter([" ".join(WORDS)])
    half = " ".join(["new", *WORDS[:8]])  # two runs, one of them held out
    more = " ".join(["new", *WORDS[:9]])  # three runs, two of them held out
    assert keep.shared(half) == 0.5
    assert not keep.drops(half)
    assert keep.drops(more)


def test_case_and_punctuation_do_not_hide_a_copy() -> None:
    keep = held_out.OverlapFilter([" ".join(WORDS)])
    assert keep.drops(", ".join(word.upper() for word in WORDS))


def test_chinese_runs_count_characters() -> None:
    keep = held_out.OverlapFilter([CHINESE])
    assert keep.drops("，".join([CHINESE[:10], CHINESE[10:]]))
    assert not keep.drops(CHINESE[::-1])


def test_a_short_text_is_dropped_only_as_an_exact_copy() -> None:
    keep = held_out.OverlapFilter(["a small dog"])
    assert keep.drops("A small dog.")
    assert not keep.drops("a small brown dog")
