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


def main() -> None:
    lengths = (1, 17, 64, 65) if "--short" in sys.argv else (1, 17, 64, 65, 130, 300)
    changes = ({"shape": "tiny128"}, {"shape": "odd64"}, {"shape": "tiny64", "head_dim": 256})
    for change in changes:
        with tempfile.TemporaryDirectory() as folder:
            path = make_model(Path(folder), num_hidden_layers=2, **change)
            engine = open_cuda(path)
            expected, noise = reference_rows(path, lengths)
            texts = random_texts(lengths)
            rows = embed(engine, texts, expected[0].size, normalize=False)
            error = rms(relative_errors(rows, expected)) / noise
            rows = embed(engine, texts, 64)
            alone = np.concatenate([embed(engine, [text], 64) for text in texts])
            print(
                change,
                f"error {error:.3f} of the noise, same bits alone:",
                np.array_equal(rows, alone),
                flush=True,
            )
            engine.close()


if __name__ == "__main__":
    main()
