"""Matrix products in C against sums in double precision: tests/c/test_gemm.c says what."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.c_build import EMULATOR, ENGINE, build
from tests.support.engines import CORE, cpu_only


@cpu_only
@pytest.mark.parametrize("isa", CORE.instruction_sets())
def test_products(isa: str) -> None:
    program = build("test_gemm", [("tests/c/test_gemm.c", ("-O2",)), *ENGINE])
    done = subprocess.run(
        [*EMULATOR, str(program), isa], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
