"""GGUF Q8_0: files of the `gguf` package against the oracle, kernels bit for bit, hostile files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, Embedder, ModelFileError, Reranker, _core
from qwen3_embed.loading.file_hashes import sha256_of_weights
from qwen3_embed.loading.gguf import Gguf, read_gguf
from qwen3_embed.loading.gguf_model import tokenizer_json
from qwen3_embed.loading.tensors import TensorFiles
from tests.conftest import TEXTS, ModelMaker
from tests.support.engines import CORE, cpu_only, embed, random_texts, relative_errors, rms
from tests.support.make_adapter import make_adapter
from tests.support.make_model import qwen3_tokenizer
from tests.support.multiply_in_c import ELSEWHERE, multiply_in_c
from tests.support.reference import Floats, Reference, round_bf16
from tests.support.reference_int8 import Q8Reference, groups_of_int8, multiply_q8_0
from tests.support.uneven import cosine_loss

pytestmark = cpu_only

ISAS = CORE.instruction_sets()
HAS_VNNI = "avx512_vnni" in ISAS
LENGTHS = [1, 2, 15, 16, 17, 33, 64, 65, 129]


# ---- products ----


def random_product(m: int, n: int, k: int) -> tuple[Floats, Any, Any, Floats]:
    """x, then Q8_0 as stored, as integers and as scales."""
    source = np.random.default_rng(m + n + k)
    x = round_bf16(source.standard_normal((m, k)).astype(np.float32))
    x *= np.float32(2) ** source.integers(-40, 40, (m, 1)).astype(np.float32)
    w = source.integers(-128, 128, (n, k)).astype(np.int8)
    scales = source.uniform(-1e-3, 1e-3, (n, k // 32)).astype(np.float16)
    scales[0, 0] = 2.0**-24  # subnormal
    stored = np.concatenate(
        [scales[..., None].view(np.uint8), w.reshape(n, -1, 32).view(np.uint8)], axis=2
    )
    return x, stored, w, scales.astype(np.float32)


SHAPES = [
    *[(1, 1, 32), (1, 16, 128), (2, 17, 96), (15, 33, 160), (16, 24, 256), (17, 97, 64)],
    *[(33, 13, 384), (48, 25, 32), (65, 130, 224), (96, 31, 1152), (300, 7, 1184)],
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_have_the_oracles_bits(isa: str, m: int, n: int, k: int) -> None:
    x, stored, w, scales = random_product(m, n, k)
    expected = multiply_q8_0(*groups_of_int8(x), w, scales)
    np.testing.assert_array_equal(multiply_in_c(isa, 1 + m % 3, x, stored, None), expected)


@pytest.mark.skipif(not HAS_VNNI, reason="needs AVX-512-VNNI")
@pytest.mark.parametrize("isa", [isa for isa in ELSEWHERE if isa not in ISAS])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_kernels_of_other_processors(isa: str, m: int, n: int, k: int) -> None:
    """Those that this processor runs in another encoding, or that need no more than it has."""
    x, stored, w, scales = random_product(m, n, k)
    if "q8_0" in ELSEWHERE[isa]:
        expected = multiply_q8_0(*groups_of_int8(x), w, scales)
        found = multiply_in_c(isa, 1 + m % 3, x, stored, None, forced=True)
        np.testing.assert_array_equal(found, expected)


# ---- models ----


@pytest.fixture(scope="module")
def gguf_of(models: ModelMaker, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """gguf_of(shape) -> the file of models(shape), alone in its folder."""
    make = pytest.importorskip("tests.support.make_gguf", reason="needs gguf").make_gguf
    made: dict[str, Path] = {}

    def of(shape: str = "tiny64", **options: Any) -> Path:
        key = repr((shape, options))
        if key not in made:
            made[key] = make(models(shape), tmp_path_factory.mktemp("gguf") / "m.gguf", **options)
        return made[key]

    return of


def open_engine(path: Path, isa: str, monkeypatch: pytest.MonkeyPatch) -> _core.Engine:
    monkeypatch.setenv("QWEN3_EMBED_ISA", isa)
    gguf = read_gguf(path)
    with Embedder(path) as model:
        config = model.config.for_engine(4096)
    return _core.Engine([str(path)], config, dtype="int8", places=gguf.places)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", ["tiny64", "tiny128"])
def test_forward_equals_the_oracle(
    models: ModelMaker, gguf_of: Any, monkeypatch: pytest.MonkeyPatch, shape: str, isa: str
) -> None:
    """Tolerances as in test_int8.py."""
    from tests.support.make_gguf import blocks_of

    path = gguf_of(shape)
    reference = Q8Reference(models(shape), blocks_of(path))
    exact = Reference(models(shape))
    texts = random_texts(LENGTHS)
    expected = [reference.raw_row(text) for text in texts]
    noise = rms(relative_errors(expected, [exact.raw_row(text) for text in texts]))
    engine = open_engine(path, isa, monkeypatch)
    rows = embed(engine, texts, expected[0].size, normalize=False)
    errors = relative_errors(rows, expected)
    assert rms(errors) < 1.5 * noise, (errors, noise)
    assert np.median(errors) < 0.5 * noise, (errors, noise)
    engine.close()


def test_vectors_are_near_the_models(models: ModelMaker, gguf_of: Any) -> None:
    folder = models("tiny64")
    with Embedder(folder, device="cpu") as plain, Embedder(gguf_of("tiny64")) as model:
        assert model.dtype == "int8"
        assert model.config.vocab_size == plain.config.vocab_size
        assert model.max_length == plain.max_length
        np.testing.assert_array_equal(model.tokenizer.encode(TEXTS).tokens,
                                      plain.tokenizer.encode(TEXTS).tokens)  # fmt: skip
        losses = cosine_loss(model.encode(TEXTS), plain.encode(TEXTS))
        assert 0 < losses.max() < 0.02
        # Vectors, and a sum of 2 bytes per block.
        assert model.info["owned_bytes"] < 0.12 * model.info["mapped_bytes"]
        assert model.fingerprint != plain.fingerprint


def test_weights_as_the_gguf_package_reads_them(gguf_of: Any) -> None:
    from tests.support.make_gguf import blocks_of

    path = gguf_of("tiny64")
    blocks = blocks_of(path)
    for tensor in TensorFiles([path]):
        if tensor.dtype == "Q8_0":
            values, scales = blocks[tensor.name]
            np.testing.assert_array_equal(tensor.floats(), values * scales.repeat(32, axis=1))
            np.testing.assert_array_equal(tensor.rows([3, 0]), tensor.floats()[[3, 0]])


def test_qwens_tokenizer() -> None:
    """Of the real vocabulary, as the converter writes it: the same ids as of tokenizer.json."""
    import tokenizers

    content = qwen3_tokenizer()
    tokens = {i: token for token, i in content["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, 1)
    for token in content["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = 3 if token["special"] else 4
    lists = {
        "tokens": [tokens[i] for i in range(len(tokens))],
        "token_type": [types[i] for i in range(len(tokens))],
        "merges": [" ".join(pair) for pair in content["model"]["merges"]],
    }
    entries = {"model": "gpt2", "pre": "qwen2", "eos_token_id": 151643, "add_eos_token": True}
    metadata = {f"tokenizer.ggml.{k}": v for k, v in (entries | lists).items()}
    found = tokenizers.Tokenizer.from_str(tokenizer_json(Gguf(Path("a.gguf"), metadata, {})))
    expected = tokenizers.Tokenizer.from_str(json.dumps(content))
    for text in [*TEXTS, "<|im_start|>user\n<think> x </think>\r\n\n  don't 12345", "e\u0301 ﬁ"]:
        assert found.encode(text).ids == expected.encode(text).ids


def test_in_a_folder(models: ModelMaker, gguf_of: Any, tmp_path: Path) -> None:
    """A folder's only GGUF file is found; its small files are used, and must be of its model."""
    path = shutil.copy(gguf_of("tiny64"), tmp_path / "a.gguf")
    with Embedder(tmp_path) as model:
        expected = model.encode(TEXTS)
    shutil.copy(models("tiny64") / "tokenizer.json", tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Q: "}}')
    with Embedder(path) as model:
        np.testing.assert_array_equal(model.encode(TEXTS), expected)
        assert model.prompts == {"query": "Q: "}
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace('"th"', '"qq"'))
    with pytest.raises(ModelFileError, match="the tokenizer of the same model"):
        Embedder(tmp_path)
    shutil.copy(path, tmp_path / "b.gguf")
    with pytest.raises(ModelFileError, match="2 GGUF files"):
        Embedder(tmp_path)


def test_refusals(gguf_of: Any, tmp_path: Path) -> None:
    from qwen3_embed.adapters.quantizing import quantize_model

    path = gguf_of("tiny64")
    with pytest.raises(DeviceError, match="device cuda:0: the model's weights are int8"):
        Embedder(path, device="cuda:0")
    with pytest.raises(ValueError, match="stored as int8"):
        Embedder(path, dtype="bfloat16")
    with pytest.raises(ValueError, match="revision"):
        Embedder(path, revision="main")
    with pytest.raises(ModelFileError, match="holds int8 weights"):
        quantize_model(path, tmp_path / "out")
    with pytest.raises(ModelFileError, match="open it as an Embedder"):
        Reranker(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"general__architecture": "llama"}, "architecture is 'llama'"),
        ({"pooling": 1}, "pooling_type is 1"),
        ({"pooling": 4}, "open it as a Reranker"),
        ({"qwen3__attention__sliding_window": 512}, "attention.sliding_window"),
        ({"qwen3__attention__causal": False}, "attention.causal"),
        ({"qwen3__attention__value_length": 32}, "attention.value_length"),
        ({"qwen3__rope__scaling__type": "linear"}, "rope.scaling.type"),
        ({"qwen3__block_count": None}, "num_hidden_layers"),
        ({"qwen3__block_count": 4}, "missing"),
        ({"qwen3__embedding_length": 64}, "shape"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, "the tokenizer is 'gpt2' with 'llama-bpe'"),
        ({"tokenizer__ggml__model": "bert"}, "the tokenizer is 'bert'"),
        ({"tokenizer__ggml__add_bos_token": True}, "add_bos_token"),
        ({"tokenizer__ggml__eos_token_id": 9999}, "eos_token_id"),
        ({"tokenizer": False}, "tokenizer"),
        ({"split__count": 2}, "split.count"),
    ],
)
def test_other_files_are_refused_by_name(
    gguf_of: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        Embedder(gguf_of("tiny64", **options))


@pytest.mark.parametrize("kind", ["Q4_0", "F16", "BF16", "Q5_1"])
def test_other_types_are_refused_by_name(gguf_of: Any, kind: str) -> None:
    import gguf

    types = {"layers.1.mlp.up_proj.weight": gguf.GGMLQuantizationType[kind]}
    expected = kind if kind.startswith("Q") else "expected the layers' matrices all in I8"
    with pytest.raises(ModelFileError, match=expected):
        Embedder(gguf_of("tiny64", types=types))


def test_yarn(models: ModelMaker, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tests.support.make_gguf import make_gguf
    from tests.support.make_model import YARN

    folder = models("tiny64", rope_scaling=YARN)
    path = make_gguf(
        folder, tmp_path / "a.gguf", qwen3__rope__scaling__type="yarn",
        qwen3__rope__scaling__factor=4.0, qwen3__rope__scaling__original_context_length=64,
    )  # fmt: skip
    with Embedder(folder, device="cpu") as plain, Embedder(path) as model:
        np.testing.assert_array_equal(model.config.rope_inv_freq, plain.config.rope_inv_freq)
        assert model.config.rope_scale == plain.config.rope_scale


def test_adapter(models: ModelMaker, gguf_of: Any, tmp_path: Path) -> None:
    """Merged matrices are int8 rows beside the blocks of the others."""
    folder, path = models("tiny64"), gguf_of("tiny64")
    adapter = make_adapter(tmp_path / "adapter", folder, target_modules=["k_proj", "down_proj"])
    with Embedder(folder, device="cpu", adapter=adapter) as plain:
        expected = plain.encode(TEXTS)
    with Embedder(path) as model:
        own = model.encode(TEXTS)
        model.add_adapter("a", adapter)
        model.set_adapter("a")
        assert cosine_loss(model.encode(TEXTS), expected).max() < 0.02
        assert "dequantised" in model.adapters["a"].note
        model.set_adapter(None)
        np.testing.assert_array_equal(model.encode(TEXTS), own)


def test_pickle_and_cached_hash(gguf_of: Any) -> None:
    import pickle

    path = gguf_of("tiny64")
    with Embedder(path) as model, pickle.loads(pickle.dumps(model)) as copy:
        np.testing.assert_array_equal(copy.encode(TEXTS), model.encode(TEXTS))
    assert sha256_of_weights(path) == sha256_of_weights(path)


# ---- hostile files ----


def test_every_cut_is_refused(gguf_of: Any, tmp_path: Path) -> None:
    content = gguf_of("tiny64").read_bytes()
    path = tmp_path / "cut.gguf"
    for n_bytes in [0, 3, 4, 8, 23, 24, *range(30, 20_000, 613), len(content) - 40]:
        path.write_bytes(content[:n_bytes])
        with pytest.raises(ModelFileError):
            read_gguf(path)
    path.write_bytes(content + b"\0" * 64)
    with pytest.raises(ModelFileError, match="bytes of data"):
        read_gguf(path)


def test_fuzz() -> None:
    pytest.importorskip("gguf")
    from tests.fuzz_gguf import fuzz

    found = fuzz(300, seed=1)
    assert found["ModelFileError"] > 200
    assert set(found) <= {"ModelFileError", "opened"}, found


def test_places_are_checked(gguf_of: Any) -> None:
    """The engine trusts no place: each must lie in the file and fit its shape."""
    path = gguf_of("tiny64")
    with Embedder(path) as model:
        config = model.config.for_engine(64)
    places = dict(read_gguf(path).places)
    name = "layers.0.mlp.up_proj.weight"
    for changes in (
        {"offset": path.stat().st_size - 5},
        {"offset": 2**63},
        {"n_bytes": places[name].n_bytes + 34},
        {"shape": (1, 2**29)},
        {"shape": (192,)},
        {"dtype": "Q4_0"},
    ):
        wrong = places | {name: places[name]._replace(**changes)}
        with pytest.raises((ModelFileError, ValueError)):
            _core.Engine([str(path)], config, dtype="int8", places=wrong)
    for table in ([], {name: 3}, {name: ("F32", 3, 0, 0)}, {name: ("F32", (1, 2, 3), 0, 0)}):
        with pytest.raises(TypeError):
            _core.Engine([str(path)], config, dtype="int8", places=table)  # type: ignore[arg-type]
