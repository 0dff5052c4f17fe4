"""Reads config.json into the few numbers that the engine computes with.

A setting that the engine would compute wrongly is refused here by name. Keys that name code to
run (auto_map and the like) are never read.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError, ModelNotFoundError
from .foreign import refuse_lfs_pointer
from .schemes import check_int8_config

__all__ = ["Kind", "ModelConfig", "parse_config", "read_json", "read_object"]

Kind = Literal["embedder", "reranker"]
"""The class that a model is opened as."""

_ARCHITECTURES: dict[Kind, tuple[str, ...]] = {
    "embedder": ("Qwen3ForCausalLM", "Qwen3Model"),
    "reranker": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
}

_ROPE_KEYS = {
    "default": frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"}),
    "yarn": frozenset(
        {
            "rope_type",
            "type",
            "rope_theta",
            "partial_rotary_factor",
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class ModelConfig:
    """The shape of a Qwen3 model.

    Attributes
    ----------
    hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim, vocab_size : int
    max_length : int
        The longest sequence that the model was made for, in tokens.
    rms_norm_eps : float
    rope_scale : float
        Factor of cos and sin; 1 without YaRN.
    rope_inv_freq : ndarray
        (head_dim / 2,) float32, radians per position.
    """

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_length: int
    rms_norm_eps: float
    rope_scale: float
    rope_inv_freq: npt.NDArray[np.float32]

    def for_engine(self, max_length: int) -> dict[str, Any]:
        """The dict for `_core.Engine`, with the longest sequence that it will accept."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"max_length": max_length}


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: Path, max_bytes: int = 1 << 20) -> Any:
    """Parses a JSON file: UTF-8, no duplicate keys, no NaN, of a bounded size.

    Raises
    ------
    ModelNotFoundError
        The file doesn't exist or can't be read.
    ModelFileError
        The file is too large, or not such JSON.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path} is not a regular file")
            text = f.read(max_bytes + 1)
    except OSError as error:
        raise ModelNotFoundError(f"{path} can't be read: {error.strerror}") from error
    if len(text) > max_bytes:
        raise ModelFileError(f"{path} has {status.st_size} bytes, expected at most {max_bytes}")
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        refuse_lfs_pointer(path)
        raise ModelFileError(
            f"{path} is not valid JSON ({error}); it may be cut short: fetch it again"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in an optional JSON file; {} without the file.

    Raises
    ------
    ModelFileError
        It is damaged, or holds something else.
    """
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


class _Fields:
    """A JSON object with checked access to its members; errors name the file and the key."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content = content
        self.where = where

    def refuse(self, key: str, expected: str) -> ModelFileError:
        found = json.dumps(self.content[key]) if key in self.content else "missing"
        return ModelFileError(f"{self.where}: {key} is {found:.200}, expected {expected}")

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.content.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(key, f"an integer in {low}..{high}")
        return value

    def real(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.content.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(key, "a number")
        if not low <= value <= high:
            raise self.refuse(key, f"a number in {low:g}..{high:g}")
        return float(value)

    def one_of(self, key: str, allowed: tuple[Any, ...], why: str) -> None:
        """Checks that the key is missing, null, or one of `allowed`."""
        value = self.content.get(key)
        if value is not None and not any(
            type(value) is type(good) and value == good for good in allowed
        ):
            raise self.refuse(key, why)


def _refuse_what_we_compute_wrongly(fields: _Fields, kind: Kind) -> None:
    if fields.content.get("model_type") != "qwen3":
        raise fields.refuse("model_type", '"qwen3"')
    architectures = fields.content.get("architectures")
    if architectures is not None and (
        not isinstance(architectures, list)
        or any(name not in _ARCHITECTURES[kind] for name in architectures)
    ):
        known = " or ".join(_ARCHITECTURES[kind])
        raise fields.refuse("architectures", f"{known} to be opened as {kind}")
    fields.one_of("hidden_act", ("silu",), '"silu": no other activation is built')
    fields.one_of("attention_bias", (False,), "false: projections with biases aren't built")
    fields.one_of("mlp_bias", (False,), "false: projections with biases aren't built")
    fields.one_of("is_causal", (True,), "true: only causal attention is built")
    fields.one_of("use_bidirectional_attention", (False,), "false: only causal attention is built")
    fields.one_of("partial_rotary_factor", (1, 1.0), "1: the whole head is rotated")
    if fields.content.get("quantization_config") is not None:
        check_int8_config(fields.content["quantization_config"], fields.where)
    fields.one_of("use_sliding_window", (True, False), "true or false")
    if fields.content.get("use_sliding_window") and fields.content.get("sliding_window"):
        raise fields.refuse("use_sliding_window", "false: sliding windows aren't built")
    layer_types = fields.content.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or any(t != "full_attention" for t in layer_types)
    ):
        raise fields.refuse("layer_types", '"full_attention" only: no other attention is built')


def _head_dim(fields: _Fields, hidden_size: int, n_heads: int) -> int:
    # Without the key, transformers takes 128 and other programs take hidden_size / n_heads.
    if fields.content.get("head_dim") is None and hidden_size != 128 * n_heads:
        raise fields.refuse("head_dim", "an even integer; add it to config.json")
    head_dim = 128 if fields.content.get("head_dim") is None else fields.integer("head_dim", 2, 512)
    if head_dim % 2:
        raise fields.refuse("head_dim", "an even integer")
    return head_dim


def _rope_fields(fields: _Fields) -> tuple[str, _Fields]:
    """The type of RoPE and its own keys, from either of the two spellings in use."""
    scaling, parameters = (fields.content.get(k) for k in ("rope_scaling", "rope_parameters"))
    key = "rope_parameters" if scaling is None else "rope_scaling"
    if scaling is not None and parameters is not None and scaling != parameters:
        raise fields.refuse("rope_scaling", "the same as rope_parameters, or one of the two")
    found = fields.content.get(key) or {}
    if not isinstance(found, dict):
        raise fields.refuse(key, "an object")
    rope = dict(found)
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = fields.content.get("rope_theta")
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in _ROPE_KEYS:
        raise fields.refuse(key, f"a rope_type of {' or '.join(_ROPE_KEYS)}")
    for name in rope:
        if name not in _ROPE_KEYS[rope_type]:
            raise fields.refuse(key, f"no {name!r} with rope_type {rope_type}")
    of_rope = _Fields(rope, f"{fields.where}: {key}")
    of_rope.one_of("partial_rotary_factor", (1, 1.0), "1: the whole head is rotated")
    return rope_type, of_rope


def _wavelengths(theta: float, head_dim: int) -> npt.NDArray[np.float32]:
    """(head_dim / 2,) float32: theta^(2i / head_dim), rounded where Transformers rounds.

    The power is taken in double and rounded once: the float32 power of NumPy depends on the
    machine's instruction set, and the same text must give the same bits.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.power(float(theta), exponents.astype(np.float64)).astype(np.float32)


def _yarn(
    rope: _Fields, theta: float, head_dim: int, max_positions: int
) -> tuple[npt.NDArray[np.float32], float]:
    """YaRN as Transformers computes it: the same for texts of any length."""
    factor = rope.real("factor", 1.0, 1e6)
    original = max_positions
    if rope.content.get("original_max_position_embeddings") is not None:
        original = rope.integer("original_max_position_embeddings", 1, 1 << 24)
    beta_fast = rope.real("beta_fast", 0.0, 1e6, default=32.0) or 32.0
    beta_slow = rope.real("beta_slow", 0.0, 1e6, default=1.0) or 1.0
    rope.one_of("truncate", (True, False), "true or false")

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0

    mscale, mscale_all = (rope.real(k, 0.0, 1e3, default=0.0) for k in ("mscale", "mscale_all_dim"))
    inferred = magnitude(1.0)
    if mscale and mscale_all:
        inferred = magnitude(mscale) / magnitude(mscale_all)
    scale = rope.real("attention_factor", 0.0, 1e3, default=inferred)

    def correction_dim(rotations: float) -> float:
        turns = math.log(original / (rotations * 2 * math.pi))
        return head_dim * turns / (2 * math.log(theta))

    low, high = correction_dim(beta_fast), correction_dim(beta_slow)
    if rope.content.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    steps = np.arange(head_dim // 2, dtype=np.float32)
    ramp = np.clip((steps - np.float32(low)) / np.float32(high - low), np.float32(0), np.float32(1))
    wavelengths = _wavelengths(theta, head_dim)
    one = np.float32(1)
    kept = one - ramp
    inv_freq = one / (np.float32(factor) * wavelengths) * (one - kept) + one / wavelengths * kept
    return inv_freq, scale


def parse_config(content: Any, where: str, kind: Kind = "embedder") -> ModelConfig:
    """Checks the content of a config.json.

    Parameters
    ----------
    content : dict
        The parsed file.
    where : str
        The name of the file in error messages.
    kind : Kind

    Returns
    -------
    ModelConfig

    Raises
    ------
    ModelFileError
        A field is missing or out of range, or names something that the engine doesn't compute.
    """
    if not isinstance(content, dict):
        raise ModelFileError(f"{where} holds a {type(content).__name__}, expected an object")
    fields = _Fields(content, where)
    _refuse_what_we_compute_wrongly(fields, kind)
    hidden_size = fields.integer("hidden_size", 1, 32768)
    n_heads = fields.integer("num_attention_heads", 1, 1024)
    n_kv_heads = fields.integer("num_key_value_heads", 1, n_heads)
    if n_heads % n_kv_heads:
        raise fields.refuse("num_key_value_heads", f"a divisor of num_attention_heads {n_heads}")
    head_dim = _head_dim(fields, hidden_size, n_heads)
    max_length = fields.integer("max_position_embeddings", 1, 1 << 24)
    rope_type, rope = _rope_fields(fields)
    theta = rope.real("rope_theta", 1.0, 1e12)
    if theta == 1.0:
        raise rope.refuse("rope_theta", "a number above 1")
    if rope_type == "yarn":
        inv_freq, rope_scale = _yarn(rope, theta, head_dim, max_length)
    else:
        inv_freq, rope_scale = np.float32(1) / _wavelengths(theta, head_dim), 1.0
    return ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 1, 1 << 18),
        n_layers=fields.integer("num_hidden_layers", 1, 256),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=fields.integer("vocab_size", 1, 1_000_000),
        max_length=max_length,
        rms_norm_eps=fields.real("rms_norm_eps", 1e-12, 1.0),
        rope_scale=rope_scale,
        rope_inv_freq=inv_freq,
    )
