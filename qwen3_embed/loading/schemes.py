"""Precisions: the dtypes of an engine, and the quantised weights that a folder may hold.

Of compressed-tensors' many schemes one is built: "int-quantized" W8A8, int8 weights with one
symmetric scale per row and activations quantised while they are computed. All others are refused
by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError

__all__ = ["DTYPES", "INT8_CONFIG", "check_int8_config", "choose_dtype"]

DTYPES = ("bfloat16", "float8", "int8", "int8-weights")

_WEIGHTS: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "channel",
    "group_size": None,
    "dynamic": False,
    "block_structure": None,
    "actorder": None,
}
_ACTIVATIONS: dict[str, Any] = _WEIGHTS | {"strategy": "token", "dynamic": True}
_GROUP = {
    "targets": ["Linear"],
    "weights": _WEIGHTS,
    "input_activations": _ACTIVATIONS,
    "output_activations": None,
    "format": "int-quantized",
}
INT8_CONFIG: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {"group_0": _GROUP},
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
}
"""`quantization_config` of the folders that `quantize` writes."""

# How the other tool found the scales, and its version: of no effect on what is stored.
_FREE = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})
_FREE_AT_TOP = frozenset(
    {
        "version",
        "global_compression_ratio",
        "ignore",
        "config_groups",
        "quantization_status",
        "sparsity_config",
    }
)
_EMPTY: tuple[Any, ...] = (None, {}, [], False)
_IGNORED = frozenset({"lm_head", "re:.*lm_head", "score"})


def choose_dtype(dtype: str, stored: str | None) -> str:
    """The dtype of the engine for a caller's `dtype=`.

    Parameters
    ----------
    dtype : str
        "auto" or one of `DTYPES`.
    stored : str or None
        That of the files' quantised weights; None: they are floats.

    Raises
    ------
    ValueError
        The files' weights can't be computed with in that dtype.
    """
    if dtype == "auto":
        return stored or DTYPES[0]
    if stored is not None and dtype != stored:
        raise ValueError(
            f"dtype={dtype!r}, but the model's weights are stored as {stored}: expected 'auto' or "
            f"{stored!r}, or the original model"
        )
    return dtype


def check_int8_config(content: Any, where: str) -> None:
    """Checks a `quantization_config`; the scheme that passes is W8A8.

    Raises
    ------
    ModelFileError
        Another method or scheme, by the name of the setting that differs.
    """
    where = f"{where}: quantization_config"
    _check(content, {k: v for k, v in INT8_CONFIG.items() if k not in _FREE_AT_TOP}, where)
    status, sparsity = content.get("quantization_status"), content.get("sparsity_config") or {}
    if status not in ("compressed", "frozen"):
        raise ModelFileError(f"{where}: quantization_status is {status!r}, expected 'compressed'")
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise ModelFileError(
            f"{where}: sparsity_config is {json.dumps(sparsity):.120}, expected none or dense"
        )
    groups = content.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        names = sorted(map(str, groups)) if isinstance(groups, dict) else groups
        raise ModelFileError(f"{where}: config_groups is {names}, expected one group")
    name, group = next(iter(groups.items()))
    where_group = f"{where}: {name}"
    plain = {key: _GROUP[key] for key in ("targets", "output_activations", "format")}
    if isinstance(group, dict) and group.get("format") is None:
        plain.pop("format")  # older versions name it above only
    _check(group, plain, where_group, besides=frozenset({"weights", "input_activations"}))
    _check(group.get("weights"), _WEIGHTS, f"{where_group}: weights", besides=_FREE)
    _check(group.get("input_activations"), _ACTIVATIONS, f"{where_group}: input_activations",
           besides=_FREE)  # fmt: skip
    ignore = content.get("ignore") or []
    if not isinstance(ignore, list) or not _IGNORED.issuperset(map(str, ignore)):
        raise ModelFileError(
            f"{where}: ignore is {json.dumps(ignore):.120}, expected ['lm_head']: layers that are "
            f"in part int8 aren't built"
        )


def _check(
    found: Any, expected: Mapping[str, Any], where: str, besides: frozenset[str] = _FREE_AT_TOP
) -> None:
    """Checks that an object has the expected values, and nothing else that is set."""
    if not isinstance(found, dict):
        raise ModelFileError(f"{where} is {json.dumps(found):.120}, expected an object")
    for key in (*expected, *sorted(found.keys() - expected.keys() - besides)):
        value, wanted = found.get(key), expected.get(key)
        if type(value) is type(wanted) and value == wanted:
            continue
        if wanted in _EMPTY and value in _EMPTY and (wanted is not False or value is None):
            continue
        raise ModelFileError(
            f"{where}: {key} is {json.dumps(value):.120}, expected {json.dumps(wanted)}: of "
            f"quantised weights, W8A8 of compressed-tensors is built (int-quantized, one scale "
            f"per row, dynamic per token); take that or the unquantised model"
        )
