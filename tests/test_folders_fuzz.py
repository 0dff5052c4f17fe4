"""A slice of `tests.fuzz_folders`; whole runs are started by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_folders import Fuzzer

N_CASES = 200


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_keys_and_types(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path, seed=7)
    for _ in range(N_CASES):
        fuzzer.run_one()
    # It reaches past the first check of the first file, and refuses.
    assert fuzzer.outcomes["opened"] > N_CASES // 10
    assert fuzzer.outcomes["ModelFileError"] > N_CASES // 3
