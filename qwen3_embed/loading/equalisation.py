"""The scales by which `quantize` has equalised a folder's int8 weights, for its adapters.

An adapter was trained on the model before that, so it is merged in that model's basis and
equalised like the weights: columns are multiplied, rows and norms divided. The scales are powers
of two, so nothing is lost; the file holds their exponents, and other tools have no use for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from .config import ModelConfig
from .tensors import TensorFiles, write_tensors

__all__ = ["EQUALISATION", "Equalisation"]

EQUALISATION = "equalisation.safetensors"
_LARGEST = 24  # exponent; `quantize` writes up to 20
_COLUMNS = {
    "self_attn.q_proj": "attention_input",
    "self_attn.k_proj": "attention_input",
    "self_attn.v_proj": "attention_input",
    "self_attn.o_proj": "output",
    "mlp.gate_proj": "mlp_input",
    "mlp.up_proj": "mlp_input",
    "mlp.down_proj": "activation",
}
_ROWS = {
    "input_layernorm": "attention_input",
    "post_attention_layernorm": "mlp_input",
    "self_attn.v_proj": "value",
    "mlp.up_proj": "activation",
}

Floats = npt.NDArray[np.float32]


def _widths(config: ModelConfig) -> dict[str, int]:
    return {
        "attention_input": config.hidden_size,
        "value": config.n_kv_heads * config.head_dim,
        "output": config.n_heads * config.head_dim,
        "mlp_input": config.hidden_size,
        "activation": config.intermediate_size,
    }


class Equalisation:
    """The scales of every layer.

    Parameters
    ----------
    path : Path
        A file that `write` has written.
    config : ModelConfig

    Raises
    ------
    ModelFileError
        A damaged file, or one of another model.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        tensors = {tensor.name: tensor for tensor in TensorFiles([path])}
        self._scales: dict[str, Floats] = {}
        for name, width in _widths(config).items():
            shape = (config.n_layers, width)
            tensor = tensors.pop(name, None)
            if tensor is None or tensor.shape != shape or tensor.dtype != "I8":
                found = "missing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
                raise ModelFileError(f"{path}: {name} is {found}, expected I8 {shape}")
            exponents = tensor.int8()
            if exponents.size and max(-int(exponents.min()), int(exponents.max())) > _LARGEST:
                raise ModelFileError(f"{path}: {name} exceeds 2^{_LARGEST}")
            self._scales[name] = np.exp2(exponents.astype(np.float32))
        if tensors:
            raise ModelFileError(f"{path}: unknown tensor {min(tensors)!r}")

    def apply(self, name: str, values: Floats) -> Floats:
        """A weight of the model before equalisation, by bare name, as the folder has it."""
        return self._scaled(name, values, inverse=False)

    def undo(self, name: str, values: Floats) -> Floats:
        """The inverse of `apply`."""
        return self._scaled(name, values, inverse=True)

    def _scaled(self, name: str, values: Floats, *, inverse: bool) -> Floats:
        layers, _, rest = name.partition(".")
        number, _, part = rest.removesuffix(".weight").partition(".")
        if layers != "layers" or not number.isdecimal():
            return values
        factor = np.float32(1)
        if part in _COLUMNS:
            factor = factor * self._scales[_COLUMNS[part]][int(number)]
        if part in _ROWS:
            rows = self._scales[_ROWS[part]][int(number)]
            factor = factor / (rows if values.ndim == 1 else rows[:, None])
        scaled: Floats = values / factor if inverse else values * factor
        return scaled

    @staticmethod
    def write(path: Path, layers: Sequence[Mapping[str, Floats]], config: ModelConfig) -> None:
        """Writes the scales of all layers, each with the keys that `quantize_layer` returns."""
        widths = _widths(config)
        layout = {name: ("I8", (len(layers), width)) for name, width in widths.items()}
        arrays: list[npt.NDArray[Any]] = [
            np.log2(np.stack([layer[name] for layer in layers])).astype(np.int8) for name in widths
        ]
        write_tensors(path, layout, arrays)
