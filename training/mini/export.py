"""Checkpoint and tokenizer -> a model folder in the official layout.

python -m training.mini.export --checkpoint FOLDER --tokenizer tokenizer.json --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from training.mini.checkpoint import read_weights
from training.mini.data import DEFAULT_TASK, prompted
from training.mini.model import Shape

MAX_BYTES = 20_000_000


def config(shape: Shape, end: int) -> dict[str, object]:
    """Return config.json with the official fields."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "max_window_layers": shape.num_hidden_layers,
        "model_type": "qwen3",
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab_size,
    }


def shape_of(state: dict[str, Tensor]) -> Shape:
    """Read the model's shape off its tensors."""
    vocab_size, hidden = state["embed_tokens.weight"].shape
    return Shape(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=state["layers.0.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=1 + max(int(n.split(".")[1]) for n in state if n.startswith("layers.")),
        num_attention_heads=state["layers.0.self_attn.q_proj.weight"].shape[0] // 128,
        num_key_value_heads=state["layers.0.self_attn.k_proj.weight"].shape[0] // 128,
    )


def export(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write every file of the model folder and check its size."""
    state = read_weights(checkpoint)
    shape = shape_of(state)
    hidden = shape.hidden_size
    words = json.loads(tokenizer.read_text("utf-8"))
    end = next(t["id"] for t in words["added_tokens"] if t["content"] == "<|endoftext|>")
    out.mkdir(parents=True, exist_ok=True)
    (out / "1_Pooling").mkdir(exist_ok=True)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(tokenizer, out / "tokenizer.json")
    files: dict[str, object] = {
        "config.json": config(shape, end),
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(end): {
                    "content": "<|endoftext|>",
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
            },
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "errors": "replace",
            "model_max_length": shape.max_position_embeddings,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": prompted(DEFAULT_TASK, ""), "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.models.Pooling",
            },
            {
                "idx": 2,
                "name": "2",
                "path": "2_Normalize",
                "type": "sentence_transformers.models.Normalize",
            },
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if n_bytes > MAX_BYTES:
        raise ValueError(f"{out}: {n_bytes} bytes, expected at most {MAX_BYTES}")
    print(f"{out}: {n_bytes} bytes")


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    export(args.checkpoint, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
