"""The engine on aarch64, emulated: `make arm` runs this file and the tests of kernels.

An emulated BFMMLA takes 190 ns, so models and texts are small. Tolerances are those of test_ops.py
and test_int8.py, from which the checks are.
"""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from tests import test_int8, test_ops
from tests.conftest import ModelMaker
from tests.support.c_build import ARM, ENGINE, ROOT, WARNINGS
from tests.support.engines import CORE, TOLERANCE, embed, open_engine, random_texts, rms

pytestmark = pytest.mark.skipif(not ARM, reason="needs QE_TEST_ARM, see `make arm`")

ISAS = CORE.instruction_sets()
LENGTHS = [1, 17, 65]
SHORT_LENGTHS = [*range(2, 11)]
SETS = {"max": ["neon_bf16", "neon_i8", "portable"], "neoverse-n1": ["neon_i8", "portable"]}


def test_sets_are_the_processors() -> None:
    assert SETS.get(ARM, ISAS) == ISAS


def test_clang_compiles_without_warnings() -> None:
    command = ["clang", "--target=aarch64-linux-gnu", "-O2", *WARNINGS, "-Icsrc", "-o", "/dev/null"]
    for unit in ENGINE:
        source, flags = (unit, ()) if isinstance(unit, str) else unit
        subprocess.run([*command, *flags, "-c", source], cwd=ROOT, check=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "layers"), [("tiny64", 2), ("odd128", 1)])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_forward_equals_the_oracle(
    models: ModelMaker, shape: str, layers: int, isa: str, dtype: str
) -> None:
    check = test_ops if dtype == "bfloat16" else test_int8
    folder = models(shape, num_hidden_layers=layers)
    errors, noise = check.engine_errors(folder, LENGTHS, isa)
    assert rms(errors) < TOLERANCE * noise, errors / noise
    if layers == 1:
        errors, noise = check.engine_errors(folder, SHORT_LENGTHS, isa)
        assert np.median(errors) < check.ROUNDED_ALIKE * noise, errors / noise


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_rest_of_the_batch_changes_no_bit(models: ModelMaker, isa: str, dtype: str) -> None:
    """Nor do threads, and a prefix that texts share, from the middle of a key tile on."""
    engine = open_engine(models("tiny64", num_hidden_layers=1), isa, dtype=dtype, num_threads=1)
    prefix, *texts = random_texts([260, 1, 18, 65])
    alone = np.concatenate([embed(engine, [text], 64) for text in texts])
    np.testing.assert_array_equal(embed(engine, texts[::-1], 64), alone[::-1])
    other = open_engine(models("tiny64", num_hidden_layers=1), isa, dtype=dtype, num_threads=3)
    texts = [np.concatenate([prefix, text]) for text in texts[:2]]
    alone = np.concatenate([embed(engine, [text], 64) for text in texts])
    np.testing.assert_array_equal(embed(other, texts, 64), alone)
