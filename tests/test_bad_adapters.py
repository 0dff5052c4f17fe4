"""LoRA adapters that must not load: each has an error that names what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, ModelFileError, ModelNotFoundError
from tests.conftest import ModelMaker
from tests.support.make_adapter import (
    PREFIX,
    adapter_config,
    make_adapter,
    random_tensors,
    write_adapter,
)


@pytest.fixture(scope="module")
def base(models: ModelMaker) -> Path:
    return models("tiny64")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("a") / "a", base)


def config_of(**changes: Any) -> Any:
    return lambda config, tensors: config.update(changes)


def drop(part: str) -> Any:
    """Without the tensors whose names hold `part`."""

    def change(config: Any, tensors: Any) -> None:
        for name in [n for n in tensors if part in n]:
            del tensors[name]

    return change


def add(name: str, shape: tuple[int, ...] = (4, 128)) -> Any:
    return lambda config, tensors: tensors.update({name: np.zeros(shape, np.float32)})


def poison(part: str, value: float) -> Any:
    def change(config: Any, tensors: Any) -> None:
        name = next(n for n in tensors if part in n)
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[5] = value

    return change


def reshape(part: str, rows: int, columns: int) -> Any:
    def change(config: Any, tensors: Any) -> None:
        for name in [n for n in tensors if part in n]:
            tensors[name] = np.zeros((rows, columns), np.float32)

    return change


Q = f"{PREFIX}layers.0.self_attn.q_proj"
MALFORMED: dict[str, tuple[Any, str]] = {
    "another method": (config_of(peft_type="IA3"), r"peft_type is \"IA3\", expected \"LORA\""),
    "no method": (config_of(peft_type=None), "peft_type is null, expected"),
    "rank 0": (config_of(r=0), "r is 0, expected a rank of at least 1"),
    "rank true": (config_of(r=True), "r is true, expected"),
    "rank text": (config_of(r="4"), 'r is "4", expected'),
    "alpha 0": (config_of(lora_alpha=0), "lora_alpha is 0, expected"),
    "alpha text": (config_of(lora_alpha="x"), 'lora_alpha is "x", expected'),
    "biases": (config_of(bias="all"), 'bias is "all", expected "none"'),
    "bias of B": (config_of(lora_bias=True), "lora_bias is true, expected null or false"),
    "transposed": (config_of(fan_in_fan_out=True), "fan_in_fan_out is true, expected false"),
    "replicated": (config_of(layer_replication=[[0, 2]]), "layer_replication is .*, expected null"),
    "parameters": (config_of(target_parameters=["x"]), "target_parameters is .*, expected null"),
    "token rows": (config_of(trainable_token_indices=[1]), "trainable_token_indices is"),
    "activated": (config_of(alora_invocation_tokens=[1]), "alora_invocation_tokens is"),
    "quantised": (config_of(use_qalora=True), "use_qalora is true, expected"),
    "block diagonal": (config_of(use_bdlora={"x": 1}), "use_bdlora is"),
    "of the future": (config_of(use_newlora=True), "use_newlora is true, expected null or false"),
    "dora text": (config_of(use_dora="yes"), 'use_dora is "yes", expected true or false'),
    "patterns a list": (config_of(rank_pattern=[1]), "rank_pattern is .*, expected an object"),
    "pattern rank 0": (
        config_of(rank_pattern={"q_proj": 0}),
        "rank_pattern is .*, expected numbers",
    ),
    "pattern broken": (config_of(alpha_pattern={"(": 1}), "alpha_pattern is .*, expected regular"),
    "pattern for ever": (
        config_of(alpha_pattern={"(a+)+": 1}),
        "alpha_pattern is .*, expected simple",
    ),
    "targets a number": (config_of(target_modules=3), "target_modules is 3, expected a list"),
    "targets unknown": (
        config_of(target_modules=["q_proj", "v_proj", "qkv"]),
        "target_modules names 'qkv', and the file has no tensors for it",
    ),
    "a target without tensors": (drop("v_proj"), "target_modules names 'v_proj', and the file"),
    "a layer without tensors": (
        drop("layers.1.self_attn.q_proj"),
        r"no tensors for layers\.1\.self_attn\.q_proj \(1 modules missing, 0 too many",
    ),
    "more than the targets": (
        config_of(target_modules=["v_proj"]),
        r"tensors for layers\.0\.self_attn\.q_proj \(0 modules missing, 3 too many",
    ),
    "no B": (
        drop("layers.0.self_attn.q_proj.lora_B"),
        r"layers\.0\.self_attn\.q_proj has no lora_B",
    ),
    "no A": (
        drop("layers.2.self_attn.v_proj.lora_A"),
        r"layers\.2\.self_attn\.v_proj has no lora_A",
    ),
    "nothing": (drop(""), "holds no tensors: it would have no effect"),
    "an extra tensor": (add(f"{Q}.extra"), "is an unknown tensor"),
    "an extra module": (
        add(f"{PREFIX}layers.9.self_attn.q_proj.lora_A.weight"),
        "is an unknown tensor of a module that the base doesn't have",
    ),
    "a module of another family": (
        add(f"{PREFIX}encoder.layer.0.query.lora_A.weight"),
        "of a module that the base doesn't have",
    ),
    "not PEFT's names": (add("layers.0.self_attn.q_proj.lora_A"), "expected names that begin with"),
    "traversal in a name": (
        add(f"{PREFIX}../../layers.0.self_attn.q_proj.lora_A.weight"),
        "is an unknown tensor of a module",
    ),
    "a bias tensor": (add(f"{Q}.lora_B.bias", (256,)), "is a bias"),
    "saved whole, not said": (add(f"{PREFIX}norm.weight", (128,)), "modules_to_save is"),
    "saved whole, another shape": (
        lambda c, t: (
            c.update(modules_to_save=["0.mlp.up_proj"]),
            add(f"{PREFIX}layers.0.mlp.up_proj.weight", (64, 128))(c, t),
        ),
        r"shape \(64, 128\), expected \(192, 128\): the adapter is for another base",
    ),
    "to be saved, not there": (
        config_of(modules_to_save=["up_proj"]),
        r"modules_to_save names 'up_proj', .* no tensor for layers\.0\.mlp\.up_proj",
    ),
    "to be saved, unknown": (config_of(modules_to_save=["pooler"]), "no tensor for it"),
    "low-rank and whole": (
        lambda c, t: (
            c.update(modules_to_save=["0.self_attn.q_proj"]),
            add(f"{Q}.weight", (256, 128))(c, t),
        ),
        "is both low-rank and saved whole",
    ),
    "twice": (
        add(f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"),
        "occurs twice, with and without a prefix",
    ),
    "wrong base": (reshape("q_proj.lora_A", 4, 1024), "for another base"),
    "wrong base, output": (reshape("v_proj.lora_B", 1024, 4), "for another base"),
    "another rank": (config_of(r=8), "expected the rank 8 of adapter_config.json"),
    "magnitudes, not said": (
        add(f"{Q}.lora_magnitude_vector", (256,)),
        "has lora_magnitude, unlike use_dora=False",
    ),
    "dora without magnitudes": (config_of(use_dora=True), "has no lora_magnitude"),
    "NaN in A": (poison("lora_A", np.nan), "lora_A.weight holds NaN or infinity"),
    "infinity in B": (poison("lora_B", np.inf), "lora_B.weight holds NaN or infinity"),
    "overflow": (poison("lora_B", 3e38), "with its change holds NaN or infinity"),
}


class TestMalformed:
    def test_the_corpus_is_large_enough(self) -> None:
        assert len(MALFORMED) + 7 >= 30  # and what follows

    @pytest.mark.parametrize("case", MALFORMED)
    @pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
    def test_named_error(self, base: Path, tmp_path: Path, case: str) -> None:
        change, message = MALFORMED[case]
        config = adapter_config(base_model_name_or_path="Qwen/Qwen3-Embedding-0.6B")
        tensors = random_tensors(base, config)
        with Embedder(base, adapter=write_adapter(tmp_path / "good", config, tensors)):
            pass
        change(config, tensors)
        made = write_adapter(tmp_path / "bad", config, tensors)
        with pytest.raises(ModelFileError, match=message):
            Embedder(base, adapter=made)

    def test_pickle(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        made = shutil.copytree(adapter, tmp_path / "a")
        (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
        with pytest.raises(ModelFileError, match=r"adapter_model\.bin is pickled"):
            Embedder(base, adapter=made)

    def test_missing_files(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        made = shutil.copytree(adapter, tmp_path / "outer" / "inner")
        with pytest.raises(ModelNotFoundError, match=r"missing in .*; perhaps 'inner' in it"):
            Embedder(base, adapter=made.parent)
        (made / "adapter_model.safetensors").unlink()
        with pytest.raises(ModelNotFoundError, match=r"adapter_model\.safetensors is missing"):
            Embedder(base, adapter=made)
        for name in (tmp_path / "none", "../none", "a/b/c", ""):
            with pytest.raises(
                (ModelNotFoundError, ModelFileError), match=r"no adapter folder|is missing"
            ):
                Embedder(base, adapter=name)

    def test_damaged_files(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        made = shutil.copytree(adapter, tmp_path / "a")
        weights = (made / "adapter_model.safetensors").read_bytes()
        for damaged in (weights[:-1], weights[:100], b"", b"\x80\x04" + weights):
            (made / "adapter_model.safetensors").write_bytes(damaged)
            with pytest.raises(ModelFileError):
                Embedder(base, adapter=made)
        (made / "adapter_config.json").write_text("[]")
        with pytest.raises(ModelFileError, match="holds a list, expected an object"):
            Embedder(base, adapter=made)

    def test_integers(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        made = shutil.copytree(adapter, tmp_path / "a")
        path = made / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
        with pytest.raises(ModelFileError, match="dtype I32, expected BF16, F16 or F32"):
            Embedder(base, adapter=made)

    def test_another_official_base(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        """Qwen3-Embedding-0.6B and Qwen3-Reranker-0.6B have the same shapes."""
        named = shutil.copytree(base, tmp_path / "Qwen3-Embedding-0.6B")
        config = adapter_config(base_model_name_or_path="Qwen/Qwen3-Reranker-0.6B")
        made = write_adapter(tmp_path / "a", config, random_tensors(base, config))
        with pytest.raises(ModelFileError, match=r"is 'Qwen/Qwen3-Reranker-0\.6B', but the model"):
            Embedder(named, adapter=made)

    def test_a_head_for_an_embedder(self, base: Path, tmp_path: Path) -> None:
        config = adapter_config(modules_to_save=["lm_head"])
        tensors = random_tensors(base, config)
        tensors |= {f"{PREFIX}lm_head.weight": np.zeros((320, 128), np.float32)}
        made = write_adapter(tmp_path / "a", config, tensors)
        with pytest.raises(ModelFileError, match=r"changes lm_head\.weight, which an embedding"):
            Embedder(base, adapter=made)

    def test_initialised_over_the_base(self, base: Path, tmp_path: Path) -> None:
        made = make_adapter(tmp_path / "a", base, init_lora_weights="pissa")
        with pytest.warns(
            UserWarning, match="init_lora_weights is 'pissa', which changes the base"
        ):
            Embedder(base, adapter=made).close()
