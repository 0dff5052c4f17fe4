"""class Adapter: a LoRA adapter of PEFT, checked against its base and merged.

A merged weight is W + scaling * (B @ A) in float32, rounded once to bf16; DoRA then scales each row
to a learnt length. Features that would change a vector but are not implemented are refused by name,
and so is an adapter that matches the base only in part: its effect would be silently lost. Only
safetensors files are read, never pickles.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError, ModelNotFoundError
from ..loading.equalisation import Equalisation
from ..loading.files import ModelFiles
from ..loading.foreign import refuse_lfs_pointer
from ..loading.hub import open_snapshot
from ..loading.hub_options import HubOptions, is_hub_name
from ..loading.tensors import Tensor, TensorFiles, as_bf16, as_floats
from .config import AdapterConfig, read_adapter_config

__all__ = ["Adapter", "find_adapter"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SCALE = ".weight_scale"
_TIED = {
    "lm_head.weight": "embed_tokens.weight",
    "embed_tokens.weight": "lm_head.weight",
}
_PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
}

_logger = logging.getLogger("qwen3_embed")


class Adapter:
    """An adapter on its base. All tensors are checked at once, and merged one by one on request.

    Parameters
    ----------
    folder : Path
        From `find_adapter`.
    source : str
        Its name in messages.
    base : ModelFiles

    Attributes
    ----------
    source : str
    merged : tuple of str
        The modules with a low-rank change, "layers.0.self_attn.q_proj" and so on.
    replaced : tuple of str
        The modules that the adapter replaces entirely.
    note : str
        "", or what becomes of a base whose weights are stored quantised.

    Raises
    ------
    ModelFileError
        A damaged file, another method than LoRA, another base, or tensors that would have no
        effect.

    Warns
    -----
    UserWarning
        The adapter's initialisation may have changed its base during training.
    """

    def __init__(self, folder: Path, source: str, base: ModelFiles) -> None:
        self.source = source
        self._folder = folder
        self._config = config = read_adapter_config(folder / _CONFIG)
        _check_base_name(config, base, source)
        if config.init_changes_base:
            warnings.warn(
                f"{source}: init_lora_weights is {config.init_changes_base!r}, which changes the "
                f"base in training; vectors are correct only if the adapter was converted for "
                f"the original base",
                UserWarning,
                stacklevel=3,
            )
        stored = TensorFiles(base.shards).by_bare_name()
        self._scales = {name: stored.pop(name) for name in [*stored] if name.endswith(_SCALE)}
        self._weights = stored
        self._equalisation = (
            None if base.equalisation is None else Equalisation(base.equalisation, base.config)
        )
        for name, tied in _TIED.items():  # tied: one tensor is stored for both
            if name not in self._weights and tied in self._weights:
                self._weights[name] = self._weights[tied]
        tensors = TensorFiles([folder / _WEIGHTS])
        self._modules, self._whole = _sort_tensors(tensors, config, self._weights, source)
        own = {name.removesuffix(".weight") for name in self._weights}
        _check_complete(set(self._modules), config, own, source)
        _check_saved(set(self._whole), config, own, source)
        for name, module in self._modules.items():
            _check_parts(self._weights[f"{name}.weight"], module, config, name, source)
        self.merged = tuple(self._modules)
        self.replaced = tuple(self._whole)
        self.note = (
            f"merged in float32 into the dequantised {base.stored} weights, then quantised again"
            if base.stored
            else ""
        )
        _logger.info(
            "%s: %d modules merged, %d replaced", source, len(self.merged), len(self._whole)
        )

    def changes(self, name: str) -> bool:
        """True if the adapter changes the tensor with this name (without "model.")."""
        module = name.removesuffix(".weight")
        return module in self._modules or module in self._whole

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Merges one tensor; returns it in float32.

        Raises
        ------
        ModelFileError
            The adapter contains NaN or infinity, or DoRA would divide by a row of length 0.
        """
        module = name.removesuffix(".weight")
        if module in self._whole:
            return _finite(self._whole[module], self.source)
        base = self._base(name)
        return _merge(base, self._modules[module], self._config, module, self.source)

    def _base(self, name: str) -> npt.NDArray[np.float32]:
        """The base's tensor in float32; one in int8 dequantised, as it was before equalisation."""
        weight = self._weights[name]
        if weight.dtype != "I8":
            return weight.floats()
        scales = self._scales[f"{name.removesuffix('.weight')}{_SCALE}"].floats()
        values = weight.int8() * scales.reshape(-1, 1)
        return values if self._equalisation is None else self._equalisation.undo(name, values)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Merges all changed tensors for the engine; returns them by name without "model.".

        They are rounded once to bf16, as `qwen3-embed merge` writes them: matrices are uint16
        arrays of bf16 bits, vectors float32. On equalised weights they are equalised too.
        """
        rounded = {}
        for name in (f"{module}.weight" for module in (*self._modules, *self._whole)):
            values = self.tensor(name)
            if self._equalisation is not None:
                values = self._equalisation.apply(name, values)
            rounded[name] = as_bf16(values)
        return {
            n: values if values.ndim == 2 else as_floats(values) for n, values in rounded.items()
        }

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the two files, in hex."""
        parts = [_sha256(self._folder / name) for name in (_CONFIG, _WEIGHTS)]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def find_adapter(adapter: str | os.PathLike[str], options: HubOptions) -> Path:
    """Finds the folder of an adapter's two files; downloads them from the hub if needed.

    Parameters
    ----------
    adapter : str or path-like
        A folder, or "owner/name" on the hub.
    options : HubOptions
        Its revision is that of the base and is not used.

    Returns
    -------
    Path

    Raises
    ------
    ModelNotFoundError
        No such adapter, or one of its files is missing.
    ModelFileError
        The weights are pickled.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        if not isinstance(adapter, str) or not is_hub_name(adapter):
            raise ModelNotFoundError(
                f"no adapter folder {str(adapter)!r}, expected a folder or 'owner/name' on the hub"
            )
        files = (_CONFIG, _WEIGHTS)
        folder = open_snapshot(adapter, replace(options, revision=None), files).folder
    names = sorted(path.name for path in folder.iterdir())
    if _CONFIG not in names:
        inner = [name for name in names if (folder / name / _CONFIG).is_file()]
        hint = f"; perhaps {inner[0]!r} in it" if inner else ""
        raise ModelNotFoundError(f"{_CONFIG} is missing in {str(folder)!r}{hint}")
    if _WEIGHTS not in names:
        if "adapter_model.bin" in names:
            raise ModelFileError(
                f"{folder / 'adapter_model.bin'} is pickled, and pickles can run code: save the "
                f"adapter again as {_WEIGHTS}"
            )
        raise ModelNotFoundError(f"{_WEIGHTS} is missing in {str(folder)!r}")
    refuse_lfs_pointer(folder / _WEIGHTS)
    return folder


@dataclass(slots=True)
class _Module:
    """The tensors of one module's low-rank change, and its path as PEFT wrote it."""

    path: str
    parts: dict[str, Tensor]

    @property
    def is_embedding(self) -> bool:
        return "embedding_A" in self.parts or "embedding_B" in self.parts

    @property
    def low_rank(self) -> tuple[str, str]:
        return ("embedding_A", "embedding_B") if self.is_embedding else ("A", "B")


def _sha256(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _check_base_name(config: AdapterConfig, base: ModelFiles, source: str) -> None:
    """Refuses an adapter of another official model, which may have the same shapes."""
    official = re.compile(r"Qwen3-(Embedding|Reranker)-[0-9.]+B")
    made_for, opened = Path(config.base_name).name, Path(base.name).name
    if official.fullmatch(made_for) and official.fullmatch(opened) and made_for != opened:
        raise ModelFileError(
            f"{source}: base_model_name_or_path is {config.base_name!r}, but the model is "
            f"{base.name}: an adapter works on the base it was trained on"
        )


def _module_of(path: str, weights: dict[str, Tensor]) -> str | None:
    """The base's module for a path in the adapter, with or without the prefix "model."."""
    for module in (path, path.removeprefix("model.")):
        if f"{module}.weight" in weights:
            return module
    return None


def _sort_tensors(
    tensors: TensorFiles, config: AdapterConfig, weights: dict[str, Tensor], source: str
) -> tuple[dict[str, _Module], dict[str, Tensor]]:
    """Assigns every tensor to its module: (low-rank changes, whole replacements)."""
    modules: dict[str, _Module] = {}
    whole: dict[str, Tensor] = {}
    for tensor in tensors:
        if not tensor.name.startswith(_PREFIX):
            raise ModelFileError(
                f"{source}: {tensor.name!r} is unknown, expected names that begin with {_PREFIX}"
            )
        name = tensor.name.removeprefix(_PREFIX)
        if name.endswith(".lora_B.bias"):
            raise ModelFileError(f"{source}: {name} is a bias, and Qwen3 text models have none")
        suffix = next((s for s in _PARTS if name.endswith(s)), None)
        path = name.removesuffix(suffix or ".weight")
        module = _module_of(path, weights)
        if module is None or (suffix is None and not config.saves(path)):
            known = "" if module is not None else " of a module that the base doesn't have"
            raise ModelFileError(
                f"{source}: {name!r} is an unknown tensor{known}; modules_to_save is "
                f"{list(config.modules_to_save)}"
            )
        if suffix is None:
            _check_shape(tensor, weights[f"{module}.weight"].shape, source, config)
            whole[module] = tensor
            continue
        found = modules.setdefault(module, _Module(path, {}))
        if _PARTS[suffix] in found.parts or found.path != path:
            raise ModelFileError(
                f"{source}: {name} occurs twice, with and without a prefix: remove one"
            )
        found.parts[_PARTS[suffix]] = tensor
    both = modules.keys() & whole.keys()
    if both:
        raise ModelFileError(f"{source}: {sorted(both)[0]} is both low-rank and saved whole")
    if not modules and not whole:
        raise ModelFileError(f"{source}: {_WEIGHTS} holds no tensors: it would have no effect")
    return modules, whole


def _check_complete(found: set[str], config: AdapterConfig, own: set[str], source: str) -> None:
    """Checks that the adapter has every module of the base that its config names as a target."""
    expected = config.expected_modules(own)
    if expected is None:
        return
    unknown = [name for name, modules in expected.items() if not modules & found]
    if unknown:
        raise ModelFileError(
            f"{source}: target_modules names {unknown[0]!r}, and the file has no tensors for it"
        )
    wanted = set().union(*expected.values()) - found
    extra = found - set().union(*expected.values())
    if wanted or extra:
        what = f"no tensors for {min(wanted)}" if wanted else f"tensors for {min(extra)}"
        raise ModelFileError(
            f"{source}: {what} ({len(wanted)} modules missing, {len(extra)} too many of "
            f"{len(found)}), unlike target_modules in {_CONFIG}"
        )


def _check_saved(found: set[str], config: AdapterConfig, own: set[str], source: str) -> None:
    """Checks that the adapter has every module of the base that modules_to_save names."""
    for name in config.modules_to_save:
        modules = {m for m in own if m.endswith(name.removeprefix("model."))}
        # PEFT lists both of these for every classifier.
        if modules - found or not (modules or name in ("classifier", "score")):
            raise ModelFileError(
                f"{source}: modules_to_save names {name!r}, and the file has no tensor for "
                f"{min(modules - found, default='it')}"
            )


def _check_shape(
    tensor: Tensor, shape: tuple[int, ...], source: str, config: AdapterConfig
) -> None:
    if tensor.shape != shape:
        made_for = f" (made for {config.base_name})" if config.base_name else ""
        raise ModelFileError(
            f"{source}: {tensor.name} has shape {tensor.shape}, expected {shape}: the adapter is "
            f"for another base{made_for}"
        )


def _finite(tensor: Tensor, source: str) -> npt.NDArray[np.float32]:
    values = tensor.floats()
    if not np.isfinite(values).all():
        raise ModelFileError(f"{source}: {tensor.name} holds NaN or infinity")
    return values


def _check_parts(
    weight: Tensor, module: _Module, config: AdapterConfig, name: str, source: str
) -> None:
    """Checks that a module has the tensors of its method, with the shapes of base and config."""
    needed = [*module.low_rank, *(["magnitude"] if config.use_dora else [])]
    for part in needed:
        if part not in module.parts:
            raise ModelFileError(f"{source}: {name} has no lora_{part}, expected {needed}")
    if set(module.parts) != set(needed):
        extra = min(set(module.parts) - set(needed))
        raise ModelFileError(
            f"{source}: {name} has lora_{extra}, unlike use_dora={config.use_dora} in {_CONFIG}"
        )
    if len(weight.shape) != 2:
        raise ModelFileError(
            f"{source}: {name} is not a matrix in the base, so LoRA cannot change it"
        )
    # The weight of an embedding is (entries, width), and its change is (B A)^T.
    n_out, n_in = weight.shape[::-1] if module.is_embedding else weight.shape
    rank = config.rank_of(module.path)
    a, b = (module.parts[part] for part in module.low_rank)
    if a.shape[:1] != (rank,) or b.shape[1:] != (rank,):
        raise ModelFileError(
            f"{source}: {name} has lora_A {a.shape} and lora_B {b.shape}, expected the rank "
            f"{rank} of {_CONFIG}"
        )
    _check_shape(a, (rank, n_in), source, config)
    _check_shape(b, (n_out, rank), source, config)
    if config.use_dora:
        _check_shape(module.parts["magnitude"], (n_out,), source, config)


def _merge(
    weight: npt.NDArray[np.float32], module: _Module, config: AdapterConfig, name: str, source: str
) -> npt.NDArray[np.float32]:
    """The module's merged weight in float32."""
    a, b = (_finite(module.parts[part], source) for part in module.low_rank)
    change = b @ a
    if module.is_embedding:
        change = np.ascontiguousarray(change.T)
    change *= np.float32(config.scaling_of(module.path))
    change += weight
    if config.use_dora:
        lengths = np.linalg.norm(change, axis=0 if module.is_embedding else 1)
        if not lengths.all():
            raise ModelFileError(f"{source}: {name} has a row of length 0, which DoRA cannot scale")
        ratio = _finite(module.parts["magnitude"], source) / lengths
        change *= ratio if module.is_embedding else ratio[:, None]
    if not np.isfinite(change).all():
        raise ModelFileError(f"{source}: {name} with its change holds NaN or infinity")
    return change
