"""Makes a model folder of an exact shape with seeded random weights.

The folder has the official names and layout, so the engine, Transformers and
sentence-transformers all load it. Needs NumPy only and writes the weights as a stream:
an 8B model takes 15 GB of disk but a few megabytes of memory.

The weights are random but behave like a trained network's: see `weight_scale`.

    python -m tests.support.make_model FOLDER --shape 0.6B
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

END_TOKEN = "<|endoftext|>"
DEFAULT_QUERY_PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
QWEN3_TOKENIZER = Path(__file__).parents[1] / "data" / "qwen3-tokenizer"

# hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary, positions
SHAPES: dict[str, tuple[int, int, int, int, int, int, int, int]] = {
    "0.6B": (1024, 3072, 28, 16, 8, 128, 151669, 32768),
    "4B": (2560, 9728, 36, 32, 8, 128, 151665, 40960),
    "8B": (4096, 12288, 36, 32, 8, 128, 151665, 40960),
    "tiny64": (128, 192, 3, 4, 2, 64, 320, 4096),
    "tiny128": (192, 320, 3, 8, 2, 128, 320, 4096),
    "odd64": (72, 100, 3, 3, 3, 64, 320, 4096),  # no size a multiple of 32; one head per group
    "odd128": (104, 136, 2, 8, 1, 128, 320, 4096),  # eight heads per group
    "small": (256, 768, 6, 4, 2, 128, 320, 4096),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
OFFICIAL = ("0.6B", "4B", "8B")

EMBED_SCALE = 0.03
RESIDUAL_GROWTH = 256.0  # of the mean square, from the first layer to the last
MAX_LAYER_SHARE = 1.2
CHUNK = 1 << 22  # elements generated at a time


def config_of(shape: str, *, lm_head: bool = False, **changes: Any) -> dict[str, Any]:
    """config.json of a shape, in the official spelling; `changes` replace fields."""
    hidden, inter, layers, heads, kv_heads, head_dim, vocab, positions = SHAPES[shape]
    end = 151643 if shape in OFFICIAL else vocab - 1
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inter,
        "max_position_embeddings": positions,
        "max_window_layers": layers,
        "model_type": "qwen3",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": not lm_head,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab,
    }
    return config | changes


def tensor_shapes(
    config: dict[str, Any], *, prefix: str = "", lm_head: bool = False
) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and shape, by name: the order of the official files."""
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    vocab, head_dim = config["vocab_size"], config["head_dim"]
    q_width = config["num_attention_heads"] * head_dim
    kv_width = config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embed_tokens.weight": (vocab, hidden),
        f"{prefix}norm.weight": (hidden,),
    }
    if lm_head:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}layers.{i}."
        shapes |= {
            f"{layer}input_layernorm.weight": (hidden,),
            f"{layer}mlp.down_proj.weight": (hidden, inter),
            f"{layer}mlp.gate_proj.weight": (inter, hidden),
            f"{layer}mlp.up_proj.weight": (inter, hidden),
            f"{layer}post_attention_layernorm.weight": (hidden,),
            f"{layer}self_attn.k_norm.weight": (head_dim,),
            f"{layer}self_attn.k_proj.weight": (kv_width, hidden),
            f"{layer}self_attn.o_proj.weight": (hidden, q_width),
            f"{layer}self_attn.q_norm.weight": (head_dim,),
            f"{layer}self_attn.q_proj.weight": (q_width, hidden),
            f"{layer}self_attn.v_proj.weight": (kv_width, hidden),
        }
    return dict(sorted(shapes.items()))


def weight_scale(name: str, config: dict[str, Any]) -> float:
    """Standard deviation of a matrix, so that activations have sensible sizes.

    A normed row has mean square 1, so 1/sqrt(C) gives q, k, v, gate and up a deviation
    of 1. Each block adds a fixed share of the residual stream, chosen so that its mean
    square grows 256-fold over all layers. 0.4 and 0.6 are the sizes that attention
    (about six keys in effect) and swiglu (of two unit normals) leave.
    """
    n_layers = config["num_hidden_layers"]
    growth = RESIDUAL_GROWTH ** (1.0 / n_layers)
    share = min(MAX_LAYER_SHARE, float(np.sqrt((growth - 1.0) / 2.0)))
    if "embed_tokens" in name or "lm_head" in name:
        return EMBED_SCALE
    layer = int(name.split("layers.")[1].split(".")[0])
    residual = EMBED_SCALE * (1.0 + 2.0 * share * share) ** (layer / 2.0)
    if "o_proj" in name:
        width = config["num_attention_heads"] * config["head_dim"]
        return share * residual / (0.4 * float(np.sqrt(width)))
    if "down_proj" in name:
        return share * residual / (0.6 * float(np.sqrt(config["intermediate_size"])))
    return 1.0 / float(np.sqrt(config["hidden_size"]))


def norm_centre(name: str) -> float:
    """Median of a norm's weights, which spread as exp(0.3 z).

    1.5 for q and k gives scores a deviation of about 2.5, so that attention is neither
    uniform nor a choice of one key, and RoPE and the head map decide the result.
    """
    if "q_norm" in name or "k_norm" in name:
        return 1.5
    return 1.0 if "layers." in name else 3.0


@cache
def normal_quantiles() -> npt.NDArray[np.float32]:
    """(65536) equally likely values of a unit normal: a draw is a random index."""
    inverse = statistics.NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / 65536) for i in range(65536)], np.float32)


def bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper halves of finite floats, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def as_dtype(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Values as stored: little-endian bf16 (as uint16), f16 or f32."""
    if dtype == "bf16":
        return bf16_bits(values)
    return values.astype({"f16": np.float16, "f32": np.float32}[dtype])


def tensor_chunks(
    name: str, n_elements: int, config: dict[str, Any], seed: int, dtype: str
) -> Iterator[npt.NDArray[Any]]:
    """The tensor in pieces. Depends on its bare name and the seed, not on the layout."""
    bare = name.removeprefix("model.")
    source = np.random.PCG64([seed, zlib.crc32(bare.encode())])
    if name.endswith("norm.weight"):
        table = norm_centre(bare) * np.exp(np.float32(0.3) * normal_quantiles())
    else:
        table = np.float32(weight_scale(bare, config)) * normal_quantiles()
    stored = as_dtype(table.astype(np.float32), dtype)
    for begin in range(0, n_elements, CHUNK):
        n = min(CHUNK, n_elements - begin)
        draws = source.random_raw(-(-n // 4)).astype("<u8", copy=False).view("<u2")
        yield stored[draws[:n]]


def write_safetensors(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    config: dict[str, Any],
    seed: int,
    dtype: str,
    misalign: int,
) -> int:
    """Writes one file as a stream; returns the bytes of tensor data in it."""
    item_bytes = {"bf16": 2, "f16": 2, "f32": 4}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + item_bytes * int(np.prod(shape))
        header[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + misalign)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            write_tensor(file, name, int(np.prod(shape)), config, seed, dtype)
    return offset


def write_tensor(
    file: BinaryIO, name: str, n_elements: int, config: dict[str, Any], seed: int, dtype: str
) -> None:
    for chunk in tensor_chunks(name, n_elements, config, seed, dtype):
        file.write(chunk.data)


def split_shards(
    shapes: dict[str, tuple[int, ...]], n_shards: int
) -> list[dict[str, tuple[int, ...]]]:
    """Consecutive tensors in n files of about equal size."""
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(n_shards)]
    seen = 0
    for name, shape in shapes.items():
        shards[min(n_shards - 1, seen * n_shards // total)][name] = shape
        seen += int(np.prod(shape))
    return shards


def byte_alphabet() -> list[str]:
    """The printable stand-in of each byte in byte-level BPE, as GPT-2 defined it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    stand_in = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [stand_in[b] for b in range(256)]


def byte_tokenizer(vocab_size: int) -> dict[str, Any]:
    """tokenizer.json of a small byte-level BPE: 256 bytes, some merges, the end token."""
    alphabet = byte_alphabet()
    space = alphabet[32]
    words = ["the", "in", "er", "an", "on", "at", "or", "re", f"{space}t", f"{space}a"]
    letters = "etaoinshrdlu"
    words += [a + b for a in letters for b in letters]
    tokens, merges = list(alphabet), []
    for word in words:
        pair = [word[:-1], word[-1]]
        if len(tokens) < vocab_size - 1 and word not in tokens and pair[0] in tokens:
            tokens.append(word)
            merges.append(pair)
    tokens += [f"<unused{i}>" for i in range(vocab_size - 1 - len(tokens))]
    end_id = vocab_size - 1
    end = {"id": end_id, "content": END_TOKEN, "special": True, "normalized": False}
    end |= {"single_word": False, "lstrip": False, "rstrip": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": level | {"use_regex": True},
        "post_processor": end_token_processor(level | {"use_regex": False}, end_id),
        "decoder": level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def end_token_processor(byte_level: dict[str, Any], end_id: int) -> dict[str, Any]:
    """The post-processor that the embedding repositories added: text, then the end token."""
    end = {"SpecialToken": {"id": END_TOKEN, "type_id": 0}}
    first, second = ({"Sequence": {"id": s, "type_id": 0}} for s in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {END_TOKEN: {"id": END_TOKEN, "ids": [end_id], "tokens": [END_TOKEN]}},
    }
    return {"type": "Sequence", "processors": [byte_level, template]}


def qwen3_tokenizer() -> dict[str, Any]:
    """The real Qwen3 tokenizer with the embedding models' post-processor."""
    with lzma.open(QWEN3_TOKENIZER / "tokenizer.json.xz", "rt", encoding="utf-8") as file:
        tokenizer: dict[str, Any] = json.load(file)
    tokenizer["post_processor"] = end_token_processor(tokenizer["post_processor"], 151643)
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def write_text_files(folder: Path, config: dict[str, Any], tokenizer: str) -> None:
    """Everything but the weights."""
    write_json(folder / "config.json", config)
    real = tokenizer == "qwen3"
    write_json(
        folder / "tokenizer.json",
        qwen3_tokenizer() if real else byte_tokenizer(config["vocab_size"]),
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "eos_token": "<|im_end|>" if real else END_TOKEN,
            "pad_token": END_TOKEN,
            "model_max_length": 131072,
            "split_special_tokens": False,
            "unk_token": None,
            "tokenizer_class": "Qwen2Tokenizer" if real else "PreTrainedTokenizerFast",
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": DEFAULT_QUERY_PROMPT, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    modes = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": config["hidden_size"],
            **{f"pooling_mode_{mode}": mode == "lasttoken" for mode in modes},
            "include_prompt": True,
        },
    )


def make_model(
    folder: Path | str,
    shape: str = "tiny64",
    *,
    seed: int = 0,
    tokenizer: str | None = None,
    prefix: str = "",
    dtype: str = "bf16",
    shards: int = 1,
    lm_head: bool = False,
    misalign: int = 0,
    **changes: Any,
) -> Path:
    """Writes a model folder and returns it.

    Parameters
    ----------
    shape : a name in `SHAPES`.
    tokenizer : "qwen3" (the real one) or "byte"; by default what fits the shape.
    prefix : "" as in the embedding repositories, "model." as in the rerankers'.
    dtype : "bf16", "f16" or "f32".
    shards : number of weight files; more than one comes with an index.
    lm_head : also write an untied lm_head.weight.
    misalign : spaces added to the header, so that tensors lie at odd addresses.
    changes : fields of config.json to replace, such as num_hidden_layers=2.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape, lm_head=lm_head, **changes)
    write_text_files(folder, config, tokenizer or ("qwen3" if shape in OFFICIAL else "byte"))
    shapes = tensor_shapes(config, prefix=prefix, lm_head=lm_head)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", shapes, config, seed, dtype, misalign)
        return folder
    weight_map: dict[str, str] = {}
    total = 0
    for i, part in enumerate(split_shards(shapes, shards), start=1):
        name = f"model-{i:05}-of-{shards:05}.safetensors"
        total += write_safetensors(folder / name, part, config, seed, dtype, misalign)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a model folder with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="tiny64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", choices=("byte", "qwen3"), default=None)
    parser.add_argument("--prefix", choices=("", "model."), default="")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--lm-head", action="store_true")
    arguments = vars(parser.parse_args())
    print(make_model(arguments.pop("folder"), arguments.pop("shape"), **arguments))


if __name__ == "__main__":
    main()
