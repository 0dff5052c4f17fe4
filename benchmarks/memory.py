"""Peak resident memory beyond the mapped weights while many long texts are encoded.

    python -m benchmarks.memory --csv

Everything that is not a page of a file counts: interpreter, tokenizer, work memory, rows.
The child's status is read every 10 ms: VmHWM counts mapped files too, so it can't serve.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.record import ROOT, model_folder, parser_of, record

CHILD = """
import sys
from tests.support.texts import text_of
from qwen3_embed import Embedder
n_texts, n_tokens = int(sys.argv[2]), int(sys.argv[3])
with Embedder(sys.argv[1], device="cpu", max_length=n_tokens) as model:
    texts = [text_of(0, int(1.3 * n_tokens), seed) for seed in range(n_texts)]
    assert (model.count_tokens(texts) >= n_tokens).all()
    import warnings
    warnings.simplefilter("ignore")
    print("ready", flush=True)
    model.encode(texts)
"""


def resident(pid: int) -> dict[str, int]:
    """Resident kilobytes by kind; empty once the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split(":") for line in lines)
    return {key: int(value.split()[0]) for key, value in pairs if key.startswith("Rss")}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=512)
    arguments = parser.parse_args()
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(model_folder(arguments)),
        str(arguments.texts),
        str(arguments.tokens),
    ]
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    peak_own = peak_file = 0
    while child.poll() is None:
        sizes = resident(child.pid)
        peak_own = max(peak_own, sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0))
        peak_file = max(peak_file, sizes.get("RssFile", 0))
        time.sleep(0.01)
    if child.returncode != 0:
        raise SystemExit(f"error: the child ended with status {child.returncode}")
    record(
        "memory",
        arguments,
        [
            {
                "texts": arguments.texts,
                "tokens": arguments.tokens,
                "peak_beyond_files_mb": round(peak_own * 1024 / 1e6, 1),
                "peak_file_pages_mb": round(peak_file * 1024 / 1e6, 1),
                "seconds": round(time.perf_counter() - begin, 1),
            }
        ],
    )


if __name__ == "__main__":
    main()
