"""Throughput under a CPU quota of one core: the default number of threads against 1 and 2.

    python -m benchmarks.quota --model mini --csv

Runs in a cgroup that it makes itself and removes again, which takes root. The three models take
turns; a round's figure is one call, the ratios are medians over the rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from benchmarks.record import model_folder, n_cores, parser_of, record, seconds
from qwen3_embed import Embedder
from tests.support.texts import text_of

PERIOD_US = 100_000
VERSION_1 = Path("/sys/fs/cgroup/cpu")


def enter_cgroup(quota_cores: float) -> Path:
    """Moves this process into a new cgroup, version 1 or 2, with this quota."""
    top = VERSION_1 if VERSION_1.is_dir() else Path("/sys/fs/cgroup")
    folder = top / f"qwen3_embed_{os.getpid()}"
    folder.mkdir()
    quota_us = int(quota_cores * PERIOD_US)
    if top == VERSION_1:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    return folder


def leave_cgroup(folder: Path) -> None:
    """Back to the parent; an empty cgroup can be removed."""
    (folder.parent / "cgroup.procs").write_text(str(os.getpid()))
    time.sleep(0.1)
    folder.rmdir()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--quota", type=float, default=1.0, help="cores (default: 1)")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    texts = [text_of(0, arguments.tokens, seed) for seed in range(arguments.texts)]
    model, cgroup = model_folder(arguments), enter_cgroup(arguments.quota)
    try:
        with (
            Embedder(model, device="cpu") as default,
            Embedder(model, device="cpu", num_threads=1) as one,
            Embedder(model, device="cpu", num_threads=2) as two,
        ):
            print(f"{default.info['num_threads']} threads: {default.info['threads_from']}")
            times = []
            for _ in range(arguments.rounds):
                times.append([seconds(lambda m=m: m.encode(texts)) for m in (default, one, two)])
            threads = default.info["num_threads"]
    finally:
        leave_cgroup(cgroup)
    record(
        "quota",
        arguments,
        [
            {
                "cores": n_cores(),
                "quota": arguments.quota,
                "threads": threads,
                "of_num_threads_1": round(statistics.median(t[1] / t[0] for t in times), 3),
                "of_num_threads_2": round(statistics.median(t[2] / t[0] for t in times), 3),
            }
        ],
    )


if __name__ == "__main__":
    main()
