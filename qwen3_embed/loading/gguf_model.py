"""From a GGUF file's metadata to what config.json and tokenizer.json say of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from .config import Kind, read_json
from .gguf import Gguf

__all__ = ["check_tokenizer", "config_of", "find_gguf", "tokenizer_json"]

_LAST, _RANK = 3, 4  # of pooling_type
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_YARN = {
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "attention_factor": "rope.scaling.attn_factor",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
_CHECKED = frozenset(
    {
        *_SIZES.values(),
        *_YARN.values(),
        "attention.causal",
        "attention.value_length",
        "classifier.output_labels",
        "pooling_type",
        "rope.dimension_count",
        "rope.scaling.finetuned",
        "rope.scaling.type",
        "vocab_size",
    }
)
# Token types of llama.cpp.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
# Of Qwen2's and Qwen3's tokenizer.json, which "qwen2" stands for.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MAX_TOKENIZER_BYTES = 64 << 20


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that a path names: itself, or the only one of a folder without others' weights.

    Raises
    ------
    ModelFileError
        A folder of several.
    """
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if any(file.suffix == ".safetensors" for file in path.iterdir()) or not found:
        return None
    if len(found) > 1:
        raise ModelFileError(
            f"{str(path)!r} holds {len(found)} GGUF files, such as {found[0].name}: pass the path "
            f"of one"
        )
    return found[0]


def config_of(gguf: Gguf, kind: Kind) -> dict[str, Any]:
    """The content of a config.json, for `parse_config`.

    Raises
    ------
    ModelFileError
        The file is of the other kind, or says something that the engine doesn't compute.
    """
    own = {
        key.removeprefix("qwen3."): value
        for key, value in gguf.metadata.items()
        if key.startswith("qwen3.")
    }

    def refuse(key: str, expected: str) -> ModelFileError:
        return ModelFileError(
            f"{gguf.path}: qwen3.{key} is {json.dumps(own.get(key)):.120}, expected {expected}"
        )

    for key in sorted(own.keys() - _CHECKED):
        raise refuse(key, "no such setting, which isn't known here")
    pooling = own.get("pooling_type")
    if kind == "embedder" and pooling not in (None, _LAST):
        other = ": this is a reranker, open it as a Reranker" if pooling == _RANK else ""
        raise refuse("pooling_type", f"{_LAST}, the last token{other}")
    if kind == "reranker" and pooling not in (None, 0, _RANK):
        raise refuse("pooling_type", f"{_RANK}: this is an embedding model, open it as an Embedder")
    if own.get("attention.causal", True) is not True:
        raise refuse("attention.causal", "true: only causal attention is built")
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key) not in (None, own.get("attention.key_length")):
            raise refuse(key, "that of attention.key_length")
    if own.get("classifier.output_labels") not in (None, ["yes", "no"]):
        raise refuse("classifier.output_labels", '["yes", "no"]')
    embedding = gguf.places.get("embed_tokens.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFileError(f"{gguf.path}: token_embd.weight is missing: fetch the file again")
    content = {name: own.get(key) for name, key in _SIZES.items()}
    content |= {"model_type": "qwen3", "vocab_size": embedding.shape[0]}
    scaling = own.get("rope.scaling.type", "none")
    if scaling == "yarn":
        yarn = {name: own[key] for name, key in _YARN.items() if key in own}
        content["rope_scaling"] = {"rope_type": "yarn", **yarn}
    elif scaling != "none":
        raise refuse("rope.scaling.type", '"none" or "yarn"')
    return content


def _entry(gguf: Gguf, name: str, kind: type, default: Any = None) -> Any:
    key = f"tokenizer.ggml.{name}"
    value = gguf.metadata.get(key, default)
    if type(value) is not kind:
        raise ModelFileError(
            f"{gguf.path}: {key} is {type(value).__name__}, expected {kind.__name__}"
        )
    return value


def _tokens(gguf: Gguf) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types, and merges."""
    model, pre = (_entry(gguf, name, str, "") for name in ("model", "pre"))
    if model != "gpt2" or pre != "qwen2":
        raise ModelFileError(
            f"{gguf.path}: the tokenizer is {model!r:.60} with {pre!r:.60}, expected 'gpt2' with "
            f"'qwen2'; put the model's tokenizer.json beside it"
        )
    tokens, types, merges = (_entry(gguf, n, list) for n in ("tokens", "token_type", "merges"))
    for values, kind in ((tokens, str), (types, int), (merges, str)):
        if not all(type(value) is kind for value in values):
            raise ModelFileError(f"{gguf.path}: the tokenizer's lists hold values of other types")
    known = {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED}
    if len(types) != len(tokens) or not known.issuperset(types):
        raise ModelFileError(
            f"{gguf.path}: {len(types)} token types for {len(tokens)} tokens, expected one each of "
            f"{sorted(known)}"
        )
    return tokens, types, merges


def tokenizer_json(gguf: Gguf) -> str:
    """The content of a tokenizer.json with the file's tokenizer.

    Raises
    ------
    ModelFileError
        Another tokenizer than Qwen's.
    """
    path = gguf.path
    tokens, types, merges = _tokens(gguf)
    level = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False,
    }  # fmt: skip
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": token, "special": kind == _CONTROL, **flags}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    post: dict[str, Any] = level
    if _entry(gguf, "add_eos_token", bool, False):
        end_id = _entry(gguf, "eos_token_id", int)
        if not 0 <= end_id < len(tokens):
            raise ModelFileError(f"{path}: tokenizer.ggml.eos_token_id is {end_id}, which is none")
        end = tokens[end_id]
        single = [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": end, "type_id": 0}},
        ]
        template = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}, single[1]],
            "special_tokens": {end: {"id": end, "ids": [end_id], "tokens": [end]}},
        }
        post = {"type": "Sequence", "processors": [level, template]}
    if _entry(gguf, "add_bos_token", bool, False):
        raise ModelFileError(f"{path}: tokenizer.ggml.add_bos_token is true, expected false")
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": post,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {
                token: i
                for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
                if kind == _NORMAL
            },
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False)


def check_tokenizer(gguf: Gguf, path: Path) -> None:
    """Checks that a tokenizer.json beside the file is of the same model.

    Raises
    ------
    ModelFileError
        Other tokens or merges.
    """
    if "tokenizer.ggml.tokens" not in gguf.metadata:
        return
    tokens, merges = (_entry(gguf, name, list) for name in ("tokens", "merges"))
    content = read_json(path, _MAX_TOKENIZER_BYTES)
    model = content.get("model") if isinstance(content, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocab, dict):
        raise ModelFileError(f"{path}: model.vocab is expected to map tokens to ids")
    pairs = [m if isinstance(m, str) else " ".join(map(str, m)) for m in model.get("merges") or ()]
    added = content.get("added_tokens") or ()
    ids = vocab | {t["content"]: t["id"] for t in added if isinstance(t, dict) and "id" in t}
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < len(tokens) or tokens[i] != token:
            found = repr(tokens[i]) if type(i) is int and 0 <= i < len(tokens) else "none"
            raise ModelFileError(
                f"{path}: the token {i} is {token!r:.60}, and {found:.60} in {gguf.path.name}: "
                f"expected the tokenizer of the same model"
            )
    if pairs != merges:
        raise ModelFileError(
            f"{path} has other merges than {gguf.path.name}, expected the tokenizer of the same "
            f"model"
        )
