"""README and the documentation: length, links, spelling, and figures that are results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.figures import pages
from benchmarks.results_table import latest, rows_of

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
names = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def test_the_readme_is_short() -> None:
    assert len(READMES[0].read_text("utf-8").split()) <= 900


def test_both_readmes_have_the_same_code_figures_and_rows() -> None:
    english, chinese = (path.read_text("utf-8") for path in READMES)
    shell = [
        re.findall(r"^```(?:sh|text)\n.*?^```$", each, re.M | re.S) for each in (english, chinese)
    ]
    assert shell[0] == shell[1]
    assert len(shell[0]) == 3
    assert english.count("\n| ") == chinese.count("\n| ")
    assert [each.count("\n- ") for each in (english, chinese)] == [5, 5]


# ---- links ----


def anchor_of(heading: str) -> str:
    """The anchor of a heading, as the site and code hosts make it."""
    words = re.sub(r"[^\w\s-]", "", heading.strip().lower())
    return re.sub(r"[\s-]+", "-", words) if "--" not in heading else re.sub(r"\s", "-", words)


def anchors_of(path: Path) -> set[str]:
    text = FENCE.sub("", path.read_text("utf-8"))
    included = re.search(r'^--8<-- "(.*)"$', text, re.MULTILINE)
    if included:
        return anchors_of(ROOT / included[1])
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links_of(path: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text("utf-8")))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@names
def test_links(page: Path) -> None:
    """Files and headings exist; pages link to what the site has."""
    broken = []
    for link in links_of(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        on_site = page.parent != ROOT / "docs" or target.resolve().parent == ROOT / "docs"
        known = target.exists() and on_site
        if not known or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def test_the_site_lists_every_page() -> None:
    listed = set(re.findall(r'"(\w+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert listed == {path.name for path in PAGES if path.parent == ROOT / "docs"}


# ---- spelling ----

CODE = re.compile(
    r"``.*?``|`[^`\n]*`|\]\([^)]*\)|<[^>]*>|https?://\S+|^:::.*(?:\n    .*)*", re.MULTILINE
)
WORD = re.compile(r"(?<![\w@./-])[A-Za-z][a-z']+(?![\w@/-])")


def words_of(path: Path) -> set[str]:
    """The words of a page's prose, without possessives."""
    prose = CODE.sub(" ", FENCE.sub("", path.read_text("utf-8")))
    return {re.sub(r"'s?$", "", word.lower()) for word in WORD.findall(prose)}


@pytest.mark.skipif(find_spec("spellchecker") is None, reason="without pyspellchecker")
def test_spelling() -> None:
    """Every word is in the dictionary or in tests/data/words.txt, in which every word is used."""
    from spellchecker import SpellChecker

    ours = set((ROOT / "tests" / "data" / "words.txt").read_text("utf-8").split())
    checker, unused = SpellChecker(), set(ours)
    unknown: dict[str, list[str]] = {}
    for page in [ROOT / "ARCHITECTURE.md", *(p for p in PAGES if p.name != "README.zh.md")]:
        found: set[str] = checker.unknown(words_of(page))
        unused -= found
        if found - ours:
            unknown[page.name] = sorted(found - ours)
    assert not unknown
    assert not unused


# ---- figures ----


def test_tables_are_the_results() -> None:
    """The tables and the picture are made of benchmarks/results."""
    stale = [path.name for path, text in pages().items() if path.read_text("utf-8") != text]
    assert not stale, "python -m benchmarks.figures"


# A figure in README: the CSV file, what chooses the row, its column.
FIGURES: dict[str, tuple[str, dict[str, str], str]] = {
    "0.675 s": ("start", {"command": "python benchmarks/start.py --csv"}, "best_s"),
    "1.58x": ("throughput", {"machine": "*2 cores*", "texts": "4", "tokens": "512"}, "ratio"),
    "1.09x": (
        "gpu_sustained",
        {"model": "0.6B", "what": "512 tokens", "rival_name": "torch.compile"},
        "ratio",
    ),
    "0.95 ms": (
        "gpu",
        {"model": "0.6B", "what": "query of 15*", "rival_name": "sentence*"},
        "ours",
    ),
    "25.4 ms": (
        "gpu",
        {"model": "0.6B", "what": "query of 15*", "rival_name": "sentence*"},
        "rival",
    ),
    "1.57x": (
        "int8_cpu",
        {
            "texts": "8",
            "tokens": "128",
            "ours": "int8 avx512_bf16",
            "rival": "bfloat16 avx512_bf16",
        },
        "ratio",
    ),
    "3,200 queries": ("int8_retrieval", {"task": "all"}, "queries"),
}
_FIGURE = re.compile(r"\d[\d,.]*(?:x\b| (?:m?s\b|tokens/s|%|[GM]B\b|queries))")


def test_figures_of_the_readme_are_results() -> None:
    text = FENCE.sub("", READMES[0].read_text("utf-8"))
    assert set(_FIGURE.findall(text)) == set(FIGURES)
    for words, (name, wanted, column) in FIGURES.items():
        written = float(re.match(r"[\d.]+", words.replace(",", ""))[0])  # type: ignore[index]
        digits = len(words.partition(".")[2].rstrip("xms "))
        (row,) = latest(name, **wanted)
        assert round(float(row[column]), digits) == written, (words, row)


def test_words_about_figures_are_results() -> None:
    """A quarter of the error; no loss: the interval of all queries has zero in it."""
    (parity,) = latest("parity")
    assert float(parity["ratio_of_means"]) <= 0.25
    (all_tasks,) = latest("int8_retrieval", task="all")
    assert float(all_tasks["low"]) < 0 < float(all_tasks["high"])


def test_the_chinese_readme_has_the_same_figures() -> None:
    text = READMES[1].read_text("utf-8")
    for words in FIGURES:
        assert words.rstrip("xms queri").strip() in text, words


# The pages whose tables are written by hand, and the results that they are made of.
SOURCES = {
    "int8.md": ("int8_accuracy", "int8_retrieval", "int8_cpu"),
    "vectors.md": ("int8", "staged_search", "dynamic_dimension", "hybrid"),
    "choose.md": ("choose", "choose_pseudo_queries"),
    "domain.md": ("domain_idioms", "domain_splits"),
    "server.md": ("throughput", "gpu"),
}
# Tables without measurements, or whose page says that they have no rows, by their heading.
WITHOUT_ROWS = (
    "| | |",
    "| clients of",
    "| sets made otherwise",
    "| set | queries made of the texts",
)
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def figures_in(text: str) -> list[str]:
    return [found.rstrip(",").replace(",", "") for found in NUMBER.findall(text)]


def is_rounded_from(words: str, values: set[float]) -> bool:
    """True if a value becomes the figure with as many digits."""
    written, step = float(words), 10.0 ** -len(words.partition(".")[2])
    if words.endswith("0") and written >= 100:  # 560,000 has two digits that count
        step = 10.0 ** (len(words) - 2)
    return any(abs(value - written) <= step / 2 * (1 + 1e-9) for value in values)


def tables_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """Heading and rows of each table."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        heading, _, *rows = table.splitlines()
        yield heading, rows


@pytest.mark.parametrize("page", SOURCES)
def test_tables_written_by_hand_are_results(page: str) -> None:
    """Every figure right of a table's first column is a value of the results, rounded."""
    values: set[float] = set()
    for name in SOURCES[page]:
        for row in rows_of(name):
            measured = [row[column] for column in row if column not in ("command", "versions")]
            found = {float(each) for each in figures_in(" ".join(measured))}
            values |= found | {100 * each for each in found}
    if page == "server.md":  # sizes of weights, which are computed
        values |= {float(each) for each in figures_in((ROOT / "docs" / "gpu.md").read_text())}
    text = (ROOT / "docs" / page).read_text("utf-8")
    wrong = [
        (words, row)
        for heading, rows in tables_of(text)
        if not heading.startswith(WITHOUT_ROWS)
        for row in rows
        for words in figures_in(re.sub(r"`[^`]*`", "", row.split("|", 2)[2]))
        if not is_rounded_from(words, values)
    ]
    assert not wrong
