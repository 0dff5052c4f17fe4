"""Model folders that can't be computed, made by the real tools: refused, each with the reason.

A few are opened with a warning, because only their tokenizer hints at what they are.
"""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402 (the imports below need what is looked for here)
for name in ("torch", "transformers", "sentence_transformers", "peft", "safetensors"):
    pytest.importorskip(name)

import peft
import safetensors.torch
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    WeightedLayerPooling,
)
from sentence_transformers.sparse_encoder.modules import SpladePooling

from qwen3_embed import Embedder, ModelFileError, ModelNotFoundError, QwenEmbedError, Reranker
from tests.support.folders import edit, save, small_model, small_tokenizer

WIDTH = 64
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 11422654\n"
PAIRS = (
    '{{ (messages | selectattr("role", "eq", "query") | first).content }}\n'
    '{{ (messages | selectattr("role", "eq", "document") | first).content }}'
)

Opener = Callable[..., Any]
CASES: dict[str, tuple[Opener, str, Callable[[Path, Path], Path | None]]] = {}


def refused(opener: Opener, words: str) -> Callable[[Any], Any]:
    """A case: the function makes a folder, and `opener` refuses it with these words."""

    def register(function: Any) -> Any:
        CASES[function.__name__] = (opener, words, function)
        return function

    return register


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refused")


@pytest.fixture(scope="module")
def base(root: Path) -> Path:
    return save(root / "base", small_model())


def by_st(folder: Path, base: Path, *modules: Any, kind: Any = SentenceTransformer) -> Path:
    model = kind(modules=[Transformer(str(base)), *modules])
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def last_token() -> tuple[Any, ...]:
    return Pooling(WIDTH, "lasttoken"), Normalize()


def cross_encoder(folder: Path, template: str | None = PAIRS) -> Path:
    model = small_model("Qwen3ForCausalLM")
    tokenizer = small_tokenizer(adds_end=False, template=template)
    base = save(folder.with_name(folder.name + " base"), model, tokenizer)
    transformer = Transformer(str(base), transformer_task="text-generation")
    modules = [transformer, LogitScore(77, 78)]
    CrossEncoder(modules=modules).save_pretrained(str(folder), create_model_card=False)
    return folder


@refused(Embedder, "the pooling is mean, expected lasttoken")
def mean_pooling(folder: Path, base: Path) -> None:
    by_st(folder, base, Pooling(WIDTH, "mean"))


@refused(Embedder, "the pooling is lasttoken, mean, expected")
def two_poolings(folder: Path, base: Path) -> None:
    by_st(folder, base, Pooling(WIDTH, ["lasttoken", "mean"]))


@refused(Embedder, r"the module .*Dense is not supported")
def dense(folder: Path, base: Path) -> None:
    by_st(folder, base, Pooling(WIDTH, "lasttoken"), Dense(WIDTH, 16))


@refused(Embedder, r"the module .*WeightedLayerPooling is not supported")
def weighted_layers(folder: Path, base: Path) -> None:
    by_st(folder, base, WeightedLayerPooling(WIDTH), *last_token())


@refused(Embedder, r"module_input_name is 'token_embeddings', expected 'sentence_embedding'")
def normalize_of_tokens(folder: Path, base: Path) -> None:
    by_st(folder, base, Pooling(WIDTH, "lasttoken"), Normalize("token_embeddings"))


@refused(Embedder, "SpladePooling is not supported")
def sparse_encoder(folder: Path, base: Path) -> None:
    made = save(folder.with_name("sparse base"), small_model("Qwen3ForCausalLM"))
    by_st(folder, made, SpladePooling("max"), kind=SparseEncoder)


@refused(Embedder, "this is a reranker: open it as a Reranker")
def cross_encoder_as_embedder(folder: Path, base: Path) -> None:
    cross_encoder(folder)


@refused(Embedder, "renders queries with documents, so this is a reranker")
def reranker_told_by_its_template(folder: Path, base: Path) -> None:
    save(folder, small_model("Qwen3ForCausalLM"), small_tokenizer(template=PAIRS))


@refused(Embedder, "architectures is .* opened as embedder")
def classifier_as_embedder(folder: Path, base: Path) -> None:
    save(folder, small_model("Qwen3ForSequenceClassification", num_labels=1))


@refused(Reranker, "this is an embedding model: open it as an Embedder")
def embedder_as_reranker(folder: Path, base: Path) -> None:
    by_st(folder, base, *last_token())


@refused(Reranker, "architectures is .* opened as reranker")
def backbone_as_reranker(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)


@refused(Embedder, 'has "message", so sentence-transformers renders every text')
def texts_as_chat_messages(folder: Path, base: Path) -> None:
    template = "<|im_start|>user\n{{ messages[0].content }}<|im_end|>"
    made = save(folder.with_name("chat"), small_model(), small_tokenizer(template=template))
    by_st(folder, made, *last_token())


@refused(Reranker, 'has no "message", so this reranker reads query and document without a prompt')
def pairs_without_a_prompt(folder: Path, base: Path) -> None:
    cross_encoder(folder, template=None)


@refused(Reranker, "uses 'filter upper'")
def template_that_changes_texts(folder: Path, base: Path) -> None:
    cross_encoder(folder, PAIRS.replace("first).content", "first).content | upper"))


@refused(Reranker, r"uses 'mul'")
def template_that_would_fill_the_memory(folder: Path, base: Path) -> None:
    cross_encoder(folder, PAIRS + "{{ 'a' * 10**12 }}")


@refused(Reranker, r"uses 'getattr __(class|mro)__'")
def template_that_looks_for_python(folder: Path, base: Path) -> None:
    cross_encoder(folder)
    (folder / "chat_template.jinja").write_text(PAIRS + "{{ ''.__class__.__mro__ }}")


@refused(Reranker, "leaves the document out")
def template_without_documents(folder: Path, base: Path) -> None:
    cross_encoder(folder)
    (folder / "chat_template.jinja").write_text('{{ messages[0].content }} "query" "document"')


@refused(Reranker, "control tokens between query and document: open it with special_tokens_in_text")
def template_with_turns(folder: Path, base: Path) -> None:
    cross_encoder(folder, PAIRS.replace("\n", "<|im_end|>"))


@refused(Reranker, r"' \(end\)' right after the last text, which can't be kept")
def template_that_ends_in_words(folder: Path, base: Path) -> None:
    cross_encoder(folder, PAIRS + " (end)")


@refused(Reranker, r"score.weight: shape \(2, 64\), expected \(1, 64\): a classifier of several")
def classifier_of_two_labels(folder: Path, base: Path) -> None:
    model = small_model("Qwen3ForSequenceClassification", num_labels=2)
    save(folder, model, small_tokenizer(adds_end=False))


@refused(Reranker, "activation_fn is 'torch.nn.modules.activation.Tanh'")
def other_activation(folder: Path, base: Path) -> None:
    cross_encoder(folder)
    edit(
        folder / "config_sentence_transformers.json",
        activation_fn="torch.nn.modules.activation.Tanh",
    )


@refused(Embedder, "is_causal is false")
def bidirectional(folder: Path, base: Path) -> None:
    save(folder, small_model(is_causal=False))


@refused(Embedder, "attention_bias is true")
def biases(folder: Path, base: Path) -> None:
    save(folder, small_model(attention_bias=True))


@refused(Embedder, "sliding")
def sliding_windows(folder: Path, base: Path) -> None:
    save(folder, small_model(use_sliding_window=True, sliding_window=16, max_window_layers=1))


@refused(Embedder, "query_length is 32, expected null")
def lengths_of_tasks(folder: Path, base: Path) -> None:
    transformer = Transformer(str(base), query_length=32)
    model = SentenceTransformer(modules=[transformer, *last_token()])
    model.save_pretrained(str(folder), create_model_card=False)


@refused(Embedder, "do_lower_case is true, expected false")
def lower_casing(folder: Path, base: Path) -> None:
    by_st(folder, base, *last_token())
    edit(folder / "sentence_bert_config.json", do_lower_case=True)


@refused(Embedder, "transformer_task is .fill-mask., expected feature-extraction")
def other_task(folder: Path, base: Path) -> None:
    by_st(folder, base, *last_token())
    edit(folder / "sentence_bert_config.json", transformer_task="fill-mask")


@refused(Embedder, "config_kwargs.is_causal is false, expected no such argument")
def argument_with_effect(folder: Path, base: Path) -> None:
    by_st(folder, base, *last_token())
    edit(folder / "sentence_bert_config.json", config_kwargs={"is_causal": False})


@refused(Embedder, "holds '.*base_layer.weight', of a LoRA adapter that is not merged")
def adapter_that_is_not_merged(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    model = peft.get_peft_model(small_model(), peft.LoraConfig(target_modules=["q_proj"]))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")


@refused(Embedder, "peft_type is .LOHA., expected .LORA.")
def adapter_of_another_method(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    config = peft.LoHaConfig(target_modules=["q_proj"])
    peft.get_peft_model(small_model(), config).save_pretrained(folder)


@refused(Embedder, "holds a LoRA adapter without its base '/nowhere/base'")
def adapter_without_its_base(folder: Path, base: Path) -> None:
    config = peft.LoraConfig(target_modules=["q_proj"], base_model_name_or_path="/nowhere/base")
    peft.get_peft_model(small_model(), config).save_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path="/nowhere/base")


@refused(Embedder, "is the base of an adapter and holds an adapter of its own")
def adapter_of_itself(folder: Path, base: Path) -> None:
    adapter_without_its_base(folder, base)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(folder))


@refused(Embedder, "language_model.layers.0.input_layernorm.weight: the prefix of the name is unkn")
def unknown_prefix(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    state = safetensors.torch.load_file(base / "model.safetensors")
    wrapped = {f"language_model.{name}": tensor for name, tensor in state.items()}
    safetensors.torch.save_file(wrapped, folder / "model.safetensors")


@refused(Embedder, "embed_tokens.weight is missing, and lm_head.weight is not it")
def head_alone_that_is_not_tied(folder: Path, base: Path) -> None:
    save(folder, small_model("Qwen3ForCausalLM", tie_word_embeddings=False))
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["model.embed_tokens.weight"]
    safetensors.torch.save_file(state, folder / "model.safetensors")


@refused(Embedder, "pytorch_model.bin, a pickle, which can run code")
def pickle(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    torch.save(small_model().state_dict(), folder / "pytorch_model.bin")


@refused(Embedder, r"holds its weights as model.fp16.safetensors: rename it")
def variant(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


@refused(Embedder, r"00001-of-.* but not model.safetensors.index.json")
def shards_without_an_index(folder: Path, base: Path) -> None:
    save(folder, small_model(), max_shard_size="100KB")
    (folder / "model.safetensors.index.json").unlink()


@refused(Embedder, r"holds its weights as onnx/model.onnx, for ONNX Runtime")
def onnx(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"\x08\x07")


@refused(Embedder, r"model-Q8_0.gguf: the header is cut short")
def gguf(folder: Path, base: Path) -> Path:
    folder.mkdir()
    (folder / "model-Q8_0.gguf").write_bytes(b"GGUF\x03\0\0\0")
    return folder / "model-Q8_0.gguf"


@refused(Embedder, r"model-Q8_0.gguf: the header is cut short")
def folder_of_gguf(folder: Path, base: Path) -> None:
    gguf(folder, base)


@refused(Embedder, r"holds its weights as model-Q8_0.gguf, for llama.cpp")
def gguf_beside_a_config(folder: Path, base: Path) -> None:
    gguf(folder, base)
    shutil.copy(base / "config.json", folder)
    shutil.copy(base / "tokenizer.json", folder)


@refused(Embedder, r"is a file: pass the folder")
def path_of_the_weights(folder: Path, base: Path) -> Path:
    return base / "model.safetensors"


@refused(Embedder, r"tokenizer.json is a Git LFS pointer, .* run `git lfs pull`")
def pointer_as_tokenizer(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    (folder / "tokenizer.json").write_text(POINTER)


@refused(Embedder, r"model.safetensors is a Git LFS pointer")
def pointer_as_weights(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    (folder / "model.safetensors").write_text(POINTER)


@refused(Embedder, r"config.json is a Git LFS pointer")
def pointer_as_config(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    (folder / "config.json").write_text(POINTER)


@refused(Embedder, r"adapter_model.safetensors is a Git LFS pointer")
def pointer_as_adapter(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder)
    config = peft.LoraConfig(target_modules=["q_proj"])
    peft.get_peft_model(small_model(), config).save_pretrained(folder)
    (folder / "adapter_model.safetensors").write_text(POINTER)


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, root: Path, base: Path) -> None:
    opener, words, make = CASES[name]
    folder = root / name
    made = make(folder, base) or folder
    with pytest.raises(QwenEmbedError, match=words) as caught:
        opener(made, device="cpu")
    assert isinstance(caught.value, (ModelFileError, ModelNotFoundError))


def test_a_bare_reranker_as_embedder_is_a_warning(tmp_path: Path) -> None:
    model, tokenizer = small_model("Qwen3ForCausalLM"), small_tokenizer(adds_end=False)
    folder = save(tmp_path / "m", model, tokenizer)
    with pytest.warns(UserWarning, match="may be a reranker: .* appends no end token") as caught:
        Embedder(folder).close()
    assert [warning.filename for warning in caught] == [__file__]
    Reranker(folder).close()


def test_a_bare_embedder_as_reranker_is_a_warning(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", small_model("Qwen3ForCausalLM"))
    with pytest.warns(UserWarning, match="may be an embedding model: .* an end token") as caught:
        Reranker(folder).close()
    assert [warning.filename for warning in caught] == [__file__]
    Embedder(folder).close()


def test_a_template_needs_jinja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cross_encoder(tmp_path / "m")
    real = builtins.__import__

    def without_jinja(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "jinja2":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_jinja)
    with pytest.raises(ModelFileError, match=r"takes jinja2: pip install 'qwen3-embed-native\[tem"):
        Reranker(folder)
