"""LoRA adapters: merged to the bit, swapped without mixing, refused where they'd be ignored."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, ModelFileError, Reranker
from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.loading.files import find_model
from qwen3_embed.loading.hub_options import HubOptions
from qwen3_embed.loading.tensors import TensorFiles, as_floats
from tests.conftest import ModelMaker
from tests.support.engines import open_engine
from tests.support.make_adapter import (
    PREFIX,
    adapter_config,
    make_adapter,
    merge_into_copy,
    random_tensors,
    write_adapter,
)
from tests.support.reference import read_weights, round_bf16
from tests.support.rerankers import make_reranker

TEXTS = ["The capital of China is Beijing.", "", "重力", "x = [i**2 for i in range(9)]", "🦊 " * 30]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(models: ModelMaker) -> Path:
    return models("tiny64")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("a") / "a", base, target_modules=LINEAR)


@pytest.fixture(scope="module")
def other(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("b") / "b", base, seed=2)


def merged_by_numpy(base: Path, adapter: Path) -> dict[str, Any]:
    """Every changed matrix: in float32, rounded once to bf16, as float32."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    given = {
        t.name.removeprefix(PREFIX).removeprefix("model."): t.floats()
        for t in TensorFiles([adapter / "adapter_model.safetensors"])
    }
    merged = {}
    for name, weight in read_weights(base).items():
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in given:
            continue
        a, b = (given[f"{module}.lora_{part}.weight"] for part in "AB")
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        scaling = alpha / (len(a) ** 0.5 if config["use_rslora"] else len(a))
        changed = weight + np.float32(scaling) * (b @ a)
        if config["use_dora"]:
            lengths = np.linalg.norm(changed, axis=1, keepdims=True)
            changed = given[f"{module}.lora_magnitude_vector"][:, None] / lengths * changed
        merged[name] = round_bf16(changed)
    return merged


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all linear": {"target_modules": LINEAR},
    "rslora": {"use_rslora": True, "r": 8},
    "dora": {"use_dora": True, "target_modules": LINEAR},
    "patterns": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 7},
        "alpha_pattern": {"layers.2.self_attn.v_proj": 3},
    },
}


class TestMerging:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("inner", ["", "model."])
    def test_bits(self, base: Path, tmp_path: Path, variant: str, inner: str) -> None:
        made = make_adapter(tmp_path / "a", base, inner=inner, **VARIANTS[variant])
        adapter = Adapter(made, "a", find_model(base, HubOptions()))
        expected = merged_by_numpy(base, made)
        found = adapter.tensors()
        assert sorted(found) == sorted(expected)
        assert len(adapter.merged) == 3 * len(VARIANTS[variant].get("target_modules", "qv"))
        for name, matrix in expected.items():
            assert np.array_equal(as_floats(found[name]), matrix), name
            assert not np.array_equal(read_weights(base)[name], matrix)

    def test_modules_to_save(self, base: Path, tmp_path: Path) -> None:
        whole = ("layers.1.mlp.down_proj", "layers.0.input_layernorm")
        config = adapter_config(modules_to_save=["1.mlp.down_proj", "0.input_layernorm"])
        tensors = random_tensors(base, config)
        weights = read_weights(base)
        source = np.random.default_rng(4)
        for name in (f"{module}.weight" for module in whole):
            changed = weights[name] + source.normal(0, 0.01, weights[name].shape)
            tensors[PREFIX + name] = changed.astype(np.float32)
        made = write_adapter(tmp_path / "a", config, tensors)
        adapter = Adapter(made, "a", find_model(base, HubOptions()))
        assert set(adapter.replaced) == set(whole)
        found = adapter.tensors()
        assert found["layers.0.input_layernorm.weight"].dtype == np.float32
        for name in (f"{module}.weight" for module in whole):
            stored = found[name] if found[name].ndim == 1 else as_floats(found[name])
            assert np.array_equal(stored, round_bf16(tensors[PREFIX + name]))
        check_against_a_merged_folder(base, made, tmp_path / "merged")

    def test_embedding(self, base: Path, tmp_path: Path) -> None:
        config = adapter_config(target_modules=["embed_tokens", "q_proj"])
        tensors = {n: t for n, t in random_tensors(base, config).items() if "q_proj" in n}
        source = np.random.default_rng(5)
        a = source.normal(0, 0.1, (4, 320)).astype(np.float32)
        b = source.normal(0, 0.02, (128, 4)).astype(np.float32)
        tensors |= {f"{PREFIX}embed_tokens.lora_embedding_A": a}
        tensors |= {f"{PREFIX}embed_tokens.lora_embedding_B": b}
        made = write_adapter(tmp_path / "a", config, tensors)
        found = Adapter(made, "a", find_model(base, HubOptions())).tensors()
        expected = read_weights(base)["embed_tokens.weight"] + np.float32(2) * (b @ a).T
        assert np.array_equal(as_floats(found["embed_tokens.weight"]), round_bf16(expected))
        check_against_a_merged_folder(base, made, tmp_path / "merged")

    @pytest.mark.parametrize("shape", ["tiny64", "odd64", "tiny128"])
    def test_vectors_are_those_of_the_merged_model(
        self, models: ModelMaker, tmp_path: Path, shape: str
    ) -> None:
        folder = models(shape)
        made = make_adapter(tmp_path / "a", folder, target_modules=LINEAR)
        check_against_a_merged_folder(folder, made, tmp_path / "merged")


def check_against_a_merged_folder(base: Path, adapter: Path, folder: Path) -> None:
    merge_into_copy(base, adapter, folder)
    with Embedder(base, adapter=adapter) as model, Embedder(folder) as merged:
        assert np.array_equal(model.encode(TEXTS), merged.encode(TEXTS))
        model.set_adapter(None)
        assert not np.array_equal(model.encode(TEXTS), merged.encode(TEXTS))


class TestPeft:
    @pytest.mark.parametrize("variant", [*VARIANTS, "saved"])
    def test_against_peft(self, base: Path, tmp_path: Path, variant: str) -> None:
        """Ours against PEFT unmerged in fp32; the bar is PEFT merged in bf16."""
        peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(3)
        options = {"target_modules": ["q_proj", "v_proj"], "r": 4, **VARIANTS.get(variant, {})}
        if variant == "saved":
            options["modules_to_save"] = ["norm"]

        def wrapped(dtype: Any) -> Any:
            return transformers.AutoModel.from_pretrained(base, dtype=dtype).eval()

        tuned = peft.get_peft_model(wrapped(torch.float32), peft.LoraConfig(**options))
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.01)
                elif "magnitude" in name or "modules_to_save" in name:
                    parameter.mul_(torch.rand_like(parameter) * 0.4 + 0.8)
        tuned.save_pretrained(tmp_path / "a")
        rounded = peft.PeftModel.from_pretrained(wrapped(torch.bfloat16), tmp_path / "a")
        rounded = rounded.merge_and_unload()

        with Embedder(base, adapter=tmp_path / "a") as model:
            found = model.encode(TEXTS)
            batch = model.tokenizer.encode(TEXTS)
            model.set_adapter(None)
            plain = model.encode(TEXTS)
        cu = batch.cu_seqlens
        texts = [torch.tensor(batch.tokens[cu[i] : cu[i + 1]][None]) for i in range(len(TEXTS))]

        def rows(network: Any) -> Any:
            with torch.no_grad():
                last = [network(text).last_hidden_state[0, -1].float() for text in texts]
            return torch.nn.functional.normalize(torch.stack(last)).numpy()

        exact = rows(tuned)
        ours, theirs = (np.sqrt(np.mean((r - exact) ** 2)) for r in (found, rows(rounded)))
        assert ours <= theirs, f"ours {ours:.6f}, PEFT's bf16 {theirs:.6f}"
        assert np.sqrt(np.mean((plain - exact) ** 2)) > 3 * theirs


@pytest.fixture
def model(base: Path, adapter: Path, other: Path) -> Iterator[Embedder]:
    with Embedder(base) as opened:
        opened.add_adapter("a", adapter)
        opened.add_adapter("b", other)
        yield opened


@pytest.fixture(scope="module")
def expected(base: Path, adapter: Path, other: Path) -> dict[str | None, Any]:
    rows: dict[str | None, Any] = {}
    for name, folder in ((None, None), ("a", adapter), ("b", other)):
        with Embedder(base, adapter=folder) as opened:
            rows[name] = opened.encode(TEXTS)
    return rows


class TestSwitching:
    def test_to_and_fro(self, model: Embedder, expected: Any) -> None:
        assert model.adapter is None
        assert list(model.adapters) == ["a", "b"]
        for name in ("a", "b", None, "b", "a", None):
            model.set_adapter(name)
            assert model.adapter == name
            assert np.array_equal(model.encode(TEXTS), expected[name])
            ids = model.tokenizer.encode(TEXTS)
            again = model.encode_tokens(ids.tokens, ids.cu_seqlens)
            assert np.array_equal(again, expected[name])

    def test_the_base_is_not_loaded_again(self, base: Path, adapter: Path) -> None:
        with Embedder(base) as model:
            before = model.info
            model.add_adapter("a", adapter)
            after = model.info
        assert after["mapped_bytes"] == before["mapped_bytes"]
        n_changed = sum(w.size for n, w in read_weights(base).items() if "proj" in n)
        assert after["owned_bytes"] - before["owned_bytes"] == 2 * n_changed

    def test_a_stream_keeps_its_adapter(self, model: Embedder, expected: Any) -> None:
        model.set_adapter("a")
        stream = model.encode_iter(TEXTS, chunk=1)
        model.set_adapter("b")
        rows = [next(stream)]
        model.set_adapter(None)
        assert np.array_equal(np.concatenate([*rows, *stream]), expected["a"])

    def test_threads_never_mix(self, model: Embedder, expected: Any) -> None:
        """Calls of all adapters at once, in one queue, while the one in use changes."""
        batch = model.tokenizer.encode(TEXTS)
        failures: list[str] = []

        def work(name: str | None, number: int) -> None:
            for _ in range(20):
                rows = model._engines.rows(len(TEXTS), model.dim)
                arguments = (batch.tokens, batch.cu_seqlens, rows, 0, True, number)
                model._engines.submit(*arguments).wait()
                if not np.array_equal(rows, expected[name]):
                    failures.append(f"{name}")

        numbers = ((None, 0), ("a", 1), ("b", 2))
        threads = [threading.Thread(target=work, args=pair) for pair in numbers * 2]
        for thread in threads:
            thread.start()
        for name in ("a", "b", None) * 10:
            model.set_adapter(name)
            found = model.encode(TEXTS)
            assert np.array_equal(found, expected[name])
        for thread in threads:
            thread.join()
        assert not failures

    def test_adapters_take_turns(self, base: Path, adapter: Path) -> None:
        """One text with an adapter does not wait for a corpus without it."""
        engine = open_engine(base, batch_tokens=64, num_threads=1)
        found = Adapter(adapter, "a", find_model(base, HubOptions())).tensors()
        number = engine.add_adapter(found)
        assert number == 1
        tokens = np.arange(64 * 200, dtype=np.int32) % 300
        rows = engine.rows(200, 128)
        long = engine.submit(tokens, np.arange(0, 64 * 200 + 1, 64, dtype=np.int32), rows, 0, True)
        one = engine.rows(1, 128)
        cu_seqlens = np.array([0, 64], np.int32)
        short = engine.submit(tokens[:64], cu_seqlens, one, 0, True, number)
        short.wait()
        assert not long.done()
        long.wait()
        assert not np.array_equal(one[0], rows[0])
        with pytest.raises(ValueError, match="adapter: no such number"):
            engine.submit(tokens[:64], cu_seqlens, one, 0, True, 2)
        engine.close()

    @pytest.mark.parametrize(
        ("name", "shape", "dtype", "error", "message"),
        [
            ("layers.9.mlp.up_proj.weight", (192, 128), "u2", ValueError, "is no weight of this"),
            ("model.norm.weight", (128,), "f4", ValueError, "is no weight of this"),
            ("lm_head.weight", (320, 128), "u2", ValueError, "is no weight of this"),
            ("norm.weight", (128,), "u2", ValueError, "expected a vector of float32"),
            ("norm.weight", (127,), "f4", ValueError, "expected a vector of float32"),
            ("embed_tokens.weight", (320, 128), "f4", ValueError, "expected a matrix of bf16"),
            ("embed_tokens.weight", (319, 128), "u2", ValueError, "expected a matrix of bf16"),
            ("embed_tokens.weight", (320, 128), "f8", TypeError, "expected a C-contiguous array"),
            ("embed_tokens.weight", (320, 128, 1), "u2", TypeError, "expected a C-contiguous"),
            ("embed_tokens.weight", (320, 128), ">u2", TypeError, "the machine's byte order"),
        ],
    )
    def test_the_engine_checks_too(
        self, base: Path, name: str, shape: Any, dtype: str, error: Any, message: str
    ) -> None:
        engine = open_engine(base)
        with pytest.raises(error, match=message):
            engine.add_adapter({name: np.zeros(shape, dtype)})
        with pytest.raises(TypeError, match="expected a dict"):
            engine.add_adapter([])  # type: ignore[arg-type]
        assert engine.add_adapter({"norm.weight": np.ones(128, np.float32)}) == 1
        engine.close()

    def test_a_closed_engine_lets_go_of_the_arrays(self, base: Path) -> None:
        engine = open_engine(base)
        weight = np.ones(128, np.float32)
        before = sys.getrefcount(weight)
        engine.add_adapter({"norm.weight": weight})
        engine.close()
        assert sys.getrefcount(weight) == before

    def test_names(self, model: Embedder, adapter: Path) -> None:
        with pytest.raises(
            ValueError, match=r"no adapter 'c' is loaded, expected None or .* 'a', 'b'"
        ):
            model.set_adapter("c")
        with pytest.raises(ValueError, match="an adapter named 'a' is loaded already"):
            model.add_adapter("a", adapter)
        with pytest.raises(TypeError, match="name is int"):
            model.add_adapter(1, adapter)  # type: ignore[arg-type]

    def test_fingerprint(self, model: Embedder, base: Path, adapter: Path) -> None:
        found = {}
        for name in ("a", "b", None):
            model.set_adapter(name)
            found[name] = model.fingerprint
        assert len(set(found.values())) == 3
        with Embedder(base, adapter=adapter) as again, Embedder(base) as plain:
            assert again.fingerprint == found["a"]
            assert plain.fingerprint == found[None]

    def test_pickles(self, model: Embedder, base: Path, adapter: Path, expected: Any) -> None:
        model.set_adapter("b")
        with pickle.loads(pickle.dumps(model)) as again:
            assert list(again.adapters) == ["a", "b"]
            assert again.adapter == "b"
            assert np.array_equal(again.encode(TEXTS), expected["b"])
        with Embedder(base, adapter=adapter) as given, pickle.loads(pickle.dumps(given)) as again:
            assert again.adapter == "default"
            assert np.array_equal(again.encode(TEXTS), expected["a"])

    def test_cache(self, base: Path, adapter: Path, tmp_path: Path, expected: Any) -> None:
        with Embedder(base, adapter=adapter, cache=tmp_path / "vectors.sqlite") as model:
            for name in ("default", None, "default", None):
                model.set_adapter(name)
                wanted = expected["a" if name else None]
                assert np.array_equal(model.encode(TEXTS), wanted)

    def test_closed(self, base: Path, adapter: Path) -> None:
        model = Embedder(base)
        model.close()
        with pytest.raises(ValueError, match="closed"):
            model.add_adapter("a", adapter)


class TestReranker:
    def test_adapter(self, tmp_path: Path) -> None:
        base = make_reranker(tmp_path / "m")
        pairs = [("How far?", text) for text in TEXTS]
        config = adapter_config(modules_to_save=["lm_head"])
        tensors = random_tensors(base, config, "model.")
        plain = write_adapter(tmp_path / "plain", config | {"modules_to_save": None}, tensors)
        table = read_weights(base)["embed_tokens.weight"]
        tensors |= {f"{PREFIX}lm_head.weight": -table}
        headed = write_adapter(tmp_path / "headed", config, tensors)
        with Reranker(base) as ranker:
            first = ranker.predict(pairs, activation=None)
            ranker.add_adapter("plain", plain)
            ranker.add_adapter("headed", headed)
            ranker.set_adapter("plain")
            second = ranker.predict(pairs, activation=None)
            ranker.set_adapter("headed")
            third = ranker.predict(pairs, activation=None)
            ranker.set_adapter(None)
            assert np.array_equal(ranker.predict(pairs, activation=None), first)
        assert not np.array_equal(first, second)
        assert np.array_equal(third, -second)

    def test_tied_embedding(self, tmp_path: Path) -> None:
        base = make_reranker(tmp_path / "m")
        table = read_weights(base)["embed_tokens.weight"]
        config = adapter_config(modules_to_save=["embed_tokens"])
        tensors = random_tensors(base, config) | {f"{PREFIX}model.embed_tokens.weight": table}
        made = write_adapter(tmp_path / "a", config, tensors)
        with pytest.raises(
            ModelFileError, match="changes embed_tokens, with which the head is tied"
        ):
            Reranker(base, adapter=made)
