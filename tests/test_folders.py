"""Model folders made by the real tools, opened as Embedder: the same vectors, or a refusal.

Each case makes a folder with Transformers, sentence-transformers, PEFT or safetensors, and
gives the rows that its own tool computes in fp32. Rerankers and refused folders are in
test_folders_rerankers.py and test_folders_refused.py.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# ruff: noqa: E402 (the imports below need what is looked for here)
for name in ("torch", "transformers", "sentence_transformers", "peft", "safetensors"):
    pytest.importorskip(name)

import peft
import safetensors.torch
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    Normalize,
    Pooling,
    Transformer,
)

from qwen3_embed import Embedder, ModelFileError
from tests.support.folders import (
    TEXTS,
    Rows,
    edit,
    fill,
    last_token_rows,
    save,
    sentence_transformer_rows,
    small_model,
    small_tokenizer,
)
from tests.support.make_model import write_json

WIDTH = 64
MAX_DISTANCE = 1e-4  # 1 - cos to fp32; bf16 activations of two layers give about 1e-5
LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]}
LONG = "a capital of China is Beijing " * 20

Case = Callable[[Path, Path], tuple[Path, Rows]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folders")


@pytest.fixture(scope="module")
def base(root: Path) -> Path:
    """A bare folder of Qwen3Model; don't change it."""
    return save(root / "base", small_model())


def saved_by_st(folder: Path, base: Path, *modules: Any, **options: Any) -> Path:
    """The folder of a SentenceTransformer over `base`, with `modules` after the Transformer."""
    after = modules or (Pooling(WIDTH, "lasttoken"), Normalize())
    model = SentenceTransformer(modules=[Transformer(str(base)), *after], **options)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def write_state(folder: Path, base: Path, prefix: str, model: Any) -> Path:
    """A copy of `base` whose tensors have this prefix, as torch.save of a wrapped model has."""
    shutil.copytree(base, folder)
    state = {f"{prefix}{k}": v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"epoch": "3"})
    return folder


def adapted(base: Path, folder: Path, **changes: Any) -> Path:
    """The folder of a PEFT adapter of `base` whose change is about as large as the weights."""
    from transformers import AutoModel

    torch.manual_seed(4)  # of lora_A
    model = peft.get_peft_model(
        AutoModel.from_pretrained(base, dtype=torch.float32), peft.LoraConfig(**LORA | changes)
    )
    spread_adapter(model)
    model.save_pretrained(folder)
    return folder


def spread_adapter(model: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))


@case
def bare_backbone(folder: Path, base: Path) -> tuple[Path, Rows]:
    return base, last_token_rows(base)


@case
def bare_causal_language_model(folder: Path, base: Path) -> tuple[Path, Rows]:
    save(folder, small_model("Qwen3ForCausalLM", 1))
    assert (folder / "generation_config.json").exists()
    return folder, last_token_rows(folder)


@case
def head_that_is_not_tied(folder: Path, base: Path) -> tuple[Path, Rows]:
    save(folder, small_model("Qwen3ForCausalLM", 2, tie_word_embeddings=False))
    return folder, last_token_rows(folder)


@case
def shards(folder: Path, base: Path) -> tuple[Path, Rows]:
    save(folder, small_model(seed=3), max_shard_size="100KB")
    assert not (folder / "model.safetensors").exists()
    return folder, last_token_rows(folder)


@case
def stored_in_fp32(folder: Path, base: Path) -> tuple[Path, Rows]:
    save(folder, small_model(seed=4), dtype=torch.float32)
    return folder, last_token_rows(folder)


@case
def stored_in_fp16(folder: Path, base: Path) -> tuple[Path, Rows]:
    save(folder, small_model(seed=4), dtype=torch.float16)
    return folder, last_token_rows(folder)


@case
def yarn(folder: Path, base: Path) -> tuple[Path, Rows]:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    rope["original_max_position_embeddings"] = 32
    save(folder, small_model(seed=5, rope_parameters=rope))
    return folder, last_token_rows(folder)


@case
def sentence_transformer(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    return folder, sentence_transformer_rows(folder)


@case
def no_normalize_module(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base, Pooling(WIDTH, "lasttoken"))
    return folder, sentence_transformer_rows(folder)


@case
def dropout_and_prompt_left_out_of_the_pooling(folder: Path, base: Path) -> tuple[Path, Rows]:
    pooling = Pooling(WIDTH, "lasttoken", include_prompt=False)
    saved_by_st(folder, base, pooling, Dropout(0.5), Normalize())
    assert (folder / "3_Normalize").exists()
    return folder, sentence_transformer_rows(folder)


@case
def default_prompt(folder: Path, base: Path) -> tuple[Path, Rows]:
    prompts = {"query": "q: ", "document": "d: "}
    saved_by_st(folder, base, prompts=prompts, default_prompt_name="query")
    return folder, sentence_transformer_rows(folder)


@case
def max_seq_length(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    edit(folder / "sentence_bert_config.json", max_seq_length=6, do_lower_case=False)
    return folder, sentence_transformer_rows(folder)


@case
def max_length_of_each_call(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    text = {"max_length": 7, "truncation": True, "padding": True}
    edit(folder / "sentence_bert_config.json", processing_kwargs={"text": text})
    return folder, sentence_transformer_rows(folder)


@case
def arguments_without_effect(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    arguments = {"attn_implementation": "sdpa", "dtype": "float32"}
    edit(folder / "sentence_bert_config.json", model_kwargs=arguments, unpad_inputs=False)
    return folder, sentence_transformer_rows(folder)


@case
def transformer_in_a_folder(folder: Path, base: Path) -> tuple[Path, Rows]:
    transformer = Transformer(str(base))
    transformer.save_in_root = False
    model = SentenceTransformer(modules=[transformer, Pooling(WIDTH, "lasttoken"), Normalize()])
    model.save_pretrained(str(folder), create_model_card=False)
    assert (folder / "0_Transformer" / "config.json").exists()
    return folder, sentence_transformer_rows(folder)


@case
def chat_template_that_no_text_meets(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    tokenizer = small_tokenizer(template="{{ messages[0].content }}<|im_end|>")
    tokenizer.save_pretrained(folder)
    return folder, sentence_transformer_rows(folder)


@case
def settings_of_older_versions(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    shutil.rmtree(folder / "1_Pooling")
    (folder / "1_Pooling").mkdir()
    shutil.rmtree(folder / "2_Normalize")
    edit(
        folder / "1_Pooling" / "config.json",
        word_embedding_dimension=WIDTH,
        pooling_mode_mean_tokens=False,
        pooling_mode_lasttoken=True,
    )
    (folder / "sentence_bert_config.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()
    return folder, sentence_transformer_rows(folder)


@case
def adapter_beside_weights(folder: Path, base: Path) -> tuple[Path, Rows]:
    saved_by_st(folder, base)
    adapted(base, folder)
    rows = sentence_transformer_rows(folder)
    assert (rows * last_token_rows(base)).sum(1).max() < 0.99  # it changes the vectors
    return folder, rows


@case
def dora_beside_weights(folder: Path, base: Path) -> tuple[Path, Rows]:
    shutil.copytree(base, folder)
    adapted(base, folder, use_dora=True, use_rslora=True)
    return folder, last_token_rows(folder)


@case
def adapter_alone(folder: Path, base: Path) -> tuple[Path, Rows]:
    adapted(base, folder)
    small_tokenizer().save_pretrained(folder)
    return folder, last_token_rows(folder)


@case
def adapter_alone_without_tokenizer(folder: Path, base: Path) -> tuple[Path, Rows]:
    adapted(base, folder)
    model = peft.AutoPeftModel.from_pretrained(folder).eval()
    tokenizer = small_tokenizer()
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            rows.append(model(ids).last_hidden_state[0, -1].float())
    return folder, torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()


@case
def adapter_alone_of_sentence_transformers(folder: Path, base: Path) -> tuple[Path, Rows]:
    model = SentenceTransformer(
        modules=[Transformer(str(base)), Pooling(WIDTH, "lasttoken"), Normalize()],
        prompts={"query": "q: ", "document": ""},
        default_prompt_name="query",
    )
    torch.manual_seed(4)  # of lora_A
    model[0].model = peft.get_peft_model(model[0].model, peft.LoraConfig(**LORA))
    spread_adapter(model)
    model.save_pretrained(str(folder), create_model_card=False)
    assert not (folder / "config.json").exists()
    return folder, sentence_transformer_rows(folder)


@case
def adapter_in_the_transformers_folder(folder: Path, base: Path) -> tuple[Path, Rows]:
    transformer_in_a_folder(folder, base)
    adapted(base, folder / "0_Transformer")
    return folder, last_token_rows(folder / "0_Transformer")


@case
def prefix_of_data_parallel(folder: Path, base: Path) -> tuple[Path, Rows]:
    model = torch.nn.DataParallel(small_model())
    return write_state(folder, base, "", model), last_token_rows(base)


@case
def prefix_of_compile(folder: Path, base: Path) -> tuple[Path, Rows]:
    model = torch.compile(small_model("Qwen3ForCausalLM"))
    fill(model, 0)
    made = save(folder.with_name("causal"), small_model("Qwen3ForCausalLM"))
    state = {k: v for k, v in model.state_dict().items() if "lm_head" not in k}
    write_state(folder, made, "", torch.nn.Module())
    state = {k: v.to(torch.bfloat16) for k, v in state.items()}
    assert all(k.startswith("_orig_mod.model.") for k in state)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder, last_token_rows(made)


@case
def prefix_of_a_wrapper_that_holds_a_language_model(folder: Path, base: Path) -> tuple[Path, Rows]:
    return write_state(folder, base, "base_model.model.", small_model()), last_token_rows(base)


@case
def tied_tensors_stored_once_under_the_heads_name(folder: Path, base: Path) -> tuple[Path, Rows]:
    model = small_model("Qwen3ForCausalLM", 7).to(torch.bfloat16)
    made = save(folder.with_name("tied"), small_model("Qwen3ForCausalLM", 7))
    shutil.copytree(made, folder)
    safetensors.torch.save_model(model, str(folder / "model.safetensors"))
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        assert "model.embed_tokens.weight" not in file.keys()  # noqa: SIM118
    return folder, last_token_rows(made)


@pytest.mark.parametrize("name", CASES)
def test_vectors(name: str, root: Path, base: Path) -> None:
    folder, expected = CASES[name](root / name, base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Embedder(folder)
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are cut
        found = model.encode(list(TEXTS))
    distance = 1 - (found * expected).sum(1)
    assert distance.max() <= MAX_DISTANCE
    others = [1 - expected[i] @ expected[i - 1] for i in range(len(expected))]
    assert max(others) > 100 * MAX_DISTANCE  # the reference tells texts apart


def test_there_are_enough() -> None:
    assert len(CASES) >= 25


def test_an_adapter_of_the_folder_is_in_use(root: Path, base: Path) -> None:
    folder = saved_by_st(root / "with adapter", base)
    adapted(base, folder)
    with Embedder(folder) as model, Embedder(base) as plain:
        assert model.adapter == "default"
        assert "layers.0.self_attn.q_proj" in model.adapters["default"].merged
        found = model.encode(list(TEXTS))
        assert model.fingerprint != plain.fingerprint
        with pickle.loads(pickle.dumps(model)) as again:
            assert np.array_equal(again.encode(list(TEXTS)), found)
        model.set_adapter(None)
        assert np.array_equal(model.encode(list(TEXTS)), plain.encode(list(TEXTS)))
    with pytest.raises(ModelFileError, match="has an adapter of its own"):
        Embedder(folder, adapter=adapted(base, root / "second"))


def test_long_texts_keep_their_end(root: Path, base: Path) -> None:
    folder = saved_by_st(root / "long", base)
    edit(folder / "sentence_bert_config.json", max_seq_length=32)
    expected = sentence_transformer_rows(folder, [LONG])
    with Embedder(folder) as model, pytest.warns(UserWarning, match="max_length=32"):
        assert 1 - float(model.encode(LONG) @ expected[0]) <= MAX_DISTANCE


def test_truncate_dim_is_said(root: Path, base: Path) -> None:
    folder = saved_by_st(root / "truncated", base, truncate_dim=16)
    with pytest.warns(UserWarning, match=r"truncate_dim is 16: pass dim= to encode"):
        Embedder(folder).close()
