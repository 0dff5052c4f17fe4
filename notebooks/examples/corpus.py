"""Embed a corpus file by the command line, then search its vectors: python corpus.py

A corpus may be larger than memory, and a run that was stopped goes on with --resume. With Parquet
(extra [parquet]) kept columns and vectors lie in one file: -o vectors.parquet.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from qwen3_embed import Embedder

TEXTS = [
    "Beijing is the capital of China.",
    "Gravity attracts bodies.",
    "巴黎是法国的首都。",
    "Tea is hot.",
]


def main(folder: Path) -> None:
    data, out = folder / "corpus.jsonl", folder / "vectors.npy"
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
    data.write_text("\n".join(lines), encoding="utf-8")
    command = ["encode", str(data), "-o", str(out), "--model", "mini", "--dim", "128"]
    subprocess.run([sys.executable, "-m", "qwen3_embed", *command], check=True)
    vectors = np.load(out, mmap_mode="r")
    query = Embedder("mini").encode_query("capital of France", dim=128)
    best = int((vectors @ query).argmax())
    print(vectors.shape, TEXTS[best])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
