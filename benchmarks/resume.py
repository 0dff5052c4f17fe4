"""A corpus run killed at random moments and resumed: is the result the same, byte for byte?

python -m benchmarks.resume --kills 50 --csv
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.record import model_folder, parser_of, record
from tests.support.resuming import run_killed, run_whole, write_corpus


def main() -> None:
    parser = parser_of(__doc__, shape="tiny64")
    parser.add_argument("--kills", type=int, default=50, help="at least so many")
    parser.add_argument("--records", type=int, default=8000)
    parser.add_argument("--format", choices=("npy", "jsonl", "parquet"), default="npy")
    arguments = parser.parse_args()
    n_kills = n_runs = n_same = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "in.jsonl", arguments.records)
        common = [str(folder / "in.jsonl"), "--model", str(model_folder(arguments)), "--dim", "32"]
        whole = folder / f"whole.{arguments.format}"
        whole_s = run_whole([*common, "-o", str(whole)])
        while n_kills < arguments.kills:
            output = folder / f"killed.{arguments.format}"
            output.unlink(missing_ok=True)
            n_kills += run_killed([*common, "-o", str(output)], output, whole_s, seed=n_runs)
            n_runs += 1
            n_same += output.read_bytes() == whole.read_bytes()
    record(
        "resume",
        arguments,
        [{"records": arguments.records, "kills": n_kills, "runs": n_runs, "identical": n_same}],
    )


if __name__ == "__main__":
    main()
