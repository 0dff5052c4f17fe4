"""Folders with int8 weights: those that `quantize` writes, and those of other tools.

tests/data/llm-compressor holds a model that llm-compressor wrote; make.py there says how. The
oracle is `Int8Reference` over the stored integers and scales.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, Embedder, ModelFileError, _core
from qwen3_embed.adapters.merging import interpolate_models, merge_adapter
from qwen3_embed.adapters.quantizing import quantize_model
from qwen3_embed.cli import main
from qwen3_embed.loading.equalisation import EQUALISATION, Equalisation
from qwen3_embed.loading.schemes import INT8_CONFIG
from qwen3_embed.loading.tensors import TensorFiles, as_bf16, write_tensors
from tests.conftest import TEXTS, ModelMaker
from tests.support.engines import cpu_only, embed, open_engine, random_texts, relative_errors, rms
from tests.support.make_adapter import make_adapter
from tests.support.make_model import byte_tokenizer, write_json
from tests.support.reference import Reference
from tests.support.reference_int8 import Int8Reference
from tests.support.uneven import cosine_loss, make_uneven

pytestmark = cpu_only

OTHERS = Path(__file__).parent / "data" / "llm-compressor"
LENGTHS = [1, 5, 17, 64, 90]


@pytest.fixture(scope="module")
def int8_folder(models: ModelMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "tiny64"
    quantize_model(models("tiny64"), folder)
    return folder


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_uneven(tmp_path_factory.mktemp("uneven"))


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A copy of the fixture, with a tokenizer."""
    folder = tmp_path / "others"
    shutil.copytree(OTHERS, folder)
    write_json(folder / "tokenizer.json", byte_tokenizer(320))
    return folder


def rewrite(folder: Path, change: Callable[[str, str, Any], tuple[str, str, Any] | None]) -> None:
    """Writes model.safetensors anew; change(name, dtype, array) returns what is stored."""
    path = folder / "model.safetensors"
    tensors = [
        (t.name, t.dtype, t.int8() if t.dtype == "I8" else t.stored()) for t in TensorFiles([path])
    ]
    kept = [new for tensor in tensors if (new := change(*tensor)) is not None]
    layout = {name: (dtype, array.shape) for name, dtype, array in kept}
    write_tensors(path, layout, [np.ascontiguousarray(array) for _, _, array in kept])


# ---- what quantize writes ----


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"shape": "odd64"},
        {"shape": "tiny128", "dtype": "f32"},
        {"dtype": "f16", "prefix": "model."},
        {"shards": 3, "lm_head": True, "prefix": "model."},
    ],
)
def test_the_folder_has_the_bits_of_the_dtype(
    models: ModelMaker, tmp_path: Path, layout: dict[str, Any]
) -> None:
    folder = models(**layout)
    quantize_model(folder, tmp_path / "int8", num_threads=3)
    with (
        Embedder(folder, device="cpu", dtype="int8") as opened,
        Embedder(tmp_path / "int8") as stored,
    ):
        assert stored.dtype == "int8"
        assert stored.info["owned_bytes"] < opened.info["owned_bytes"] / 2
        texts = random_texts(LENGTHS)
        tokens, ends = np.concatenate(texts), np.cumsum([0, *map(len, texts)], dtype=np.int32)
        rows = [model.submit_tokens(tokens, ends) for model in (opened, stored)]
        for _, job in rows:
            job.wait()
        np.testing.assert_array_equal(rows[0][0], rows[1][0])


def test_outliers_are_equalised_in_the_folder(uneven: Path, tmp_path: Path) -> None:
    quantize_model(uneven, tmp_path / "int8")
    with Embedder(uneven, device="cpu", dtype="int8") as opened:
        expected = opened.encode(TEXTS)
    with Embedder(tmp_path / "int8") as stored:
        np.testing.assert_array_equal(stored.encode(TEXTS), expected)


def test_the_format_is_that_of_compressed_tensors(int8_folder: Path) -> None:
    config = json.loads((int8_folder / "config.json").read_text())
    written, theirs = config["quantization_config"], json.loads(
        (OTHERS / "config.json").read_text()
    )["quantization_config"]  # fmt: skip
    for key in ("quant_method", "format", "quantization_status", "ignore", "kv_cache_scheme"):
        assert written[key] == theirs[key]
    ours, group = (c["config_groups"]["group_0"] for c in (written, theirs))
    assert {key: group[key] for key in ours if key not in ("weights", "input_activations")} == {
        key: ours[key] for key in ours if key not in ("weights", "input_activations")
    }
    for part in ("weights", "input_activations"):
        assert {key: group[part][key] for key in ours[part]} == ours[part]
    tensors = {t.name: t for t in TensorFiles([int8_folder / "model.safetensors"])}
    names = {t.name for t in TensorFiles([OTHERS / "model.safetensors"])}
    assert {n.removeprefix("model.") for n in names} == {
        n for n in tensors if not n.startswith(("layers.1", "layers.2"))
    }
    for name, tensor in tensors.items():
        if name.endswith("_scale"):
            matrix = tensors[name.removesuffix("_scale")]
            assert (tensor.dtype, tensor.shape) == ("F32", (matrix.shape[0], 1))
            assert matrix.dtype == "I8"
            assert np.abs(matrix.int8().astype(int)).max() == 127
        elif "proj" not in name:
            assert tensor.dtype == "BF16"
    index = json.loads((int8_folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)


def test_a_folder_of_several_files(
    models: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen3_embed.adapters import quantizing

    monkeypatch.setattr(quantizing, "_MAX_SHARD_BYTES", 300_000)
    folder = models("tiny64")
    quantize_model(folder, tmp_path / "int8")
    assert len(list((tmp_path / "int8").glob("model-0000?-of-00003.safetensors"))) == 3
    with Embedder(folder, dtype="int8") as opened, Embedder(tmp_path / "int8") as stored:
        np.testing.assert_array_equal(stored.encode(TEXTS), opened.encode(TEXTS))


def test_memory_is_that_of_a_layer(models: ModelMaker, tmp_path: Path) -> None:
    """Of Python's allocations, which NumPy's are; mapped pages are the system's."""
    import tracemalloc

    folder = models("small")  # six layers of 0.79 M weights
    tracemalloc.start()
    quantize_model(folder, tmp_path / "int8")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5e6, peak


def test_compressed_tensors_opens_it(int8_folder: Path) -> None:
    """Transformers with compressed-tensors gives the same vectors, within the scheme's loss."""
    pytest.importorskip("compressed_tensors")
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(int8_folder, dtype=torch.float32)
    texts = random_texts([17, 40, 64])
    with torch.no_grad():
        theirs = [
            model(torch.tensor(text[None])).last_hidden_state[0, -1].float().numpy()
            for text in texts
        ]
    ours = embed(open_engine_of(int8_folder), texts, 128)
    assert cosine_loss(ours, theirs).max() < 0.02


def open_engine_of(folder: Path, isa: str | None = None, **options: Any) -> _core.Engine:
    """Without the file of scales, which is no weight file."""
    engine_folder = folder.parent / f"{folder.name}-engine"
    if not engine_folder.exists():
        engine_folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (engine_folder / name).symlink_to(folder / name)
    return open_engine(engine_folder, isa, dtype="int8", **options)


# ---- other tools' folders ----


@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_llm_compressors_weights(others: Path, isa: str) -> None:
    """-128 occurs in them. Tolerances as in test_int8.py."""
    stored = {t.name: t for t in TensorFiles([others / "model.safetensors"])}
    assert min(t.int8().min() for t in stored.values() if t.dtype == "I8") == -128
    reference = Int8Reference(others)
    texts = random_texts(LENGTHS)
    expected = [reference.raw_row(text) for text in texts]
    rows = embed(open_engine_of(others, isa), texts, 64, normalize=False)
    dequantised = Reference(others)
    dequantised.weights |= {
        name: values * scales[:, None] for name, (values, scales) in reference.matrices.items()
    }
    noise = rms(relative_errors(expected, [dequantised.raw_row(text) for text in texts]))
    errors = relative_errors(rows, expected)
    assert rms(errors) < 1.5 * noise, (errors, noise)
    assert np.median(errors) < 0.05 * noise, (errors, noise)


def test_weights_are_used_where_they_lie(others: Path) -> None:
    with Embedder(others, device="cpu") as model:
        assert model.dtype == "int8"
        # The vectors, the scales and, per 128 weights, one sum.
        assert model.info["owned_bytes"] < 12_000
        assert np.isfinite(model.encode(TEXTS)).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_scales_of_each_dtype(int8_folder: Path, tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(int8_folder, folder)
    scale = np.float32(2.0**-7)  # exact in all of them

    def change(name: str, stored: str, array: Any) -> tuple[str, str, Any]:
        if not name.endswith("_scale"):
            return name, stored, array
        values = np.full(array.shape, scale)
        return name, dtype, as_bf16(values) if dtype == "BF16" else values.astype(
            {"F16": np.float16, "F32": np.float32}[dtype]
        )  # fmt: skip

    rewrite(folder, change)
    texts = random_texts([20])
    row = embed(open_engine_of(folder), texts, 128)
    expected = Int8Reference(folder).embed(texts[0])
    assert cosine_loss(row, [expected]).max() < 1e-3


def w4a16(config: dict[str, Any]) -> None:
    config["format"] = "pack-quantized"


def changed(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = to

    return change


GROUP = ("config_groups", "group_0")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (w4a16, 'format is "pack-quantized"'),
        (changed("format", to="float-quantized"), 'format is "float-quantized"'),
        (changed("quant_method", to="gptq"), 'quant_method is "gptq"'),
        (changed("quant_method", to="bitsandbytes"), 'quant_method is "bitsandbytes"'),
        (changed("kv_cache_scheme", to={"num_bits": 8}), "kv_cache_scheme"),
        (changed("sparsity_config", to={"format": "sparse-24-bitmask"}), "sparsity_config"),
        (changed("transform_config", to={"config_groups": {"R1": {}}}), "transform_config"),
        (changed("quantization_status", to="calibration"), "quantization_status"),
        (changed("ignore", to=["lm_head", "model.layers.0.mlp.down_proj"]), "ignore"),
        (changed("config_groups", to={"a": {}, "b": {}}), "config_groups"),
        (changed(*GROUP, "weights", "num_bits", to=4), "weights: num_bits is 4"),
        (changed(*GROUP, "weights", "type", to="float"), 'type is "float"'),
        (changed(*GROUP, "weights", "strategy", to="tensor"), 'strategy is "tensor"'),
        (changed(*GROUP, "weights", "strategy", to="group"), 'strategy is "group"'),
        (changed(*GROUP, "weights", "group_size", to=128), "group_size is 128"),
        (changed(*GROUP, "weights", "symmetric", to=False), "symmetric is false"),
        (changed(*GROUP, "weights", "actorder", to="weight"), "actorder"),
        (changed(*GROUP, "weights", to=None), "weights is null"),
        (changed(*GROUP, "input_activations", to=None), "input_activations is null"),
        (changed(*GROUP, "input_activations", "dynamic", to=False), "dynamic is false"),
        (changed(*GROUP, "input_activations", "strategy", to="tensor"), 'strategy is "tensor"'),
        (changed(*GROUP, "output_activations", to={"num_bits": 8}), "output_activations"),
        (changed(*GROUP, "targets", to=["Linear", "Embedding"]), "targets"),
        (changed("load_in_4bit", to=True), "load_in_4bit is true"),
    ],
)
def test_other_schemes_are_refused_by_name(
    others: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    content = json.loads((others / "config.json").read_text())
    change(content["quantization_config"])
    write_json(others / "config.json", content)
    with pytest.raises(ModelFileError, match="quantization_config") as caught:
        Embedder(others)
    assert named in str(caught.value)


def test_older_spellings_are_accepted(others: Path) -> None:
    content = json.loads((others / "config.json").read_text())
    config = content["quantization_config"]
    config |= {"quantization_status": "frozen", "sparsity_config": {"format": "dense"}}
    del config["config_groups"]["group_0"]["format"], config["kv_cache_scheme"]
    write_json(others / "config.json", content)
    Embedder(others).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, d, a: None if n.endswith("down_proj.weight_scale") else (n, d, a), "missing"),
        (lambda n, d, a: (n, d, a[:, :0]) if "q_proj.weight_scale" in n else (n, d, a), "shape"),
        (
            lambda n, d, a: (n, "BF16", a.astype("<u2")) if n.endswith("q_proj.weight") else
            (n, d, a),
            "all in I8",
        ),
        (
            lambda n, d, a: (n, "I8", a.view("i1")[: a.size]) if "input_layernorm" in n else
            (n, d, a),
            "dtype I8, expected BF16",
        ),
        (lambda n, d, a: (n, "I8", a.astype("i1")) if "scale" in n else (n, d, a), "dtype I8"),
    ],
)  # fmt: skip
def test_damaged_weights(others: Path, change: Any, message: str) -> None:
    rewrite(others, change)
    with pytest.raises(ModelFileError, match=message):
        Embedder(others)


def test_scales_without_integers(models: ModelMaker, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(models("tiny64"), folder)
    tensors = list(TensorFiles([folder / "model.safetensors"]))
    layout = {t.name: (t.dtype, t.shape) for t in tensors}
    layout["layers.0.mlp.up_proj.weight_scale"] = ("F32", (192, 1))
    arrays = [*(t.stored() for t in tensors), np.ones((192, 1), np.float32)]
    write_tensors(folder / "model.safetensors", layout, arrays)
    with pytest.raises(ModelFileError, match="all in I8"):
        Embedder(folder)


# ---- settings ----


def test_dtype_and_device(int8_folder: Path, models: ModelMaker) -> None:
    for dtype in ("bfloat16", "float8"):
        with pytest.raises(ValueError, match=f"dtype='{dtype}', but .* stored as int8"):
            Embedder(int8_folder, dtype=dtype)
    with pytest.raises(DeviceError, match="device cuda:0: the model's weights are int8"):
        open_engine_of(int8_folder, device="cuda:0")
    with Embedder(int8_folder, dtype="int8") as model, Embedder(models("tiny64")) as plain:
        assert model.fingerprint != plain.fingerprint


def test_the_fingerprint_covers_the_equalisation(int8_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(int8_folder, folder)
    with Embedder(folder) as model:
        before = model.fingerprint
    (folder / EQUALISATION).unlink()
    with Embedder(folder) as model:
        assert model.fingerprint != before


def test_it_is_not_quantised_again(int8_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="holds int8 weights"):
        quantize_model(int8_folder, tmp_path / "again")
    with pytest.raises(ModelFileError, match="holds int8 weights"):
        interpolate_models([int8_folder, int8_folder], tmp_path / "between")
    with pytest.raises(ModelFileError, match="holds int8 weights"):
        merge_adapter(int8_folder, tmp_path, tmp_path / "merged")


def test_command(models: ModelMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "int8"
    assert main(["quantize", str(models("tiny64")), "-o", str(output), "--threads", "1"]) == 0
    assert "MB of weights in int8" in capsys.readouterr().out
    assert main(["quantize", str(models("tiny64")), "-o", str(output)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["info", "--model", str(output)]) == 0
    assert "int8" in capsys.readouterr().out


# ---- adapters ----


def test_adapter_on_a_quantised_folder(
    uneven: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is merged before equalisation: as on the original, but for rounding twice."""
    adapter = make_adapter(
        tmp_path / "adapter", uneven, target_modules=["v_proj", "o_proj", "up_proj", "down_proj"]
    )
    folder = tmp_path / "int8"
    quantize_model(uneven, folder)
    with Embedder(uneven, device="cpu", adapter=adapter) as exact:
        expected = exact.encode(TEXTS)
    with Embedder(uneven, device="cpu", adapter=adapter, dtype="int8") as opened:
        loss = cosine_loss(opened.encode(TEXTS), expected).mean()
    with Embedder(folder, adapter=adapter) as model:
        merged = model.encode(TEXTS)
        model.set_adapter(None)
        own = model.encode(TEXTS)
        model.set_adapter("default")
    assert cosine_loss(merged, expected).mean() < 2.5 * loss + 1e-4
    assert cosine_loss(own, expected).mean() > 5 * loss
    # Without the scales the same adapter goes to the wrong channels.
    (folder / EQUALISATION).unlink()
    with Embedder(folder, adapter=adapter) as model:
        assert cosine_loss(model.encode(TEXTS), expected).mean() > 5 * loss
    assert main(["info", "--model", str(folder), "--adapter", str(adapter)]) == 0
    assert "dequantised int8 weights, then quantised again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layout, arrays: layout.pop("value") and arrays.pop(1), "value is missing"),
        (lambda layout, arrays: arrays[0].fill(100), r"exceeds 2\^24"),
        (
            lambda layout, arrays: (
                layout.update({"value": ("I8", (1, arrays[1].size))}),
                arrays.__setitem__(1, arrays[1].reshape(1, -1)),
            ),
            "expected I8",
        ),
        (
            lambda layout, arrays: (
                layout.update(more=("I8", (1,))),
                arrays.append(arrays[0][0][:1]),
            ),
            "unknown tensor 'more'",
        ),
    ],
)  # fmt: skip
def test_damaged_equalisation(int8_folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    with Embedder(int8_folder) as model:
        config = model.config
    tensors = list(TensorFiles([int8_folder / EQUALISATION]))
    names = ["attention_input", "value", "output", "mlp_input", "activation"]
    tensors.sort(key=lambda tensor: names.index(tensor.name))
    layout: dict[str, Any] = {t.name: (t.dtype, t.shape) for t in tensors}
    arrays = [t.int8().copy() for t in tensors]
    change(layout, arrays)
    write_tensors(tmp_path / EQUALISATION, layout, arrays)
    with pytest.raises(ModelFileError, match=message):
        Equalisation(tmp_path / EQUALISATION, config)


def test_the_config_of_ours_is_accepted() -> None:
    from qwen3_embed.loading.schemes import check_int8_config

    check_int8_config(INT8_CONFIG, "config.json")
