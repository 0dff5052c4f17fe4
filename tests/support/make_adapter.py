"""Makes LoRA adapters in PEFT's file format, with seeded random weights and NumPy alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.loading.files import find_model
from qwen3_embed.loading.hub_options import HubOptions
from qwen3_embed.loading.tensors import TensorFiles, as_bf16, write_tensors
from tests.support.make_model import write_json
from tests.support.reference import read_weights

PREFIX = "base_model.model."
Tensors = dict[str, npt.NDArray[np.float32]]


def adapter_config(**changes: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT 0.21 writes it; `changes` replace fields."""
    off = """alora_invocation_tokens arrow_config auto_mapping base_model_name_or_path corda_config
    eva_config exclude_modules kasa_config layer_replication layers_pattern layers_to_transform
    lora_ga_config megatron_config modules_to_save monteclora_config revision target_parameters
    task_type trainable_token_indices use_bdlora velora_config"""
    config: dict[str, Any] = dict.fromkeys(off.split())
    config |= {"alpha_pattern": {}, "bias": "none", "fan_in_fan_out": False, "loftq_config": {}}
    config |= {"ensure_weight_tying": False, "inference_mode": True, "init_lora_weights": True}
    config |= {"lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.05, "peft_type": "LORA"}
    config |= {"megatron_core": "megatron.core", "peft_version": "0.21.2", "r": 4}
    config |= {"qalora_group_size": 16, "rank_pattern": {}, "use_dora": False, "use_qalora": False}
    config |= {"use_rslora": False, "target_modules": ["q_proj", "v_proj"]}
    return config | changes


def random_tensors(base: Path, config: dict[str, Any], inner: str = "", seed: int = 1) -> Tensors:
    """lora_A and lora_B, and DoRA's magnitudes, of every target in the base.

    `inner` is "model." where a causal language model was wrapped. The change is about a tenth
    of the weight.
    """
    source = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, weight in read_weights(base).items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in config["target_modules"]:
            continue
        n_out, n_in = weight.shape
        rank = config["rank_pattern"].get(module, config["r"])
        scale = 0.1 * float(weight.std()) / rank**0.5 * rank / config["lora_alpha"]
        path = f"{PREFIX}{inner}{module}"
        tensors[f"{path}.lora_A.weight"] = source.standard_normal((rank, n_in), np.float32)
        b = source.standard_normal((n_out, rank), np.float32) * np.float32(scale)
        tensors[f"{path}.lora_B.weight"] = b
        if config["use_dora"]:
            lengths = np.linalg.norm(weight, axis=1)
            noise = source.uniform(0.8, 1.2, n_out)
            tensors[f"{path}.lora_magnitude_vector"] = (lengths * noise).astype(np.float32)
    return tensors


def write_adapter(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", config)
    layout = {name: ("F32", tensor.shape) for name, tensor in tensors.items()}
    write_tensors(folder / "adapter_model.safetensors", layout, tensors.values())
    return folder


def make_adapter(
    folder: Path, base: Path, *, seed: int = 1, inner: str = "", **changes: Any
) -> Path:
    """An adapter folder for the model in the folder `base`."""
    config = adapter_config(**changes)
    return write_adapter(folder, config, random_tensors(base, config, inner, seed))


def merge_into_copy(base: Path, adapter: Path, folder: Path) -> Path:
    """A copy of the base in `folder` that holds the adapter's tensors instead of its own."""
    shutil.copytree(base, folder)
    changed = Adapter(adapter, "a", find_model(base, HubOptions())).tensors()
    tensors = list(TensorFiles([base / "model.safetensors"]))
    values = [changed.get(t.name, t.stored()) for t in tensors]
    values = [as_bf16(v) if v.dtype == np.float32 else v for v in values]
    layout = {t.name: (t.dtype, t.shape) for t in tensors}
    write_tensors(folder / "model.safetensors", layout, values)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config
