"""Truncated texts are counted, and told, in one way."""

from __future__ import annotations

import numpy as np
import pytest

from qwen3_embed.encoding.truncation import LengthReport, Truncation
from qwen3_embed.errors import InputTooLongError


def test_counts_and_finds_the_first_of_the_longest() -> None:
    truncation = Truncation()
    truncation.add(np.array([], np.int64), 4, 100)
    truncation.add(np.array([4, 5, 7, 7]), 4)
    truncation.add(np.array([7, 1]), 4, 10)
    assert truncation == Truncation(n_cut=4, longest=7, longest_index=2)
    truncation.add(np.array([1, 9]), 4, 20)
    assert truncation == Truncation(n_cut=5, longest=9, longest_index=21)


def test_sentence() -> None:
    one = Truncation(1, 9, 3).sentence(8, "texts", "texts[3]")
    assert one == "1 text was cut at max_length=8 tokens; the longest, texts[3], has 9"
    assert Truncation(2, 9, 3).sentence(8, "pairs", "row 3").startswith("2 pairs were cut")


def test_error_names_the_text() -> None:
    report = LengthReport(4, "error", "pairs")
    report.add(np.array([4, 1]), 0)
    with pytest.raises(InputTooLongError, match=r"pairs\[6\] has 5 tokens, expected at most 4"):
        report.add(np.array([4, 5]), 5)
