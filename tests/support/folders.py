"""Tiny Qwen3 models, saved by Transformers, sentence-transformers, PEFT and safetensors.

Import it after `pytest.importorskip` of these. Weights are random and rounded to bf16, so that
all programs compute with the same numbers; texts of other words get other vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config

from tests.support.make_model import END_TOKEN, byte_tokenizer, end_token_processor, write_json

VOCABULARY = 448
CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEXTS = ("The capital of China is Beijing.", "Gravity attracts.", "no", "a b c " * 9, "重力")
QUERY = "What is the capital of China?"
DOCUMENTS = ("It is Beijing.", "Gravity is a force.", "A recipe for tea", "Planets", "One two")
MORE = tuple(f"{a} {b}" for a in ("Beijing", "a force", "no tea") for b in ["is", "on", "1.", "it"])

torch.set_num_threads(1)  # the models are so small that more would only wait for each other
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

Rows = npt.NDArray[np.float32]


def small_tokenizer(*, adds_end: bool = True, template: str | None = None) -> Any:
    """A byte-level tokenizer with "yes", "no" and the control tokens of the rerankers' prompt."""
    content = byte_tokenizer(VOCABULARY - len(CONTROL))
    model = content["model"]
    unused = [token for token in model["vocab"] if token.startswith("<unused")][:2]
    for token, parts in zip(("ye", "yes"), (("y", "e"), ("ye", "s")), strict=True):
        model["vocab"][token] = model["vocab"].pop(unused.pop())
        model["merges"].append(list(parts))
    end = content["added_tokens"][0]
    for i, token in enumerate(CONTROL):
        content["added_tokens"].append(end | {"id": end["id"] + 1 + i, "content": token})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    level["use_regex"] = False
    content["post_processor"] = end_token_processor(level, end["id"]) if adds_end else level
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        eos_token=END_TOKEN if adds_end else "<|im_end|>",
        pad_token=END_TOKEN,
        model_max_length=4096,
        chat_template=template,
    )
    tokenizer.padding_side = "left"
    return tokenizer


def small_config(**changes: Any) -> Qwen3Config:
    options: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "pad_token_id": VOCABULARY - 1 - len(CONTROL),
    }
    return Qwen3Config(**options | changes)


def fill(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights of sensible sizes, in bf16's numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                noise = torch.exp(0.3 * noise)
            elif "embed_tokens" not in name and "lm_head" not in name:
                noise /= weight.shape[1] ** 0.5
            weight.copy_(noise.to(torch.bfloat16).float())


def small_model(name: str = "Qwen3Model", seed: int = 0, **changes: Any) -> Any:
    """A model of one of Transformers' classes."""
    model = getattr(transformers, name)(small_config(**changes))
    fill(model, seed)
    return model.eval()


def save(
    folder: Path,
    model: Any,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    **options: Any,
) -> Path:
    """The model's folder as `save_pretrained` writes it, with its tokenizer."""
    model.to(dtype).save_pretrained(folder, **options)
    model.float()
    (tokenizer or small_tokenizer()).save_pretrained(folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, content | changes)


@cache
def plain_folder(root: Path, name: str = "Qwen3Model") -> Path:
    """A bare folder that other models are made from; don't change it."""
    return save(root / f"plain-{name}", small_model(name), small_tokenizer())


def last_token_rows(folder: Path, texts: Sequence[str] = TEXTS, adapter: bool = False) -> Rows:
    """(n, hidden) float32 by Transformers in fp32: the last token's, normalised."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            rows.append(model(ids).last_hidden_state[0, -1])
    found: Rows = torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()
    return found


def sentence_transformer_rows(folder: Path, texts: Sequence[str] = TEXTS) -> Rows:
    """(n, hidden) float32 by sentence-transformers in fp32, normalised."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder), model_kwargs={"dtype": torch.float32}, local_files_only=True
    )
    rows: Rows = model.encode(list(texts), normalize_embeddings=True, batch_size=1)
    return rows


def cross_encoder_logits(
    folder: Path, pairs: Sequence[tuple[str, str]], dtype: torch.dtype, **options: Any
) -> Rows:
    """(n,) logits by sentence-transformers' CrossEncoder."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), model_kwargs={"dtype": dtype}, local_files_only=True)
    identity = torch.nn.Identity()
    found: Rows = model.predict(list(pairs), activation_fn=identity, batch_size=1, **options)
    return found


def prompt_logits(
    folder: Path, prompts: Sequence[str], dtype: torch.dtype, *, answers: Sequence[str] = ()
) -> Rows:
    """(n,) logits by Transformers for whole prompts: of a classifier, or of yes minus no."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    name = "AutoModelForCausalLM" if answers else "AutoModelForSequenceClassification"
    model = getattr(transformers, name).from_pretrained(folder, dtype=dtype).eval()
    found = []
    with torch.no_grad():
        for prompt in prompts:
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            logits = model(torch.tensor([ids])).logits.float()
            if answers:
                yes, no = tokenizer.convert_tokens_to_ids(list(answers))
                found.append(float(logits[0, -1, yes] - logits[0, -1, no]))
            else:
                found.append(float(logits[0, 0]))
    return np.array(found, np.float32)
