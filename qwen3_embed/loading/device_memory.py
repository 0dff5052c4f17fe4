"""The memory that a model takes on a GPU, computed without opening it: see memory_plan.h."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._core import cuda_memory
from .device import CUDA_PATHS

__all__ = ["MemoryNeed", "largest_fitting_length", "memory_need", "memory_needs"]

_LEAST_LENGTH = 128


class MemoryNeed(NamedTuple):
    """The memory of one engine on a GPU, in bytes.

    Attributes
    ----------
    weights : int
        On the device, with the table of embeddings unless that is on the host.
    activations : int
        And everything else that a pass writes.
    spare : int
        Of contexts, modules and cuBLAS: an estimate.
    host : int
        Pinned host memory, of the table of embeddings.
    free, total : int
        Of the device, now.
    batch_tokens : int
        Of one pass: as asked for, or chosen for the device.
    n_layers : int
        Layers that the GPU has: all of them unless the model is split.
    """

    weights: int
    activations: int
    spare: int
    host: int
    free: int
    total: int
    batch_tokens: int
    n_layers: int

    @property
    def device_bytes(self) -> int:
        """Bytes that must be free on the device."""
        return self.weights + self.activations + self.spare

    @property
    def fits(self) -> bool:
        """True if the device has so much free memory."""
        return self.device_bytes <= self.free


def memory_needs(
    config: dict[str, Any], device: str, *, dtype: str, embedding: str, batch_tokens: int = 0
) -> list[MemoryNeed]:
    """Computes the memory of an engine on each of its GPUs, and their free memory.

    Parameters
    ----------
    config : dict
        As `ModelConfig.for_engine` gives it for a `max_length`.
    device : str
        "cuda:0"; "cuda:0,cuda:1" of a split model.
    dtype, embedding : str
        As of `Embedder`; embedding "auto" counts as "device".
    batch_tokens : int
        0: chosen for the device.

    Raises
    ------
    DeviceError
        There is no such GPU, or a part of CUDA is missing.
    """
    indices = tuple(int(name.removeprefix("cuda:")) for name in device.split(","))
    found = cuda_memory(config, indices, dtype, embedding, batch_tokens, *CUDA_PATHS)
    return [MemoryNeed(**need) for need in found]


def memory_need(
    config: dict[str, Any], device: str, *, dtype: str, embedding: str, batch_tokens: int = 0
) -> MemoryNeed:
    """As `memory_needs`, of an engine on one GPU."""
    (need,) = memory_needs(
        config, device, dtype=dtype, embedding=embedding, batch_tokens=batch_tokens
    )
    return need


def largest_fitting_length(
    config: dict[str, Any], device: str, *, dtype: str, embedding: str
) -> int | None:
    """The largest power of two below `max_length` that fits as max_length and batch_tokens.

    Returns
    -------
    int or None
        None: not even the shortest texts fit.
    """
    length: int = 1 << (config["max_length"] - 1).bit_length() >> 1
    while length >= _LEAST_LENGTH:
        shorter = config | {"max_length": length}
        needs = memory_needs(shorter, device, dtype=dtype, embedding=embedding, batch_tokens=length)
        if all(need.fits for need in needs):
            return length
        length //= 2
    return None
