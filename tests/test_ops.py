"""The engine's forward pass against tests/support/reference.py, on every instruction set here.

The tolerance. Engine and reference compute the same formulas and round to bf16 at the
same places, but sum in different orders, so now and then a value falls on the other
side of a rounding. Each such flip is one bf16 step, which makes later flips likely; after
a few layers the two are roundings of the same exact vector that no longer know of each
other. Let D be the distance of the reference with rounding from the reference without,
as root mean square over the texts. Two independent roundings lie sqrt(2) D apart, so
1.5 D is allowed; a single text may lie 4 D apart, since the distances of texts spread.

In a model of one layer and texts of a few tokens there are too few roundings for that:
most texts agree to the last bits of fp32, and the median says whether the engine rounds
at the named places.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import ModelMaker
from tests.support.engines import (
    CORE,
    TOLERANCE,
    embed,
    open_engine,
    random_texts,
    reference_rows,
    relative_errors,
    rms,
)
from tests.support.make_model import YARN
from tests.support.reference import Floats, Reference

ISAS = CORE.instruction_sets()
SHAPES = ["tiny64", "tiny128", "odd64", "odd128"]
LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300]
SHORT_LENGTHS = [*range(2, 18)] * 2
ROUNDED_ALIKE = 0.05  # of D, for the median text of a model of one layer


@cache
def rows_of_lengths(folder: Path, lengths: tuple[int, ...]) -> tuple[list[Floats], float]:
    return reference_rows(folder, random_texts(lengths))


def engine_errors(folder: Path, lengths: list[int], isa: str | None = None) -> tuple[Floats, float]:
    """Each text's distance from the reference, and D."""
    expected, noise = rows_of_lengths(folder, tuple(lengths))
    engine = open_engine(folder, isa)
    rows = embed(engine, random_texts(lengths), expected[0].size, normalize=False)
    engine.close()
    return relative_errors(rows, expected), noise


def check_forward(folder: Path, isa: str | None = None) -> None:
    errors, noise = engine_errors(folder, LENGTHS, isa)
    assert rms(errors) < TOLERANCE * noise, (rms(errors) / noise, errors / noise)
    assert errors.max() < 4.0 * noise, errors / noise


def check_roundings(folder: Path, isa: str | None = None) -> None:
    errors, noise = engine_errors(folder, SHORT_LENGTHS, isa)
    assert np.median(errors) < ROUNDED_ALIKE * noise, errors / noise


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_equals_reference(models: ModelMaker, shape: str, isa: str) -> None:
    check_forward(models(shape), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_roundings_are_the_named_ones(models: ModelMaker, shape: str, isa: str) -> None:
    check_roundings(models(shape, num_hidden_layers=1), isa)


def test_a_moved_rounding_is_seen(models: ModelMaker) -> None:
    """No reference with one rounding fewer is within the tolerance of the test above."""
    folder = models("tiny128", num_hidden_layers=1)
    expected, noise = rows_of_lengths(folder, tuple(SHORT_LENGTHS))
    for place in OneRoundingFewer.PLACES:
        reference = OneRoundingFewer(folder, place)
        rows = [reference.raw_row(text) for text in random_texts(SHORT_LENGTHS)]
        errors = relative_errors(rows, expected)
        assert np.median(errors) > 2.0 * ROUNDED_ALIKE * noise, (place, errors / noise)


class OneRoundingFewer(Reference):
    """Leaves out the rounding of one place; texts of one key tile, models of one layer."""

    PLACES = ("x", "q", "k", "v", "p", "heads", "x2", "act")

    def __init__(self, folder: Path, place: str) -> None:
        self.place, self.call = place, -1
        super().__init__(folder, "bf16")
        n_heads = self.config["num_attention_heads"]
        self.order = ["x", "q", "k", "v", *["p"] * n_heads, "heads", "x2", "act"]

    def raw_row(self, tokens: npt.ArrayLike) -> Floats:
        self.call = 0
        return super().raw_row(tokens)

    def rounded(self, x: Floats) -> Floats:
        if self.call < 0:
            return super().rounded(x)  # a weight
        self.call += 1
        return x if self.order[self.call - 1] == self.place else super().rounded(x)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": YARN},
        {"rope_theta": 10000},
        {"rms_norm_eps": 1e-3},
    ],
    ids=["yarn", "theta", "eps"],
)
def test_config_reaches_the_formulas(models: ModelMaker, changes: dict[str, Any]) -> None:
    check_forward(models("tiny128", **changes))


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_other_dtypes_are_rounded_once(models: ModelMaker, dtype: str) -> None:
    check_roundings(models("tiny64", dtype=dtype, num_hidden_layers=1))


@pytest.mark.parametrize(
    "layout",
    [
        {"prefix": "model."},
        {"shards": 3},
        {"misalign": 1},
        {"lm_head": True},
    ],
    ids=["prefix", "shards", "misalign", "lm_head"],
)
def test_layout_changes_no_bit(models: ModelMaker, layout: dict[str, Any]) -> None:
    texts = random_texts(LENGTHS)
    expected = embed(open_engine(models("odd64")), texts, 72)
    rows = embed(open_engine(models("odd64", **layout)), texts, 72)
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", ["tiny64", "odd128"])
def test_company_changes_no_bit(models: ModelMaker, shape: str, isa: str) -> None:
    """Alone, together, in other orders, beside equals, with more threads, in small passes."""
    folder = models(shape)
    texts = random_texts(LENGTHS)
    engine = open_engine(folder, isa, num_threads=1)
    alone = np.concatenate([embed(engine, [text], 64) for text in texts])
    np.testing.assert_array_equal(embed(engine, texts, 64), alone)
    np.testing.assert_array_equal(embed(engine, texts[::-1], 64), alone[::-1])
    for row, text in zip(alone, texts, strict=True):
        np.testing.assert_array_equal(embed(engine, [text] * 3, 64), [row] * 3)
    for options in ({"num_threads": 2}, {"num_threads": 5}, {"batch_tokens": 300}):
        other = open_engine(folder, isa, **options)
        np.testing.assert_array_equal(embed(other, texts, 64), alone, str(options))


@pytest.mark.parametrize(
    ("n_prefix", "isa"),
    # What is copied and where tiles begin is the same code for every instruction set.
    [*[(n, ISAS[0]) for n in (256, 383, 384, 385)], *[(300, isa) for isa in ISAS]],
)
def test_shared_prefix_changes_no_bit(models: ModelMaker, n_prefix: int, isa: str) -> None:
    """Texts that begin alike: computed once or each alone, the same bits."""
    engine = open_engine(models("tiny128", num_hidden_layers=2), isa)
    prefix, *tails = random_texts([n_prefix, 1, 2, 17, 63, 64, 65, 150, 1])
    texts = [np.concatenate([prefix, tail]) for tail in tails] + [prefix, prefix[:-1]]
    alone = np.concatenate([embed(engine, [text], 192) for text in texts])
    np.testing.assert_array_equal(embed(engine, texts, 192), alone)
    assert len(np.unique(alone, axis=0)) == len({text.tobytes() for text in texts})


def test_dim_cuts_then_normalises(models: ModelMaker) -> None:
    engine = open_engine(models("tiny128"))
    texts = random_texts([5, 40])
    raw = embed(engine, texts, 192, normalize=False)
    for dim in (1, 32, 100, 192):
        np.testing.assert_array_equal(embed(engine, texts, dim, normalize=False), raw[:, :dim])
        unit = raw[:, :dim] / np.linalg.norm(raw[:, :dim], axis=1, keepdims=True)
        # a few fp32 roundings: the sum of squares, the root, the quotient
        np.testing.assert_allclose(embed(engine, texts, dim), unit, rtol=1e-6, atol=0)
