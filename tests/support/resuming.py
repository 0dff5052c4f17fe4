"""A corpus run that is killed at a random moment, and resumed until it is done."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.child import child

COMMAND = (sys.executable, "-m", "qwen3_embed", "encode")


def run_whole(arguments: Sequence[str]) -> float:
    """Runs the command; returns its seconds."""
    begin = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], check=True, timeout=600)
    return time.perf_counter() - begin


def run_killed(arguments: Sequence[str], output: Path, whole_s: float, seed: int) -> int:
    """Kills the command until it gets through; returns how often it was killed.

    The moments are spread over the time of a whole run, each run's own included, and go on past
    it, so that the writing of the result is hit as well.
    """
    moments = random.Random(seed)
    n_kills = 0
    while True:
        with child([*COMMAND, *arguments, "--resume"], stderr=subprocess.PIPE) as process:
            try:
                _, errors = process.communicate(timeout=moments.uniform(0, 1.1 * whole_s))
            except subprocess.TimeoutExpired:
                n_kills += 1
                continue
        assert process.returncode == 0, errors.decode()
        assert output.exists()
        assert not output.with_name(output.name + ".job").exists()
        return n_kills


def write_corpus(path: Path, n_records: int) -> None:
    """JSON lines: some repeated, some bad."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(n_records):
            if i % 97 == 5:
                file.write('{"id": 1, "text": 5}\n' if i % 2 else "not JSON\n")
            else:
                text = f"row {i % (n_records * 3 // 4)} 重力 {i * 7919 % 1003}"
                file.write(f'{{"id": {i}, "text": "{text}"}}\n')
