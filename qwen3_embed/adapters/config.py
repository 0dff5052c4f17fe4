"""struct AdapterConfig: the settings in adapter_config.json that decide how to merge.

PEFT has many variants of LoRA, and adds more. An unknown field is accepted only with a value that
switches it off; any other value is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..loading.config import read_json

__all__ = ["AdapterConfig", "read_adapter_config"]

# These do not affect the merged weights.
_WITHOUT_EFFECT = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "corda_config",
        "inference_mode",
        "layers_pattern",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    ]
)
_READ = frozenset(
    [
        "alpha_pattern",
        "bias",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "layers_to_transform",
        "lora_alpha",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "use_dora",
        "use_rslora",
    ]
)
_MAX_PATTERN = 128
_BASE_KEPT = ("gaussian", "eva", "orthogonal")  # initialisations that leave the base as it is


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A checked adapter_config.json.

    Attributes
    ----------
    path : Path
    rank : int
    alpha : float
    rank_pattern, alpha_pattern : mapping of str to number
        Overrides for modules whose path ends with a match of the key, a regular expression.
    use_rslora, use_dora : bool
    target_modules : tuple of str, or None
        None: a regular expression or a selection of layers, which only PEFT can resolve.
    modules_to_save : tuple of str
    base_name : str
        Name of the model that the adapter was trained on; "" if unknown.
    init_changes_base : str
        Name of an initialisation that changes the base; "" if there is none.
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    target_modules: tuple[str, ...] | None
    modules_to_save: tuple[str, ...]
    base_name: str
    init_changes_base: str

    def rank_of(self, path: str) -> int:
        """The rank of the module with this path in the adapter."""
        return int(_by_pattern(self.rank_pattern, path, self.rank))

    def scaling_of(self, path: str) -> float:
        """The scale of the product B A."""
        rank = self.rank_of(path)
        alpha = float(_by_pattern(self.alpha_pattern, path, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def saves(self, path: str) -> bool:
        """True if the adapter replaces the module with this path entirely."""
        return path.endswith(self.modules_to_save)  # as in PEFT: no dot is needed

    def expected_modules(self, modules: set[str]) -> dict[str, set[str]] | None:
        """The base's modules for each name in target_modules; None if unknown."""
        if self.target_modules is None:
            return None
        return {
            name: {m for m in modules if m == name.removeprefix("model.") or m.endswith(f".{name}")}
            for name in self.target_modules
        }


def _by_pattern(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


class _Fields:
    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    def refuse(self, key: str, expected: str) -> ModelFileError:
        found = json.dumps(self.content[key]) if key in self.content else "missing"
        return ModelFileError(f"{self.path}: {key} is {found:.200}, expected {expected}")

    def flag(self, key: str) -> bool:
        value = self.content.get(key, False)
        if type(value) is not bool:
            raise self.refuse(key, "true or false")
        return value

    def patterns(self, key: str, low: float) -> dict[str, Any]:
        found = self.content.get(key) or {}
        if not isinstance(found, dict):
            raise self.refuse(key, "an object")
        for pattern, value in found.items():
            if not _is_number(value) or value < low or (low == 1 and type(value) is not int):
                raise self.refuse(key, f"numbers of at least {low:g}")
            # Matching a quantified group, or many quantifiers, could take exponential time.
            if (
                len(pattern) > _MAX_PATTERN
                or re.search(r"\)[*+?{]", pattern)
                or len(re.findall(r"[*+{?]", pattern)) > 4
            ):
                raise self.refuse(key, "simple patterns: no quantified groups")
            try:
                re.compile(pattern)
            except re.error as error:
                raise self.refuse(key, f"regular expressions ({error})") from error
        return found

    def names(self, key: str) -> tuple[str, ...]:
        found = self.content.get(key) or []
        if not isinstance(found, list) or not all(isinstance(n, str) and n for n in found):
            raise self.refuse(key, "a list of names")
        return tuple(sorted(found))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _refuse_other_methods(fields: _Fields) -> None:
    content = fields.content
    if content.get("peft_type") != "LORA":
        raise fields.refuse("peft_type", '"LORA", the only supported method')
    if content.get("bias", "none") != "none":
        raise fields.refuse("bias", '"none": Qwen3 text models have no biases')
    if content.get("fan_in_fan_out", False) is not False:
        raise fields.refuse("fan_in_fan_out", "false: the base's matrices are not transposed")
    for key, value in content.items():
        off = value is None or value is False or value in ("", [], {})
        if key not in _READ and key not in _WITHOUT_EFFECT and not off:
            raise fields.refuse(key, "null or false: this variant of LoRA is not supported")


def read_adapter_config(path: Path) -> AdapterConfig:
    """Reads and checks an adapter_config.json.

    Raises
    ------
    ModelFileError
        A damaged file, another method than LoRA, or a value out of range.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds a {type(content).__name__}, expected an object")
    fields = _Fields(path, content)
    _refuse_other_methods(fields)
    rank, alpha = content.get("r", 8), content.get("lora_alpha", 8)
    if type(rank) is not int or rank < 1:
        raise fields.refuse("r", "a rank of at least 1")
    if not _is_number(alpha) or alpha == 0:
        raise fields.refuse("lora_alpha", "a finite number other than 0")
    init = content.get("init_lora_weights", True)
    targets: tuple[str, ...] | None = None
    selected = content.get("layers_to_transform") is not None or content.get("exclude_modules")
    if not isinstance(content.get("target_modules"), str):
        names = fields.names("target_modules")
        targets = names if names and not selected else None
    base = content.get("base_model_name_or_path")
    return AdapterConfig(
        path=path,
        rank=rank,
        alpha=float(alpha),
        rank_pattern=fields.patterns("rank_pattern", 1),
        alpha_pattern=fields.patterns("alpha_pattern", 1e-9),
        use_rslora=fields.flag("use_rslora"),
        use_dora=fields.flag("use_dora"),
        target_modules=targets,
        modules_to_save=fields.names("modules_to_save"),
        base_name=base if isinstance(base, str) else "",
        init_changes_base=init if isinstance(init, str) and init not in _BASE_KEPT else "",
    )
