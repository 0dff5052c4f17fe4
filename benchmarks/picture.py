"""docs/benchmarks.svg: throughput and time per query beside other libraries, in one look.

Every bar is a row of benchmarks/results. The bars of a group share a scale, since groups differ by
a thousand; the values stand beside them. Colours follow the reader's setting, light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.results_table import Row, compact, latest

__all__ = ["svg"]

WIDTH, PANEL, MARGIN, GAP = 880, 410, 20, 40
BAR, STEP, HEAD, GROUP = 15, 19, 24, 14
LONGEST = 175  # of the bars, in pixels; a name and a value stand right of them

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Arial, sans-serif; fill: #1f2328 }
.page { fill: #ffffff; stroke: #d1d9e0 }
.title { font-size: 15px; font-weight: 600 }
.note, .theirs-text { fill: #59636e }
.note { font-size: 12px }
.group { font-weight: 600 }
.ours { fill: #0969da }
.ours-text { font-weight: 600 }
.theirs { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .page { fill: #0d1117; stroke: #3d444d }
  .note, .theirs-text { fill: #9198a1 }
  .ours { fill: #4493f8 }
  .theirs { fill: #484f58 }
}
"""


class Bar(NamedTuple):
    name: str
    value: float
    is_ours: bool


class Group(NamedTuple):
    title: str
    bars: Sequence[Bar]


def _gpu(what: str, model: str, rivals: dict[str, str], name: str = "gpu") -> list[Bar]:
    """Our latest value and those of rivals, each from the latest row beside it."""
    bars = []
    for rival, short in rivals.items():
        (row,) = latest(name, what=what, model=model, rival_name=rival, dtype="bfloat16")
        if not bars:
            bars.append(Bar("qwen3_embed", float(row["ours"]), True))
        bars.append(Bar(short, float(row["rival"]), False))
    return bars


def _pair(row: Row, ours: str, theirs: str, rival: str, scale: float = 0.0) -> list[Bar]:
    """Two bars of one row; with a scale, rates from milliseconds."""
    values = (float(row[ours]), float(row[theirs]))
    mine, other = (1000 * scale / each if scale else each for each in values)
    return [Bar("qwen3_embed", mine, True), Bar(rival, other, False)]


def _int8(texts: str, tokens: str) -> Row:
    (row,) = latest(
        "int8_cpu", texts=texts, tokens=tokens, ours="int8 avx512_bf16", rival="openvino*"
    )
    return row


def _throughput() -> list[Group]:
    ((amx,), (avx,)) = (
        latest("throughput", machine=f"*{cores}*", texts="4", tokens="512")
        for cores in ("16 cores", "2 cores")
    )
    theirs = ("ours_tokens_per_s", "transformers_tokens_per_s", "Transformers")
    return [
        Group(
            "H200, texts of 512 tokens, sustained",
            _gpu(
                "512 tokens",
                "0.6B",
                {"torch.compile": "torch.compile", "vLLM 0.26": "vLLM"},
                "gpu_sustained",
            ),
        ),
        Group(
            "H200, a corpus of texts, str to vectors",
            _gpu(
                "mixed, texts to vectors",
                "0.6B",
                {"sentence-transformers, batches of 128": "sentence-transformers"},
            ),
        ),
        Group("16 cores with AMX, texts of 512 tokens", _pair(amx, *theirs)),
        Group("2 cores with AVX-512, texts of 512 tokens", _pair(avx, *theirs)),
        Group(
            "2 cores, int8, texts of 128 tokens",
            _pair(_int8("8", "128"), "ours_ms", "rival_ms", "OpenVINO int8", 8 * 128),
        ),
    ]


def _queries() -> list[Group]:
    ((amx,), (avx,)) = (latest("query", machine=f"*{cores}*") for cores in ("16 cores", "2 cores"))
    rival = {"sentence-transformers": "sentence-transformers", "vLLM 0.26": "vLLM"}
    query = "query of 15 tokens, str to vector"
    theirs = ("ours_ms", "transformers_ms", "Transformers")
    return [
        Group("H200", _gpu(query, "0.6B", rival)),
        Group("H200, 4B", _gpu(query, "4B", rival)),
        Group("16 cores with AMX", _pair(amx, *theirs)),
        Group("2 cores with AVX-512", _pair(avx, *theirs)),
        Group("2 cores, int8", _pair(_int8("1", "16"), "ours_ms", "rival_ms", "OpenVINO int8")),
    ]


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _panel(
    x: int, title: str, note: str, unit: str, groups: Sequence[Group]
) -> tuple[list[str], int]:
    """The elements of a column of groups, and the y at which it ends."""
    y = MARGIN + 14
    lines = [_text(x, y, title, "title"), _text(x, y + 18, note, "note")]
    y += 30
    for group in groups:
        y += HEAD
        lines.append(_text(x, y - 7, group.title, "group"))
        most = max(bar.value for bar in group.bars)
        for bar in group.bars:
            kind = "ours" if bar.is_ours else "theirs"
            width = max(LONGEST * bar.value / most, 2)
            lines.append(
                f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" class="{kind}"/>'
            )
            words = f"{compact(bar.value)}{unit} {bar.name}"
            lines.append(_text(x + round(width, 1) + 7, y + 12, words, f"{kind}-text"))
            y += STEP
        y += GROUP
    return lines, y


def svg() -> str:
    """The picture."""
    left, bottom = _panel(MARGIN, "Tokens per second", "longer bars are better", "", _throughput())
    right, other = _panel(
        MARGIN + PANEL + GAP,
        "Time of one query",
        "shorter bars are better; 15 or 16 tokens",
        " ms",
        _queries(),
    )
    height = max(bottom, other) + MARGIN
    last = (
        "Qwen3-Embedding-0.6B's shape with random weights unless named; bf16 unless int8. "
        "Commands and dates: docs/benchmarks.md"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>Tokens per second and time of one query beside other libraries</title>",
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"'
            ' class="page"/>',
            *left,
            *right,
            _text(MARGIN, height - MARGIN + 4, last, "note"),
            "</svg>\n",
        ]
    )
