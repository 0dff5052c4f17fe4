"""`merge`: an adapter into its base, and SLERP of models, written as folders that load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, ModelFileError, Reranker
from qwen3_embed.adapters.merging import interpolate_models, merge_adapter
from qwen3_embed.cli import main
from tests.conftest import ModelMaker
from tests.support.make_adapter import (
    PREFIX,
    adapter_config,
    make_adapter,
    random_tensors,
    write_adapter,
)
from tests.support.make_model import make_model, write_json
from tests.support.reference import read_weights, round_bf16
from tests.support.rerankers import make_reranker

TEXTS = ["The capital of China is Beijing.", "", "重力", "🦊 " * 30]


@pytest.fixture(scope="module")
def first(models: ModelMaker) -> Path:
    return models("tiny64")


@pytest.fixture(scope="module")
def second(models: ModelMaker) -> Path:
    return models("tiny64", seed=1)


def slerp(a: Any, b: Any, t: float) -> Any:
    """The textbook's formula in float32, with float64 for the angle."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    if abs(cosine) > 0.9995:
        return a + np.float32(t) * (b - a)
    angle = np.arccos(cosine)
    parts = (np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle))
    return np.float32(parts[0]) * a + np.float32(parts[1]) * b


class TestAdapter:
    @pytest.mark.parametrize("options", [{}, {"shards": 3}, {"dtype": "f32"}, {"dtype": "f16"}])
    def test_loads_as_the_base_with_it(
        self, models: ModelMaker, tmp_path: Path, options: Any
    ) -> None:
        base = models("tiny64", **options)
        made = make_adapter(tmp_path / "a", base, target_modules=["q_proj", "down_proj"])
        adapter = merge_adapter(base, made, tmp_path / "m")
        assert len(adapter.merged) == 6
        with Embedder(tmp_path / "m") as merged, Embedder(base, adapter=made) as beside:
            if options.get("dtype") != "f16":  # which rounds to f16 first
                assert np.array_equal(merged.encode(TEXTS), beside.encode(TEXTS))
            assert merged.prompts == beside.prompts
        names = {path.name for path in base.iterdir()}
        assert {path.name for path in (tmp_path / "m").iterdir()} == names

    def test_loads_elsewhere(self, first: Path, tmp_path: Path) -> None:
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        made = make_adapter(tmp_path / "a", first)
        merge_adapter(first, made, tmp_path / "m")
        network = transformers.AutoModel.from_pretrained(tmp_path / "m", dtype=torch.float32)
        with Embedder(tmp_path / "m") as model:
            ids = model.tokenizer.encode(TEXTS[:1]).tokens
            with torch.no_grad():
                row = network(torch.tensor(ids[None])).last_hidden_state[0, -1].numpy()
            assert model.encode(TEXTS[0]) @ row / np.linalg.norm(row) > 0.999

    def test_reranker(self, tmp_path: Path) -> None:
        base = make_reranker(tmp_path / "m")
        made = make_adapter(tmp_path / "a", base, inner="model.")
        merge_adapter(base, made, tmp_path / "out")
        pairs = [("q", text) for text in TEXTS]
        with Reranker(tmp_path / "out") as merged, Reranker(base, adapter=made) as beside:
            assert np.array_equal(merged.predict(pairs), beside.predict(pairs))

    @pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
    def test_tied_tables(self, tmp_path: Path, module: str) -> None:
        base = make_reranker(tmp_path / "m")
        config = adapter_config(modules_to_save=[module])
        tensors = random_tensors(base, config)
        tensors[f"{PREFIX}model.{module}.weight"] = np.zeros((151669, 128), np.float32)
        made = write_adapter(tmp_path / "a", config, tensors)
        with pytest.raises(ModelFileError, match="one of embed_tokens and lm_head"):
            merge_adapter(base, made, tmp_path / "out")

    def test_an_adapter_in_the_models_own_folder(self, first: Path, tmp_path: Path) -> None:
        base = Path(shutil.copytree(first, tmp_path / "base"))
        other = make_adapter(tmp_path / "other", base, seed=2)
        make_adapter(base, base)
        merge_adapter(base, base, tmp_path / "out")
        assert not (tmp_path / "out" / "adapter_config.json").exists()
        with Embedder(tmp_path / "out") as merged, Embedder(base) as beside:
            assert merged.adapter is None
            assert beside.adapter == "default"
            assert np.array_equal(merged.encode(TEXTS), beside.encode(TEXTS))
        with pytest.raises(ModelFileError, match="has an adapter of its own: merge that one first"):
            merge_adapter(base, other, tmp_path / "none")
        with pytest.raises(ModelFileError, match="has an adapter of its own: merge it first"):
            interpolate_models([base, first], tmp_path / "none")
        alone = make_adapter(tmp_path / "alone", first, base_model_name_or_path=str(first))
        with pytest.raises(ModelFileError, match="is an adapter without weights of its own"):
            merge_adapter(alone, alone, tmp_path / "none")

    def test_a_transformer_in_a_folder(self, first: Path, tmp_path: Path) -> None:
        base = Path(shutil.copytree(first, tmp_path / "base"))
        inner = base / "0_Transformer"
        inner.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (base / name).rename(inner / name)
        modules = json.loads((base / "modules.json").read_text())
        modules[0]["path"] = inner.name
        (base / "modules.json").write_text(json.dumps(modules))
        made = make_adapter(tmp_path / "a", first)
        merge_adapter(base, made, tmp_path / "out")
        with Embedder(tmp_path / "out") as merged, Embedder(first, adapter=made) as beside:
            assert np.array_equal(merged.encode(TEXTS), beside.encode(TEXTS))


class TestSlerp:
    @pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
    @pytest.mark.parametrize("n", [2, 3])
    def test_identical_models(self, models: ModelMaker, tmp_path: Path, dtype: str, n: int) -> None:
        folder = models("tiny64", dtype=dtype)
        interpolate_models([folder] * n, tmp_path / "m")
        found, expected = read_weights(tmp_path / "m"), read_weights(folder)
        for tensor, values in expected.items():
            assert np.array_equal(found[tensor].view(np.uint32), values.view(np.uint32)), tensor

    @pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
    def test_against_numpy(
        self, first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, t: float
    ) -> None:
        monkeypatch.setattr("qwen3_embed.adapters.merging._BLOCK", 1000)
        interpolate_models([first, second], tmp_path / "m", [t])
        a, b, found = (read_weights(folder) for folder in (first, second, tmp_path / "m"))
        for name in a:
            assert np.array_equal(found[name], round_bf16(slerp(a[name], b[name], t))), name
        ends = {0.0: first, 1.0: second}
        if t in ends:
            with Embedder(tmp_path / "m") as model, Embedder(ends[t]) as end:
                assert np.array_equal(model.encode(TEXTS), end.encode(TEXTS))

    def test_nearly_parallel(self, first: Path, tmp_path: Path) -> None:
        made = make_adapter(tmp_path / "a", first, lora_alpha=1)
        merge_adapter(first, made, tmp_path / "near")
        interpolate_models([first, tmp_path / "near"], tmp_path / "m", [0.5])
        a, b, found = (read_weights(f) for f in (first, tmp_path / "near", tmp_path / "m"))
        for name in a:
            assert np.array_equal(found[name], round_bf16(slerp(a[name], b[name], 0.5))), name

    def test_three(self, models: ModelMaker, first: Path, second: Path, tmp_path: Path) -> None:
        third = models("tiny64", seed=2)
        interpolate_models([first, second, third], tmp_path / "m", [0.5, 0.2])
        a, b, c, found = (read_weights(f) for f in (first, second, third, tmp_path / "m"))
        for name in a:
            expected = slerp(slerp(a[name], b[name], 0.5), c[name], 0.2)
            # The angle to the third is that of the exact sum, not of its float32 rounding: the
            # shares differ by their last bit, and one in a few thousand results by one of bf16.
            close = np.abs(found[name] - expected) <= 2.0**-8 * np.abs(expected)
            assert close.all(), name
            assert np.mean(found[name] == round_bf16(expected)) > 0.99, name

    def test_prefixes_may_differ(self, models: ModelMaker, second: Path, tmp_path: Path) -> None:
        prefixed = models("tiny64", prefix="model.", shards=2)
        interpolate_models([prefixed, second], tmp_path / "m", [0.0])
        with Embedder(tmp_path / "m") as model, Embedder(prefixed) as end:
            assert np.array_equal(model.encode(TEXTS), end.encode(TEXTS))

    def test_refusals(self, models: ModelMaker, first: Path, second: Path, tmp_path: Path) -> None:
        out = tmp_path / "m"
        with pytest.raises(ModelFileError, match="expected models of one shape"):
            interpolate_models([first, models("tiny64", intermediate_size=160)], out)
        with pytest.raises(ModelFileError, match=r"has layers\.3\..*, expected the same tensors"):
            interpolate_models([first, models("tiny64", num_hidden_layers=4)], out)
        with pytest.raises(ModelFileError, match=r"differ in rms_norm_eps of config\.json"):
            interpolate_models([first, models("tiny64", rms_norm_eps=1e-5)], out)
        other = shutil.copytree(first, tmp_path / "other")
        content = json.loads((other / "tokenizer.json").read_text())
        content["model"]["vocab"]["<unused0>"] = content["model"]["vocab"].pop("th", 255)
        write_json(other / "tokenizer.json", content)
        with pytest.raises(ModelFileError, match="different vocabularies"):
            interpolate_models([first, other], out)
        with pytest.raises(ValueError, match="expected two or more"):
            interpolate_models([first], out)
        for t in ([0.5, 0.5], [], [1.5], [-0.1], [float("nan")]):
            with pytest.raises(ValueError, match=r"t=\[.*\], expected 1 number"):
                interpolate_models([first, second], out, t)
        assert not out.exists()
        out.mkdir()
        (out / "mine.txt").write_text("x")
        with pytest.raises(FileExistsError, match="is not empty"):
            interpolate_models([first, second], out)
        assert [path.name for path in out.iterdir()] == ["mine.txt"]


class TestCommand:
    def test_adapter(self, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made = make_adapter(tmp_path / "a", first)
        arguments = ["merge", "--base", str(first), "--adapter", str(made), "-o"]
        assert main([*arguments, str(tmp_path / "m")]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'm'}: 6 modules merged, 0 replaced\n"

    def test_slerp(self, first: Path, second: Path, tmp_path: Path) -> None:
        arguments = ["merge", "--slerp", str(first), str(second), "-t", "0.3", "-o"]
        assert main([*arguments, str(tmp_path / "m")]) == 0
        with Embedder(tmp_path / "m") as model:
            assert model.encode(TEXTS).shape == (4, 128)

    def test_wrong_lines(
        self, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = ["-o", str(tmp_path / "m")]
        for arguments, words in (
            (["--base", str(first)], "--base goes with --adapter"),
            (["--slerp", str(first), str(first), "--adapter", "x"], "--adapter goes with --base"),
            ([], "required"),
        ):
            with pytest.raises(SystemExit, match="2"):
                main(["merge", *arguments, *out])
            assert words in capsys.readouterr().err


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A table of 151669 x 512 in float32 takes 310 MB; blocks of it take far less."""
    options = {"vocab_size": 151669, "hidden_size": 512, "num_hidden_layers": 1}
    for seed in (0, 1):
        make_model(tmp_path / str(seed), "tiny64", seed=seed, **options)
    code = (
        "import resource, sys, qwen3_embed.adapters.merging as m, pathlib\n"
        "m._BLOCK = 1 << 20\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "m.interpolate_models(sys.argv[1:3], pathlib.Path(sys.argv[3]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    folders = [str(tmp_path / name) for name in ("0", "1", "out")]
    run = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True
    )
    # About ten float32 or float64 arrays of a block, and two parsed tokenizers.
    assert int(run.stdout) < 150_000, f"{run.stdout} KiB"
