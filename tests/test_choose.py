"""choose: the decision rule where the truth is known, its data, report and command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("ir_measures")

from qwen3_embed.cli import main
from qwen3_embed.evaluation import Choice, Dataset, choose
from qwen3_embed.evaluation.bootstrap import ratio_bounds
from qwen3_embed.evaluation.choice import read_for_choice
from qwen3_embed.evaluation.choice_report import Option, cost_of
from qwen3_embed.evaluation.datasets import Query
from qwen3_embed.evaluation.pseudo_queries import take_sentences
from qwen3_embed.evaluation.rankings import Setting

Capture = pytest.CaptureFixture[str]
Values = npt.NDArray[np.float64]


def losing(seed: int, n_queries: int, shares: list[float]) -> Values:
    """A reference, and systems that each lose a share of all queries at random."""
    random = np.random.default_rng(seed)
    reference = random.choice([0.0, 0.5, 1.0], size=(n_queries, 1), p=[0.2, 0.3, 0.5])
    return np.hstack([reference, reference * (random.random((n_queries, len(shares))) >= shares)])


def test_a_wrong_choice_is_rare() -> None:
    """All 20 systems are just below the target: at most 5 % of samples let one pass.

    Of 25 samples more than 5 do so with a probability of 0.1 % if the rate is 5 %.
    """
    wrong = wrong_without_correction = 0
    for seed in range(25):
        values = losing(seed, 300, [0.0201] * 20)
        ratios, bounds = ratio_bounds(values)
        wrong += bool((bounds[1:] >= 0.98).any())
        errors = values - values[:, :1] * ratios
        deviations = errors.std(axis=0) / len(values) ** 0.5 / values[:, 0].mean()
        wrong_without_correction += bool((ratios - 1.645 * deviations >= 0.98)[1:].any())
    assert wrong <= 5
    assert wrong_without_correction > 15


def test_bounds_come_near_with_queries() -> None:
    """A system that loses 0.5 % is certain to keep 98 % once there are enough queries."""
    kept = {
        n: sum(ratio_bounds(losing(seed, n, [0.005] * 5))[1][1] >= 0.98 for seed in range(2))
        for n in (300, 2500)
    }
    assert kept == {300: 0, 2500: 2}


def test_equal_systems_are_not_certain_on_few_queries() -> None:
    """No loss in n queries: the rule of three allows for 3 / n."""
    for n in (50, 300, 1500):
        ratios, bounds = ratio_bounds(losing(1, n, [0.0]))
        assert ratios.tolist() == [1, 1]
        assert bounds[0] == 1
        assert 1 - 9 / n < bounds[1] < 1 - 3 / n


def test_a_reference_that_finds_nothing() -> None:
    with pytest.raises(ValueError, match="mean of 0"):
        ratio_bounds(np.zeros((30, 2)))


def vectors_with_noise(n: int, dim: int, seed: int = 3) -> tuple[Any, Any, Dataset]:
    """Queries that are their documents with noise; the information is in the first half."""
    random = np.random.default_rng(seed)
    documents = random.standard_normal((n, dim)).astype(np.float32)
    documents[:, dim // 2 :] *= 0.01
    queries = documents + np.float32(0.8) * random.standard_normal((n, dim)).astype(np.float32)
    data = Dataset.of(
        "noise", [Query(f"q{i}", {str(i): 1}) for i in range(n)], {str(i): f"{i}" for i in range(n)}
    )
    return documents, queries, data


def test_the_cheapest_that_suffices() -> None:
    documents, queries, data = vectors_with_noise(600, 64)
    choice = choose(data, vectors=(documents, queries), n_documents=10**7, target=0.98)
    chosen = choice.chosen
    assert chosen.setting.bytes_per_vector < 64
    cheaper = choice.options[: choice.options.index(chosen)]
    assert all(option.bound < 0.98 for option in cheaper)
    assert choice.runner_up in cheaper
    costs = [cost_of(option.setting, "bytes") for option in choice.options]
    assert costs == sorted(costs)
    by_dim = {o.setting.dim: o.ratio for o in choice.options if o.setting.precision == "float32"}
    assert by_dim[32] > 0.99  # the other half of the dimensions holds nothing
    assert choice.options[-1] == Option(Setting(64), 1.0, 1.0)
    told = str(choice)
    assert f"chosen: {chosen.setting} ({chosen.setting.bytes_per_vector} bytes per vector" in told
    assert "10,000,000 documents" in told
    assert "runner-up: " in told
    assert "Measure again with more documents" in told


def test_memory_is_minimised_by_bits() -> None:
    """Codes that only candidates need may stay on the disk."""
    documents, queries, data = vectors_with_noise(600, 64)
    choice = choose(data, vectors=(documents, queries), minimise="memory", target=0.9)
    chosen = choice.chosen.setting
    assert chosen.precision.startswith("binary")
    assert chosen.memory_per_vector <= 8
    oversamples = {o.setting.oversample for o in choice.options if "+" in o.setting.precision}
    assert oversamples == {2, 4}  # 10 times ten candidates are more than a tenth of 600 documents


def choice_of(options: list[Option], target: float = 0.98) -> Choice:
    return Choice("d", "m", 400, 1000, [], 0.5, target, 1000, "bytes", options)


def test_runner_up_is_explained() -> None:
    full = Option(Setting(256), 1, 1)
    misses = choice_of([Option(Setting(32, "int8"), 0.9, 0.8), full])
    assert "it misses 98 % on these queries" in str(misses)
    assert "nothing cheaper is certain to do" in str(misses)
    # Twice the distance to the target: four times the queries.
    unsure = choice_of([Option(Setting(64, "int8"), 0.99, 0.97), full])
    assert "98 % is not certain; about 1,600 queries would tell" in str(unsure)
    near = choice_of([Option(Setting(64, "int8"), 0.9801, 0.97), full])
    assert "too near to 98 % to be told from it" in str(near)
    both = choice_of([Option(Setting(64, "int8"), 1, 0.99), Option(Setting(64), 1, 0.99), full])
    assert both.runner_up is None
    assert "next that reaches it: 64 dims, float32" in str(both)


def test_sentences_are_taken_out() -> None:
    texts = [
        "The first sentence. The second one!",
        "Only one sentence",
        "第一句话在这里。第二句话在那里。",
    ]
    data = take_sentences("t", texts)
    assert len(data.queries) == 2
    for query, right in zip(data.queries, data.relevant, strict=True):
        (place,) = right
        assert query in texts[place]
        assert query not in data.documents[place]
    assert data.documents[1] == texts[1]
    assert data.notes[0].startswith("2 pseudo-queries, sentences taken out of the documents")
    with pytest.raises(ValueError, match="no document has two sentences"):
        take_sentences("t", ["one", "two", ""])


def test_data_with_and_without_queries(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"query": "q", "positive": "a", "negatives": ["b"]}\n')
    assert read_for_choice(path).candidates is None
    path.write_text('{"text": "The first sentence. The second one."}\n{"text": "other"}\n')
    assert "pseudo-queries" in read_for_choice(path).notes[0]
    (tmp_path / "t.csv").write_text("query,document\nq,a\nr,b\n")
    assert len(read_for_choice(tmp_path / "t.csv").queries) == 2
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("The first sentence. The second one.\n")
    (folder / "b.md").write_text("# Heading\n\nAnother text stands here. It has an end.\n")
    assert len(read_for_choice(folder).queries) == 2
    with pytest.raises(FileNotFoundError, match="no built-in set of that name"):
        read_for_choice("nowhere")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 0}, "expected a share above 0"),
        ({"target": 98}, "expected a share above 0"),
        ({"n_documents": 0}, "expected a positive int"),
        ({"minimise": "time"}, "expected one of bytes, memory"),
        ({"precisions": ["int4"]}, "expected some of float32, int8"),
        ({"oversamples": [0.5]}, "expected numbers of 1 or more"),
        ({"dims": [128]}, r"dim=128, expected 1\.\.64"),
    ],
)
def test_arguments_refused(options: dict[str, Any], words: str) -> None:
    documents, queries, data = vectors_with_noise(30, 64)
    with pytest.raises(ValueError, match=words):
        choose(data, vectors=(documents, queries), **options)


def test_command(tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "o"
    arguments = ["--target", "0.5", "--documents", "1000000", "--dims", "256", "64"]
    assert main(["choose", "zh-en", *arguments, "-o", str(output)]) == 0
    told = capsys.readouterr()
    assert "66 queries among 176 documents, mini" in told.out
    content = json.loads((output / "choice.json").read_text("utf-8"))
    chosen = content["chosen"]
    assert chosen["bound"] >= 0.5
    assert f"chosen: {chosen['dim']} dims, {chosen['precision']}" in told.out
    assert "| **chosen** |" in (output / "choice.md").read_text("utf-8")
    assert main(["choose", "zh-en", "--target", "98"]) == 1
    assert "expected a share above 0 and at most 1" in capsys.readouterr().err
