"""Each allocation and each call to the system fails once, in turn: see tests/c/fault_runs.h."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.c_build import ASAN, ENGINE, FAULT_LINK, FAULTS, LOADER, Source, build
from tests.support.model_files import run, small_weights, write_file


def check(folder: Path, dtype: str, program: Path, expected: dict[str, int]) -> None:
    """Runs on two shards; so many faults of each scenario must have been clean errors."""
    weights = list(small_weights(dtype).items())
    half = len(weights) // 2
    paths = [
        write_file(folder / "a.safetensors", dict(weights[:half])),
        write_file(folder / "b.safetensors", dict(weights[half:])),
    ]
    done = run(program, paths)
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, output
    found = re.findall(r"(\w+): \d+ faults, (\d+) clean errors", output)
    assert {name: int(n_errors) for name, n_errors in found} == expected, output


def build_faults(name: str, sources: Sequence[Source]) -> Path:
    return build(name, [f"tests/c/{name}.c", *FAULTS, *sources], sanitize=ASAN, link=FAULT_LINK)


# Beside the errors there are hints, whose failure shows nowhere: up to 18, as many as the thread
# that touches weights ahead of time gets to. F32 has memory of its own for rounded matrices.


@pytest.mark.parametrize(("dtype", "n_errors"), [("BF16", 18), ("F32", 19)])
def test_loader(tmp_path: Path, dtype: str, n_errors: int) -> None:
    program = build_faults("test_faults", LOADER)
    check(tmp_path, dtype, program, {"file": 7, "model": n_errors})


@pytest.mark.parametrize(("dtype", "n_errors"), [("BF16", 31), ("F32", 32)])
def test_engine(tmp_path: Path, dtype: str, n_errors: int) -> None:
    program = build_faults("test_engine_faults", ENGINE)
    check(tmp_path, dtype, program, {"engine": n_errors})
