"""A small model once through every kernel: a first sign of life, and work for a sanitizer.

python -m tests.cuda.smoke [--short]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.cuda.reference_cuda import open_cuda, reference_rows
from tests.support.engines import embed, random_texts, relative_errors, rms
from tests.support.make_model import make_model
from tests.support.reference_int8 import Int8WeightsReference


def main() -> None:
    lengths = (1, 17, 64, 65) if "--short" in sys.argv else (1, 17, 64, 65, 130, 300)
    changes = ({"shape": "tiny128"}, {"shape": "odd64"}, {"shape": "tiny64", "head_dim": 256})
    for change in changes:
        with tempfile.TemporaryDirectory() as folder:
            path = make_model(Path(folder), num_hidden_layers=2, **change)
            texts = random_texts(lengths)
            for dtype in ("bfloat16", "int8-weights"):
                engine = open_cuda(path, dtype=dtype)
                expected, noise = reference_rows(path, lengths)
                if dtype == "int8-weights":
                    rounding = Int8WeightsReference(path)
                    expected = [rounding.raw_row(text) for text in texts]
                rows = embed(engine, texts, expected[0].size, normalize=False)
                error = rms(relative_errors(rows, expected)) / noise
                rows = embed(engine, texts, 64)
                alone = np.concatenate([embed(engine, [text], 64) for text in texts])
                print(
                    change,
                    dtype,
                    f"error {error:.3f} of the noise, same bits alone:",
                    np.array_equal(rows, alone),
                    flush=True,
                )
                engine.close()


if __name__ == "__main__":
    main()
