"""Milliseconds of one warm query of 16 tokens, against Transformers and the memory.

    python -m benchmarks.query --csv

The floor is the time to read once, at the bandwidth measured in the same run, every
weight that a text needs: all but the token embeddings.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.record import machine_limits, model_folder, n_cores, parser_of, record
from benchmarks.rivals import Contest, random_texts
from tests.support.reference import read_header


def weight_bytes(folder: Path) -> int:
    """Bytes of all layers' weights."""
    total = 0
    for path in folder.glob("*.safetensors"):
        for name, entry in read_header(path).items():
            if "layers." in name:
                first, last = entry["data_offsets"]
                total += last - first
    return total


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    folder = model_folder(arguments)
    _, before = machine_limits(n_cores())
    times = Contest(folder).times(random_texts(folder, 1, arguments.tokens), arguments.rounds)
    _, after = machine_limits(n_cores())
    bytes_per_s = max(before, after)
    floor = weight_bytes(folder) / bytes_per_s
    record(
        "query",
        arguments,
        [
            {
                "tokens": arguments.tokens,
                "ours_ms": round(1e3 * min(times.ours), 1),
                "ours_median_ms": round(1e3 * median(times.ours), 1),
                "transformers_ms": round(1e3 * min(times.transformers), 1),
                "transformers_median_ms": round(1e3 * median(times.transformers), 1),
                "ratio": round(min(times.transformers) / min(times.ours), 2),
                "transformers_setting": str(times.setting),
                "weights_mb": round(weight_bytes(folder) / 1e6, 1),
                "memory_gb_per_s": round(bytes_per_s / 1e9, 1),
                "weights_read_ms": round(1e3 * floor, 1),
                "times_the_floor": round(min(times.ours) / floor, 2),
            }
        ],
    )


if __name__ == "__main__":
    main()
