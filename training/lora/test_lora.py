"""Tests of the fine-tuning: python -m pytest training/lora (needs requirements.txt)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from qwen3_embed import Embedder  # noqa: E402
from tests.support.make_model import make_model  # noqa: E402
from training.lora.losses import info_nce, matryoshka  # noqa: E402
from training.lora.pairs import Pair, batches, read_pairs, write_pairs  # noqa: E402
from training.lora.ranking import mine, ndcg_at_10  # noqa: E402
from training.lora.train import Trainer  # noqa: E402


def unit(n: int, seed: int) -> Any:
    rows = torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


class TestLoss:
    def test_against_a_loop(self) -> None:
        queries, documents = unit(5, 1), unit(9, 2)
        same = torch.zeros(5, 9, dtype=torch.bool)
        same[0, 7] = True
        found = info_nce(queries, documents, same, 0.05, 0.1)
        losses = []
        for i in range(5):
            cosines = [float(queries[i] @ d) for d in documents]
            kept = [
                c
                for j, c in enumerate(cosines)
                if j == i or not (same[i, j] or c > cosines[i] + 0.1)
            ]
            exps = np.exp(np.array(kept) / 0.05)
            losses.append(-np.log(np.exp(cosines[i] / 0.05) / exps.sum()))
        assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)

    def test_dims(self) -> None:
        queries, documents = unit(4, 1), unit(4, 2)
        same = torch.zeros(4, 4, dtype=torch.bool)
        whole = matryoshka(queries, documents, same, [16], 0.05, 9.0)
        both = matryoshka(queries, documents, same, [16, 4], 0.05, 9.0)
        cut = matryoshka(queries, documents, same, [4], 0.05, 9.0)
        assert float(both) == pytest.approx(float(whole + cut) / 2, rel=1e-5)


class TestPairs:
    def test_round_trip_and_order(self, tmp_path: Path) -> None:
        pairs = [Pair(f"q{i}", f"d{i}", (f"n{i}",), "Find it") for i in range(10)]
        write_pairs(tmp_path / "p.jsonl", pairs)
        assert read_pairs(tmp_path / "p.jsonl") == pairs
        first = list(batches(pairs, 3, 0, 0))
        assert first == list(batches(pairs, 3, 0, 0))
        assert first != list(batches(pairs, 3, 0, 1))
        assert [len(part) for part in first] == [3, 3, 3]

    @pytest.mark.parametrize("line", ["[]", "{", '{"query": "a"}', '{"query": 1, "positive": "b"}'])
    def test_errors_name_the_line(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "p.jsonl"
        path.write_text('{"query": "a", "positive": "b"}\n\n' + line)
        with pytest.raises(SystemExit, match=r"p\.jsonl:3: .*expected"):
            read_pairs(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("m"), "tiny64")


PAIRS = [
    Pair(f"what is number {i}", f"{i} is the number {'abcdefghijklmnop'[i]}") for i in range(16)
]


def options_of(**changes: Any) -> argparse.Namespace:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "seed": 0, "rank": 4}
    options |= {"dropout": 0.1, "rslora": False, "dora": False, "lr": 1e-2, "checkpointing": False}
    options |= {"negatives": 2, "dims": [128, 32], "temperature": 0.05, "margin": 0.1}
    options |= {"batch_size": 4, "accumulate": 2, "epochs": 2, "save_every": 2}
    return argparse.Namespace(**(options | changes))


class TestTrainer:
    def test_learns_and_goes_on(self, folder: Path, tmp_path: Path) -> None:
        with Embedder(folder) as model:
            pairs = mine(model, PAIRS, 3)
            with torch.no_grad():
                first = Trainer(folder, model.tokenizer, options_of()).loss(pairs[:4])
            whole = Trainer(folder, model.tokenizer, options_of())
            whole.run(pairs, tmp_path / "a")
            assert whole.step == 4
            with torch.no_grad():
                assert whole.loss(pairs[:4]) < first
            # Stopped after two of the four steps, by an epoch less, and gone on from there.
            half = Trainer(folder, model.tokenizer, options_of(epochs=1))
            half._step = lambda parts, total: Trainer._step(half, parts, 4)  # the same rates
            half.run(pairs, tmp_path / "b")
            again = Trainer(folder, model.tokenizer, options_of())
            again.resume(tmp_path / "b")
            assert again.step == 2
            again.run(pairs, tmp_path / "b")
            files = [tmp_path / name / "adapter_model.safetensors" for name in "ab"]
            assert files[0].read_bytes() == files[1].read_bytes()

    def test_the_engine_gives_what_was_trained(self, folder: Path, tmp_path: Path) -> None:
        with Embedder(folder) as model:
            trainer = Trainer(folder, model.tokenizer, options_of(dropout=0.0))
            trainer.run(PAIRS, tmp_path / "a")
            trainer.model.eval()
            with torch.no_grad():
                rows = trainer.rows([pair.positive for pair in PAIRS])
            expected = torch.nn.functional.normalize(rows, dim=-1).numpy()
            model.add_adapter("new", tmp_path / "a")
            model.set_adapter("new")
            found = model.encode_document([pair.positive for pair in PAIRS])
            assert (found * expected).sum(axis=1).min() > 0.999

    @pytest.mark.parametrize(
        "changes", [{"checkpointing": True}, {"dtype": "bfloat16"}, {"dora": True}]
    )
    def test_settings(self, folder: Path, tmp_path: Path, changes: Any) -> None:
        with Embedder(folder) as model:
            trainer = Trainer(folder, model.tokenizer, options_of(epochs=1, **changes))
            trainer.run(PAIRS, tmp_path / "a")
            model.add_adapter("new", tmp_path / "a")
        assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["r"] == 4


def test_mining_leaves_out_what_may_be_right(folder: Path) -> None:
    pairs = [*PAIRS, Pair(PAIRS[0].query, "another answer")]
    with Embedder(folder) as model:
        mined = mine(model, pairs, 3, below=0.95)
        rows = model.encode_document([pair.positive for pair in pairs])
        place = {pair.positive: i for i, pair in enumerate(pairs)}
        for pair in mined:
            own = model.encode(pair.prompted, prompt="")
            limit = 0.95 * float(own @ rows[place[pair.positive]])
            assert all(own @ rows[place[text]] < limit for text in pair.negatives)
            assert len(pair.negatives) <= 3
        assert not {PAIRS[0].positive, "another answer"} & set(mined[0].negatives)


def test_ndcg(folder: Path) -> None:
    with Embedder(folder) as model:
        same = [Pair(text, model.prompts["query"]) for text in ("a",)]
        assert ndcg_at_10(model, same) == 1.0  # one document
