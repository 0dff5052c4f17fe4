"""GGUF files of a model folder, written by the `gguf` package as llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from qwen3_embed.loading.gguf import _OTHERS, _PARTS
from tests.support.reference import read_weights
from tests.support.reference_int8 import Floats, Int8s

NAMES = {theirs: ours for ours, theirs in _OTHERS.items()}
PARTS = {theirs: ours for ours, theirs in _PARTS.items()}


def gguf_name(name: str) -> str:
    if not name.startswith("layers."):
        return NAMES[name]
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"blk.{layer}.{PARTS[part]}.weight"


def make_gguf(
    folder: Path,
    path: Path,
    *,
    pooling: int | None = 3,
    types: dict[str, Type] | None = None,
    answers: tuple[int, ...] | None = None,
    tokenizer: bool = True,
    **entries: Any,
) -> Path:
    """Writes the file; `types` are by tensor, `entries` replace or add metadata (None: leave out).

    With `answers` it has a reranker's head: these rows of the embedding.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("test")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    if tokenizer:
        add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), pooling == 3)
    for key, value in entries.items():
        add_entry(writer, key.replace("__", "."), value)
    weights = read_weights(folder)
    if answers is not None:
        writer.add_classifier_output_labels(["yes", "no"])
        weights["cls.output.weight"] = weights["embed_tokens.weight"][list(answers)]
    for name, values in weights.items():
        kind = (types or {}).get(name, Type.F32 if values.ndim == 1 else Type.Q8_0)
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, content: dict[str, Any], adds_end: bool) -> None:
    tokens = dict.fromkeys(range(max(content["model"]["vocab"].values()) + 1), "")
    types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    tokens |= {i: token for token, i in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = (
            gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokens[i] for i in sorted(tokens)])
    writer.add_token_types([types[i] for i in sorted(tokens)])
    merges = content["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(content["added_tokens"][0]["id"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(adds_end)


def add_entry(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    for entries in writer.kv_data:
        entries.pop(key, None)
    if value is not None:
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))


def blocks_of(path: Path) -> dict[str, tuple[Int8s, Floats]]:
    """The blocks that the `gguf` package reads in a file, by our names."""
    names = {ours: name for name, ours in NAMES.items()}
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type != Type.Q8_0:
            continue
        name = names.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"layers.{layer}.{_PARTS[part]}.weight"
        raw = np.array(tensor.data).reshape(len(tensor.data), -1, 34)
        scales = np.ascontiguousarray(raw[..., :2]).view(np.float16)[..., 0].astype(np.float32)
        values = np.ascontiguousarray(raw[..., 2:]).view(np.int8)
        found[name] = values.reshape(len(raw), -1), scales
    return found
