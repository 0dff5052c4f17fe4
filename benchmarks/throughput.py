"""Tokens per second of the engine against Transformers bf16, and of what the CPU can do.

    python -m benchmarks.throughput --csv

FLOP are counted two ways. "nominal" is what the model's formulas need for every token of
every layer: products with the weights, and causal attention, whose two products take
2 * NH * HS * (length + 1) each for a token and layer on average. "done" leaves out what
the last layer skips: there only k and v are computed for tokens other than the last.
`% of peak` is done FLOP over what a loop over registers alone reaches in the same run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.record import machine_limits, model_folder, n_cores, parser_of, record
from benchmarks.rivals import Contest, random_texts

WORKLOADS = ((4, 512), (8, 128), (16, 32), (1, 2048))


def flop_counts(config: dict[str, Any], n_texts: int, n_tokens: int) -> tuple[float, float]:
    """(nominal, done) floating-point operations of n texts of equal length."""
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    q_width = config["num_attention_heads"] * config["head_dim"]
    kv_width = config["num_key_value_heads"] * config["head_dim"]
    kv_product = 2.0 * hidden * 2 * kv_width
    products = kv_product + 2.0 * hidden * (2 * q_width + 3 * inter)
    attention = 2.0 * q_width * (n_tokens + 1)  # a token's mean over the text
    n_layers = config["num_hidden_layers"]
    nominal = n_layers * n_tokens * (products + attention)
    last_token = products + 4.0 * q_width * n_tokens
    last_layer = (n_tokens - 1) * kv_product + last_token
    done = (n_layers - 1) * n_tokens * (products + attention) + last_layer
    return n_texts * nominal, n_texts * done


def workload_result(
    contest: Contest, folder: Path, n_texts: int, n_tokens: int, n_rounds: int
) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    peak, _ = machine_limits(n_cores())
    times = contest.times(random_texts(folder, n_texts, n_tokens), n_rounds)
    ours, theirs = min(times.ours), min(times.transformers)
    nominal, done = flop_counts(config, n_texts, n_tokens)
    return {
        "texts": n_texts,
        "tokens": n_tokens,
        "ours_tokens_per_s": round(n_texts * n_tokens / ours, 1),
        "transformers_tokens_per_s": round(n_texts * n_tokens / theirs, 1),
        "ratio": round(theirs / ours, 2),
        "transformers_setting": str(times.setting),
        "nominal_gflop_per_s": round(nominal / ours / 1e9, 1),
        "done_gflop_per_s": round(done / ours / 1e9, 1),
        "peak_gflop_per_s": round(peak / 1e9, 1),
        "percent_of_peak": round(100 * done / ours / peak, 1),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds of each contender")
    arguments = parser.parse_args()
    folder = model_folder(arguments)
    contest = Contest(folder)
    results = [workload_result(contest, folder, *work, arguments.rounds) for work in WORKLOADS]
    record("throughput", arguments, results)


if __name__ == "__main__":
    main()
