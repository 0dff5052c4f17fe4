"""Rerankers' folders made by the real tools, opened as Reranker: the same logits and order.

The prompts are the model cards', or a chat template of the folder's own, which
sentence-transformers renders with Jinja.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

# ruff: noqa: E402 (the imports below need what is looked for here)
for name in ("torch", "transformers", "sentence_transformers", "peft", "safetensors", "jinja2"):
    pytest.importorskip(name)

import peft
import safetensors.torch
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore

from qwen3_embed import Reranker
from qwen3_embed.loading.tensors import TensorFiles
from qwen3_embed.templates import (
    DEFAULT_INSTRUCTION,
    QWEN_PROMPT,
    RERANKER_CHAT_TEMPLATE,
    RERANKER_PREFIX,
    RERANKER_SUFFIX,
    reranker_body,
)
from tests.support.folders import (
    DOCUMENTS,
    MORE,
    QUERY,
    Rows,
    cross_encoder_logits,
    edit,
    fill,
    prompt_logits,
    save,
    small_model,
    small_tokenizer,
)

PAIRS = [(QUERY, document) for document in (*DOCUMENTS, *MORE)]
N_RANKED = len(DOCUMENTS)  # the first of PAIRS, whose scores lie well apart
LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]}
LONG = "a capital of China is Beijing " * 30

PLAIN = (
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") '
    '| first }}\n<Document>: {{ messages | selectattr("role", "eq", "document") '
    '| map(attribute="content") | first }}\n'
)
LOOP = (
    "{%- for message in messages %}\n    {%- if message.role == 'query' %}\nQ: "
    "{{- ' ' ~ message['content'] | trim }}\n{% elif message.role == \"document\" -%}\n"
    "D: {{ message.content | trim }}\n{%- endif %}\n{%- endfor %}\n{{- '\\nRelevant:' }}"
)
INSTRUCTED = (
    '{%- set asked = messages | selectattr("role", "eq", "system") | map(attribute="content") '
    '| first | default("Judge.") -%}<|im_start|>{{ asked }}\n{{ (messages | selectattr("role", '
    '"eq", "query") | first).content }}\nText: {{ (messages | selectattr("role", "equalto", '
    '"document") | first)["content"] }}<|im_end|>\n<think>\n\n</think>\n\n\n'
)
TURNS = (
    '{%- set q = messages | selectattr("role", "eq", "query") | map(attribute="content") | first '
    '-%}{%- set d = messages | selectattr("role", "eq", "document") | map(attribute="content") '
    "| first -%}<|im_start|>system\n{{ q }}<|im_end|>\n<|im_start|>user\n{{ d }}<|im_end|>\n"
    "{%- if add_generation_prompt %}\n<|im_start|>assistant\n{%- endif %}"
)
STRUCTURED = (
    '{%- set q = (messages | selectattr("role", "eq", "query") | first).content[0].text -%}'
    '{{- "Query: " ~ q ~ "\\n" -}}{%- for message in messages -%}{%- if message.role == '
    '"document" -%}{%- for part in message.content -%}{%- if part.type == "text" -%}'
    "{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}{{ eos_token }}"
)


class Made(NamedTuple):
    """A folder and what its own tool makes of PAIRS, in fp32 and in bf16."""

    folder: Path
    logits: Callable[[torch.dtype], Rows]
    options: Mapping[str, Any] = MappingProxyType({})


Case = Callable[[Path], Made]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerankers")


def bare(folder: Path, *, seed: int = 0, template: str | None = None, **changes: Any) -> Path:
    """A causal language model with a reranker's tokenizer, as Transformers saves it."""
    model = small_model("Qwen3ForCausalLM", seed, **changes)
    return save(folder, model, small_tokenizer(adds_end=False, template=template))


def official_prompts(instruction: str = DEFAULT_INSTRUCTION) -> list[str]:
    bodies = [reranker_body(instruction, *pair) for pair in PAIRS]
    return [RERANKER_PREFIX + body + RERANKER_SUFFIX for body in bodies]


def of_transformers(folder: Path, reference: Path | None = None, **options: Any) -> Made:
    """Scored by Transformers with the model cards' prompt."""
    answers = {"answers": ("yes", "no")} | options

    def logits(dtype: torch.dtype) -> Rows:
        return prompt_logits(reference or folder, official_prompts(), dtype, **answers)

    return Made(folder, logits)


def cross_encoder(
    folder: Path, template: str, head: Any = None, *, seed: int = 0, **options: Any
) -> Path:
    """The folder of a CrossEncoder with this chat template, as sentence-transformers saves it."""
    base = bare(folder.with_name(folder.name + " base"), seed=seed, template=template)
    transformer = Transformer(str(base), transformer_task="text-generation")
    ids = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
    modules = [transformer, head or LogitScore(*ids)]
    CrossEncoder(modules=modules, **options).save_pretrained(str(folder), create_model_card=False)
    assert (folder / "chat_template.jinja").read_text() == template
    return folder


def of_st(folder: Path, pairs: Sequence[tuple[str, str]] = PAIRS, **options: Any) -> Made:
    """Scored by sentence-transformers, by what the folder says."""
    return Made(folder, lambda dtype: cross_encoder_logits(folder, pairs, dtype), options)


@case
def bare_language_model(folder: Path) -> Made:
    return of_transformers(bare(folder))


@case
def head_that_is_not_tied(folder: Path) -> Made:
    return of_transformers(bare(folder, seed=1, tie_word_embeddings=False))


@case
def head_stored_though_tied(folder: Path) -> Made:
    bare(folder, seed=2, tie_word_embeddings=False)
    edit(folder / "config.json", tie_word_embeddings=True)
    return of_transformers(folder)


@case
def general_chat_template(folder: Path) -> Made:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content | tojson }}{% endfor %}"
    return of_transformers(bare(folder, seed=3, template=template))


@case
def classifier(folder: Path) -> Made:
    model = small_model("Qwen3ForSequenceClassification", 4, num_labels=1)
    save(folder, model, small_tokenizer(adds_end=False))
    return of_transformers(folder, answers=())


@case
def prefix_of_data_parallel(folder: Path) -> Made:
    reference = bare(folder.with_name("reference"), seed=5, tie_word_embeddings=False)
    shutil.copytree(reference, folder)
    state = safetensors.torch.load_file(reference / "model.safetensors")
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    assert "module.lm_head.weight" in wrapped
    safetensors.torch.save_file(wrapped, folder / "model.safetensors")
    return of_transformers(folder, reference)


@case
def tied_tensors_stored_once_under_the_heads_name(folder: Path) -> Made:
    bare(folder, seed=6)
    model = small_model("Qwen3ForCausalLM", 6).to(torch.bfloat16)
    safetensors.torch.save_model(model, str(folder / "model.safetensors"))
    assert TensorFiles([folder / "model.safetensors"]).by_bare_name().get("lm_head.weight")
    return of_transformers(folder)


@case
def official_cross_encoder(folder: Path) -> Made:
    return of_st(cross_encoder(folder, RERANKER_CHAT_TEMPLATE))


@case
def official_template_in_another_spelling(folder: Path) -> Made:
    template = RERANKER_CHAT_TEMPLATE.replace('"role", "eq"', "'role', 'equalto'")
    return of_st(cross_encoder(folder, template, seed=7))


@case
def instruction_of_its_own(folder: Path) -> Made:
    prompts = {"legal": "Find the clause"}
    made = cross_encoder(
        folder, RERANKER_CHAT_TEMPLATE, seed=28, prompts=prompts, default_prompt_name="legal"
    )
    return of_st(made)


@case
def plain_template(folder: Path) -> Made:
    return of_st(cross_encoder(folder, PLAIN, seed=9))


@case
def template_with_a_loop(folder: Path) -> Made:
    return of_st(cross_encoder(folder, LOOP, seed=10))


@case
def template_with_an_instruction(folder: Path) -> Made:
    return of_st(cross_encoder(folder, INSTRUCTED, seed=11))


@case
def template_with_another_instruction(folder: Path) -> Made:
    prompts = {"ask": "Is it so?"}
    options: dict[str, Any] = {"prompts": prompts, "default_prompt_name": "ask"}
    return of_st(cross_encoder(folder, INSTRUCTED, seed=12, **options))


@case
def template_with_turns(folder: Path) -> Made:
    cross_encoder(folder, TURNS, seed=13)
    variables = {"chat_template": {"add_generation_prompt": True}}
    edit(folder / "sentence_bert_config.json", processing_kwargs=variables)
    return of_st(folder, special_tokens_in_text=True)


@case
def template_with_structured_content(folder: Path) -> Made:
    return of_st(cross_encoder(folder, STRUCTURED, seed=14))


@case
def one_logit(folder: Path) -> Made:
    return of_st(cross_encoder(folder, PLAIN, LogitScore(77), seed=15))


@case
def answers_of_its_own(folder: Path) -> Made:
    return of_st(cross_encoder(folder, PLAIN, LogitScore(78, 80), seed=16))


@case
def classifier_with_a_template(folder: Path) -> Made:
    model = small_model("Qwen3ForSequenceClassification", 17, num_labels=1)
    base = save(
        folder.with_name("classifier base"),
        model,
        small_tokenizer(adds_end=False, template=INSTRUCTED),
    )
    CrossEncoder(str(base)).save_pretrained(str(folder), create_model_card=False)
    return of_st(folder)


@case
def template_in_tokenizer_config(folder: Path) -> Made:
    bare(folder, seed=18)
    edit(folder / "tokenizer_config.json", chat_template=PLAIN)
    return of_st(folder)


@case
def adapter_beside_weights(folder: Path) -> Made:
    cross_encoder(folder, PLAIN, seed=19)
    before = cross_encoder_logits(folder, PAIRS, torch.float32)
    write_adapter(folder, folder)
    after = cross_encoder_logits(folder, PAIRS, torch.float32)
    assert np.abs(after - before).max() > 0.1
    return of_st(folder)


@case
def adapter_alone(folder: Path) -> Made:
    base = bare(folder.with_name("adapted"), seed=20)
    write_adapter(base, folder)
    small_tokenizer(adds_end=False).save_pretrained(folder)
    return of_transformers(folder)


@case
def adapter_alone_with_a_template(folder: Path) -> Made:
    base = bare(folder.with_name("plain"), seed=22)
    write_adapter(base, folder)
    small_tokenizer(adds_end=False, template=PLAIN).save_pretrained(folder)
    tokenizer = small_tokenizer(template=PLAIN)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "query", "content": query}, {"role": "document", "content": document}],
            tokenize=False,
        )
        for query, document in PAIRS
    ]
    return Made(folder, lambda dtype: prompt_logits(folder, prompts, dtype, answers=("yes", "no")))


@case
def transformer_in_a_folder(folder: Path) -> Made:
    base = bare(folder.with_name("inner"), seed=21, template=PLAIN)
    transformer = Transformer(str(base), transformer_task="text-generation")
    transformer.save_in_root = False
    CrossEncoder(modules=[transformer, LogitScore(77, 78)]).save_pretrained(
        str(folder), create_model_card=False
    )
    assert (folder / "0_Transformer" / "chat_template.jinja").exists()
    return of_st(folder)


def write_adapter(base: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(4)  # of lora_A
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **LORA))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)


@pytest.mark.parametrize("name", CASES)
def test_logits(name: str, root: Path) -> None:
    made = CASES[name](root / name)
    exact, rounded = (made.logits(dtype) for dtype in (torch.float32, torch.bfloat16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranker = Reranker(made.folder, **made.options)
    with ranker:
        found = ranker.predict(PAIRS, activation=None)
        order = [entry["corpus_id"] for entry in ranker.rank(QUERY, DOCUMENTS)]
    ours = np.sqrt(np.mean((found - exact) ** 2))
    theirs = np.sqrt(np.mean((rounded - exact) ** 2))
    assert ours <= theirs, f"ours {ours:.5f}, bf16 of Transformers {theirs:.5f}"
    # Documents whose exact logits are nearer than bf16's error have no order of their own.
    assert sorted(order) == list(range(N_RANKED))
    assert (np.diff(exact[order]) <= theirs).all(), exact[order]


def test_there_are_enough() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize("template", [PLAIN, LOOP, INSTRUCTED], ids=["plain", "loop", "control"])
def test_a_long_document_leaves_the_prompt_whole(template: str, tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "m", template)
    edit(folder / "sentence_bert_config.json", max_seq_length=64)
    pairs = [(QUERY, LONG), (QUERY, "tea " + LONG)]
    exact, rounded = (
        cross_encoder_logits(folder, pairs, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    with Reranker(folder) as ranker, pytest.warns(UserWarning, match="2 pairs were cut"):
        found = ranker.predict(pairs, activation=None)
    assert np.abs(found - exact).max() <= 2 * np.abs(rounded - exact).max() + 0.02


def test_instructions(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "m", INSTRUCTED)
    expected = cross_encoder_logits(folder, PAIRS, torch.float32, prompt="Is it so?")
    with Reranker(folder) as ranker:
        found = ranker.predict(PAIRS, activation=None, instruction="Is it so?")
        assert np.abs(found - expected).max() < 0.1
        assert np.abs(ranker.predict(PAIRS, activation=None) - expected).max() > 0.3
    plain = cross_encoder(tmp_path / "plain", PLAIN)
    with Reranker(plain) as ranker, pytest.raises(ValueError, match="no place for an instruction"):
        ranker.predict(PAIRS, instruction="Is it so?")


def test_the_official_prompt_is_recognised(tmp_path: Path) -> None:
    for name, template in (
        ("a", RERANKER_CHAT_TEMPLATE),
        ("b", RERANKER_CHAT_TEMPLATE.replace("query_text", "q")),
    ):
        with Reranker(cross_encoder(tmp_path / name, template)) as ranker:
            assert ranker._prompt == QWEN_PROMPT  # and so the same fingerprint
            assert ranker.body_of("q", "d") == reranker_body(DEFAULT_INSTRUCTION, "q", "d")


def test_fill_is_repeatable() -> None:
    a, b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    fill(a)
    fill(b)
    assert torch.equal(a.weight, b.weight)
