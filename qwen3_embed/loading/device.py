"""The engines that a caller's `device=` means, and the hardware that this machine has for them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .._core import cuda_devices
from ..errors import DeviceError

__all__ = ["CUDA_PATHS", "Gpu", "list_gpus", "resolve_device"]

_CUDA = re.compile(r"cuda(:[0-9]{1,3})?")
_LEAST_CAPABILITY = 8, 0
_MOST_DEVICES = 16  # of one engine


class Gpu(NamedTuple):
    """One GPU, as the driver counts them.

    Attributes
    ----------
    device : str
        "cuda:0".
    name : str
        "NVIDIA H200".
    capability : tuple of int
        (9, 0).
    memory_bytes : int
    """

    device: str
    name: str
    capability: tuple[int, int]
    memory_bytes: int

    @property
    def is_usable(self) -> bool:
        """True if the CUDA engine has kernels for this GPU."""
        return self.capability >= _LEAST_CAPABILITY


class CudaPaths(NamedTuple):
    """Locations of the CUDA engine (None: not in this build) and cuBLASLt (None: the system's)."""

    library: str | None
    cublas_folder: str | None


def _find_paths() -> CudaPaths:
    library = Path(__file__).parents[1] / "libqe_cuda.so"
    folders = (Path(base, "nvidia", "cu13", "lib") for base in sys.path)  # of NVIDIA's wheels
    cublas = next((folder for folder in folders if (folder / "libcublasLt.so.13").exists()), None)
    return CudaPaths(
        str(library) if library.exists() else None, None if cublas is None else str(cublas)
    )


CUDA_PATHS = _find_paths()


def list_gpus() -> list[Gpu]:
    """This machine's GPUs, at least one. Loads the CUDA engine, and the driver with it.

    Raises
    ------
    DeviceError
        There is none, or a part is missing: one sentence says which.
    """
    return [
        Gpu(f"cuda:{index}", name, (major, minor), memory_bytes)
        for index, (name, major, minor, memory_bytes) in enumerate(cuda_devices(*CUDA_PATHS))
    ]


def resolve_device(device: str | Sequence[str] | None, split: str | None = None) -> tuple[str, ...]:
    """The engines' devices for "auto", "cpu", "cuda", "cuda:1", "cuda:all" or a list of GPUs.

    Parameters
    ----------
    device : str or sequence of str
        "auto", or None, is the first usable GPU, and "cpu" where there is none. "cuda:0,cuda:1"
        is a list, too.
    split : {None, "layers"}
        "layers": one engine on all the GPUs, at least two; "auto" is "cuda:all" then, and a GPU
        may be named twice, to try a split without a second one.

    Returns
    -------
    tuple of str
        ("cpu",), or one or more of "cuda:0", "cuda:1", ...; of a split model, one "cuda:0,cuda:1".

    Raises
    ------
    DeviceError
        "cuda:all" where no GPU is usable, or one alone for a split.
    ValueError
        No device of that name, or one named twice; a split of another kind, or of one device.
    """
    device = "auto" if device is None else device
    if split is not None:
        return (_split_devices(device, split),)
    if device == "cpu":
        return ("cpu",)
    if device == "auto":
        try:
            return _usable()[:1] or ("cpu",)
        except DeviceError:  # `qwen3-embed info` shows it
            return ("cpu",)
    devices = _named_gpus(device)
    if len(set(devices)) < len(devices):
        raise ValueError(f"device={device!r}, expected each device once")
    return devices


def _named_gpus(device: str | Sequence[str]) -> tuple[str, ...]:
    """The GPUs of "cuda:all", a name, or a list of names."""
    if device == "cuda:all":
        if found := _usable():
            return found
        raise DeviceError(
            f"device='cuda:all': {list_gpus()[0].name} has compute capability "
            f"{list_gpus()[0].capability}, expected {_LEAST_CAPABILITY} or later"
        )
    names: list[str] = []
    if isinstance(device, str):
        names = device.split(",")
    elif isinstance(device, Sequence):
        names = list(device)
    if not names or not all(isinstance(name, str) and _CUDA.fullmatch(name) for name in names):
        raise ValueError(
            f"device={device!r}, expected 'auto', 'cpu', 'cuda', 'cuda:1', 'cuda:all' or a list "
            f"of CUDA devices"
        )
    return tuple("cuda:0" if name == "cuda" else name for name in names)


def _split_devices(device: str | Sequence[str], split: str) -> str:
    """The one device, in the engine's words, of a model that is split over GPUs."""
    if split != "layers":
        raise ValueError(f"split={split!r}, expected 'layers' or None")
    if device == "cpu":
        raise ValueError("split='layers': device='cpu' is one device, expected GPUs")
    devices = _named_gpus("cuda:all" if device == "auto" else device)
    if len(devices) < 2 and device in ("auto", "cuda:all"):
        raise DeviceError(f"split='layers': {devices[0]} is the only GPU, expected two or more")
    if not 2 <= len(devices) <= _MOST_DEVICES:
        raise ValueError(
            f"split='layers': device={device!r} is {len(devices)} of them, expected a list of 2 to "
            f"{_MOST_DEVICES} GPUs"
        )
    return ",".join(devices)


def _usable() -> tuple[str, ...]:
    return tuple(gpu.device for gpu in list_gpus() if gpu.is_usable)
