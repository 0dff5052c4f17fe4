"""The tables of figures in the documentation, made of benchmarks/results.

    python -m benchmarks.figures          rewrite the tables and the picture
    python -m benchmarks.figures --check  exit status 1 if they are not what the results give

A page has a table between `<!-- table: NAME -->` and `<!-- end of table -->`. Below it stand the
date, machine, commit and command of the rows that it was made of.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import picture
from benchmarks.gpu_cards import card_table
from benchmarks.results_table import (
    ROOT,
    Cell,
    Row,
    Table,
    compact,
    device_of,
    error,
    latest,
    number,
    percent,
    times,
)

__all__ = ["pages", "with_tables"]

PAGES = ("docs/benchmarks.md", "docs/accuracy.md", "docs/gpu.md")
PICTURE = ROOT / "docs" / "benchmarks.svg"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _gpu_rows(*whats: str, dtype: str = "bfloat16") -> Callable[[], list[Row]]:
    """Rows of gpu.csv in the order asked for, by model, each against its rivals."""

    def rows() -> list[Row]:
        found = []
        for what in whats:
            beside = [
                row
                for row in latest("gpu", ("model", "rival_name"), what=what, dtype=dtype)
                if not row["rival_name"].startswith(("own f9c0f0c",))
            ]
            found += sorted(beside, key=lambda row: row["model"])
        return found

    return rows


_BESIDE: Mapping[str, str | Cell] = {
    "measured": "what",
    "model": "model",
    "unit": "unit",
    "qwen3_embed": number("ours", 4),
    "beside": lambda row: row["rival_name"],
    "theirs": lambda row: compact(row["rival"], 4) if float(row["rival"]) else "",
    "ratio": times("ratio"),
}

TABLES = {
    "cpu_throughput": Table(
        lambda: latest("throughput", ("machine", "texts", "tokens")),
        {
            "machine": device_of,
            "texts x tokens": lambda row: f"{row['texts']} x {row['tokens']}",
            "tokens/s": number("ours_tokens_per_s", 4),
            "Transformers, best setting": lambda row: (
                f"{compact(row['transformers_tokens_per_s'], 4)} ({row['transformers_setting']})"
            ),
            "ratio": times("ratio"),
            "of the peak of products": lambda row: f"{float(row['percent_of_peak']):.0f} %",
        },
    ),
    "cpu_query": Table(
        lambda: latest("query", ("machine",)),
        {
            "machine": device_of,
            "tokens": "tokens",
            "best, median": lambda row: f"{row['ours_ms']}, {row['ours_median_ms']} ms",
            "Transformers": lambda row: (
                f"{row['transformers_ms']}, {row['transformers_median_ms']} ms"
            ),
            "ratio": times("ratio"),
            "reading the weights alone": lambda row: f"{row['weights_read_ms']} ms",
        },
    ),
    "cpu_int8": Table(
        lambda: sorted(
            (
                row
                for row in latest("int8_cpu", ("texts", "tokens", "ours", "rival"))
                if row["ours"] in ("int8 avx512_bf16", "q8_0 avx512_bf16")
                and row["rival"].startswith(("bfloat16 avx512_bf16", "openvino", "llama.cpp"))
            ),
            key=lambda row: (row["ours"], row["rival"], int(row["texts"]) * int(row["tokens"])),
        ),
        {
            "texts x tokens": lambda row: f"{row['texts']} x {row['tokens']}",
            "qwen3_embed": "ours",
            "beside": "rival",
            "ms": number("ours_ms", 4),
            "theirs, ms": number("rival_ms", 4),
            "ratio": times("ratio"),
        },
    ),
    "start": Table(
        lambda: latest("start", ("command",)),
        {
            "command": lambda row: f"`{row['command'].removesuffix(' --csv')}`",
            "best, median": lambda row: f"{row['best_s']}, {row['median_s']} s",
            "import": lambda row: f"{row['import_s']} s",
            "open": lambda row: f"{row['open_s']} s",
            "encode": lambda row: f"{row['encode_s']} s",
        },
    ),
    "mini": Table(
        lambda: latest("mini", ("way",)),
        {
            "way": lambda row: row["way"].replace(" a call", " per call"),
            "texts": "texts",
            "tokens per text": "tokens",
            "tokens/s": number("tokens_per_s"),
        },
    ),
    "gpu_long": Table(
        _gpu_rows("512 tokens", "128 tokens", "8192 tokens", "32768 tokens"), _BESIDE
    ),
    "gpu_sustained": Table(
        lambda: [
            row
            for row in latest("gpu_sustained", ("what", "model", "rival_name"))
            if row["rival_name"] in ("torch.compile", "vLLM 0.26")
        ],
        {**_BESIDE, "watts": number("watts"), "MHz": number("mhz")},
    ),
    "gpu_query": Table(
        lambda: [
            row for row in _gpu_rows("query of 15 tokens, str to vector")() if row["rival_name"]
        ],
        _BESIDE,
    ),
    "gpu_corpus": Table(
        _gpu_rows(
            "mixed, texts to vectors",
            "mixed corpus on cuda:0,cuda:1",
            "10,000 queries after one instruction",
            "30 tokens, nothing shared",
        ),
        _BESIDE,
    ),
    "gpu_memory": Table(
        _gpu_rows("load from the page cache", "GPU memory beyond weights", "GPU idle, whole call"),
        {
            "measured": "what",
            "model": "model",
            "value": lambda row: f"{compact(row['ours'])} {row['unit']}",
        },
    ),
    "gpu_small": Table(
        lambda: [
            row
            for row in latest("gpu_sustained", ("what", "model"))
            if row["what"].startswith("a call of")
        ],
        {"measured": "what", "model": "model", "ms": number("ours")},
    ),
    "float8": Table(
        lambda: [
            row
            for row in latest("gpu", ("model", "what", "rival_name"), dtype="float8")
            if row["what"] == "float8, 512 tokens"
        ],
        {
            "model": "model",
            "bf16: tokens/s": number("rival", 4),
            "float8: tokens/s": number("ours", 4),
            "ratio": times("ratio"),
        },
    ),
    "int8_weights": Table(
        lambda: [
            row for row in latest("gpu_int8", ("what", "model")) if row["rival_name"] == "bf16"
        ],
        {
            "measured": "what",
            "model": "model",
            "unit": "unit",
            "int8-weights": number("ours", 4),
            "bf16": number("rival", 4),
            "ratio": times("ratio"),
        },
    ),
    "split": Table(
        lambda: latest("split", ("what", "model")),
        {
            "measured": "what",
            "model": "model",
            "unit": "unit",
            "on two GPUs": number("ours", 4),
            "on one": lambda row: compact(row["one"], 4) if float(row["one"]) else "",
            "ratio": times("ratio"),
            "note": "note",
        },
    ),
    "int8_weights_accuracy": Table(
        lambda: latest("gpu_int8", ("what", "model"), what="1 - cos*"),
        {
            "dtype": lambda row: row["what"].rpartition(", ")[2],
            "model": "model",
            "mean 1 - cos": error("ours"),
            "rounding alone, simulated": lambda row: (
                error("rival")(row) if float(row["rival"]) else ""
            ),
        },
    ),
    "cards": Table(
        lambda: [row for row in latest("gpu_int8", ("what", "model")) if "card of" in row["what"]],
        {
            "on an H200 with this much memory left": "what",
            "model": "model",
            "value": lambda row: f"{compact(row['ours'], 4)} {row['unit']}",
            "promised": lambda row: compact(row["rival"], 4) if float(row["rival"]) else "",
        },
    ),
    "server": Table(
        lambda: latest("serve", ("command", "texts")),
        {
            "connections x texts": lambda row: f"{row['clients']} x {row['texts']}",
            "requests": number("requests"),
            "wrong": "wrong",
            "requests/s": number("requests_per_s", 4),
            "of the engine alone": percent("of_direct"),
            "p50, p99": lambda row: f"{row['p50_ms']}, {row['p99_ms']} ms",
            "sentence-transformers behind FastAPI": lambda row: (
                f"{row['rival_requests_per_s']} requests/s" if row["rival_requests_per_s"] else ""
            ),
        },
    ),
    "server_gpu": Table(
        lambda: latest("serve_gpu", ("model", "what")),
        {
            "model": "model",
            "connections x texts x tokens": "what",
            "requests/s": number("requests_per_s", 4),
            "p50, p99": lambda row: f"{row['p50_ms']}, {row['p99_ms']} ms",
            "tokens/s": number("tokens_per_s", 4),
            "of the engine alone": percent("of_engine"),
            "wrong": "wrong",
        },
    ),
    "server_fair": Table(
        lambda: latest("serve_fair", ("model", "what")),
        {
            "model": "model",
            "load": "what",
            "the others' p50": lambda row: f"{row['others_p50_ms']} ms",
            "slowest": lambda row: f"{row['slowest_ms']} ms",
        },
    ),
    "server_soak": Table(
        lambda: latest("serve_soak"),
        {
            "requests": number("requests"),
            "lost": "lost",
            "wrong": "wrong",
            "kills": "kills",
            "memory per life, MB": "mb_by_life",
        },
    ),
    "rerank": Table(
        lambda: latest("rerank", ("command",)),
        {
            "machine": device_of,
            "command": lambda row: f"`{row['command'].removesuffix(' --csv')}`",
            "documents x tokens": lambda row: f"{row['documents']} x {row['document_tokens']}",
            "rank": lambda row: f"{compact(row['rank_s'])} s",
            "each pair apart": lambda row: f"{compact(row['apart_s'])} s",
            "ratio": times("sharing_gain"),
        },
    ),
    "rerank_rivals": Table(
        lambda: latest("rerank_rivals", ("command",)),
        {
            "command": lambda row: f"`{row['command'].removesuffix(' --csv')}`",
            "rank": lambda row: f"{compact(row['rank_s'])} s",
            "beside": "rival",
            "theirs": lambda row: f"{compact(row['rival_s'])} s",
            "ratio": times("ratio"),
        },
    ),
    "folder": Table(
        lambda: latest("search_folder"),
        {
            "files": number("n_files"),
            "passages": number("n_passages"),
            "first search": lambda row: f"{row['first_s']} s",
            "again after one file changed: best, median": lambda row: (
                f"{row['again_best_s']}, {row['again_median_s']} s"
            ),
            "processor time": lambda row: f"{row['again_cpu_s']} s",
        },
    ),
    "corpus": Table(
        lambda: latest("corpus"),
        {
            "lines": number("lines"),
            "encode command": lambda row: f"{row['run_s']} s",
            "engine alone, without merging equal lines": lambda row: f"{row['alone_s']} s",
            "peak memory": lambda row: f"{row['run_peak_mb']} MB",
        },
    ),
    "resume": Table(
        lambda: latest("resume"),
        {
            "records": number("records"),
            "kills": "kills",
            "runs": "runs",
            "identical results": "identical",
        },
    ),
    "memory": Table(
        lambda: latest("memory"),
        {
            "texts x tokens": lambda row: f"{row['texts']} x {row['tokens']}",
            "memory beyond the files": lambda row: f"{row['peak_beyond_files_mb']} MB",
            "pages of the files": lambda row: f"{row['peak_file_pages_mb']} MB",
        },
    ),
    "threads": Table(
        lambda: latest("threads"),
        {
            "threads": "threads",
            "tokens per text": "tokens",
            "one text per thread": lambda row: f"{compact(row['threads_tokens_per_s'])} tokens/s",
            "calls of as many texts": lambda row: (
                f"{compact(row['together_tokens_per_s'])} tokens/s"
            ),
            "ratio": times("ratio"),
        },
    ),
    "cpu_parity": Table(
        lambda: latest("parity"),
        {
            "machine": device_of,
            "texts": "texts",
            "longest": lambda row: f"{compact(row['longest'])} tokens",
            "mean (worst) 1 - cos": lambda row: (
                f"{float(row['ours_mean']):.1e} ({float(row['ours_worst']):.1e})"
            ),
            "Transformers in bf16": lambda row: (
                f"{float(row['transformers_bf16_mean']):.1e}"
                f" ({float(row['transformers_bf16_worst']):.1e})"
            ),
        },
    ),
    "gpu_parity": Table(
        lambda: sorted(
            (row for row in latest("gpu", ("model", "dtype", "rival_name"), what="mean 1 - cos*")),
            key=lambda row: (row["dtype"], row["model"]),
        ),
        {
            "dtype": "dtype",
            "model": "model",
            "mean 1 - cos": error("ours"),
            "beside": "rival_name",
            "theirs": error("rival"),
        },
    ),
    "float8_retrieval": Table(
        lambda: [
            row
            for row in latest("gpu", ("model", "what"), dtype="float8")
            if row["what"].startswith("held-out")
        ],
        {
            "task": lambda row: row["what"].removeprefix("held-out tasks: ").replace("_", " "),
            "bf16": "rival",
            "float8": "ours",
            "share": lambda row: f"{100 * float(row['ratio']):.1f} %",
        },
    ),
    "int8_accuracy": Table(
        lambda: latest("int8_accuracy", ("model",)),
        {
            "weights": "model",
            "texts": "texts",
            "int8: mean (worst) 1 - cos": lambda row: (
                f"{float(row['mean']):.1e} ({float(row['worst']):.1e})"
            ),
            "bf16: mean": error("bf16_mean"),
        },
    ),
    "int8_retrieval": Table(
        lambda: latest("int8_retrieval", ("task",)),
        {
            "task": lambda row: row["task"].replace("_", " "),
            "queries": number("queries"),
            "bf16": "bf16",
            "int8": "int8",
            "difference": lambda row: (
                f"{float(row['difference']):+.2f}"
                f" ({float(row['low']):+.2f} to {float(row['high']):+.2f})"
            ),
        },
    ),
    "rerank_parity": Table(
        lambda: latest("rerank_parity", ("command",)),
        {
            "machine": device_of,
            "command": lambda row: f"`{row['command'].removesuffix(' --csv')}`",
            "root mean square error of logits": number("our_rms_error"),
            "Transformers in bf16": number("transformers_bf16_rms_error"),
        },
    ),
    "codes": Table(
        lambda: [
            row for row in latest("int8", ("set", "quantizer")) if "ranges" not in row["quantizer"]
        ],
        {
            "set": lambda row: row["set"].replace("_", " "),
            "scale": "quantizer",
            "float32": "float32",
            "dot": lambda row: f"{float(row['dot']):+.2f} ({row['dot_error']})",
            "cosine": lambda row: f"{float(row['cosine']):+.2f} ({row['cosine_error']})",
            "L2": lambda row: f"{float(row['l2']):+.2f} ({row['l2_error']})",
        },
    ),
}


def with_tables(text: str) -> str:
    """A page with its tables made anew."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{_table(found[2])}\n\n{found[3]}", text)


def _table(name: str) -> str:
    return card_table() if name == "gpu_cards" else str(TABLES[name])


def pages() -> dict[Path, str]:
    """Each page that has tables, and the picture, as they should be."""
    made = {ROOT / name: with_tables((ROOT / name).read_text("utf-8")) for name in PAGES}
    return made | {PICTURE: picture.svg()}


def main() -> int:
    made = pages()
    stale = [p for p, text in made.items() if not p.exists() or p.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what the results give: python -m benchmarks.figures")
        return int(bool(stale))
    for path, text in made.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
