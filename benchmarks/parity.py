"""Distance of the engine's vectors from Transformers fp32, beside Transformers bf16's own.

    python -m benchmarks.parity --csv

All 64 texts of tests/support/texts.py, 1 to 2,000 tokens: English, Chinese, code, emoji, empty.
"""

from __future__ import annotations

from test_parity import measure

from benchmarks.record import model_folder, parser_of, record
from tests.support.texts import parity_texts


def main() -> None:
    parser = parser_of(__doc__)
    arguments = parser.parse_args()
    parity = measure(model_folder(arguments), parity_texts())
    record(
        "parity",
        arguments,
        [
            {
                "texts": len(parity.n_tokens),
                "tokens": sum(parity.n_tokens),
                "longest": max(parity.n_tokens),
                "ours_mean": f"{parity.ours.mean():.3e}",
                "ours_worst": f"{parity.ours.max():.3e}",
                "transformers_bf16_mean": f"{parity.transformers_bf16.mean():.3e}",
                "transformers_bf16_worst": f"{parity.transformers_bf16.max():.3e}",
                "ratio_of_means": round(parity.ratio, 3),
            }
        ],
    )


if __name__ == "__main__":
    main()
