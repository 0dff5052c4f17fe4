"""Which device a caller's `device=` means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import DeviceError

__all__ = ["resolve_device"]

_CUDA = re.compile(r"cuda(:(all|[0-9]{1,3}))?")


def resolve_device(device: str | Sequence[str]) -> str:
    """The engine's device for "auto", "cpu", "cuda", "cuda:1", "cuda:all" or a list of them.

    Parameters
    ----------
    device : str or sequence of str

    Returns
    -------
    str
        "cpu".

    Raises
    ------
    DeviceError
        A CUDA device: this build holds no CUDA library.
    ValueError
        No device of that name.
    """
    names = [device] if isinstance(device, str) else list(device)
    for name in names:
        if isinstance(name, str) and _CUDA.fullmatch(name):
            raise DeviceError(
                f"device={name!r} is not available: this build of qwen3_embed holds no CUDA "
                f"library; use device='cpu' or 'auto'"
            )
    if names in (["auto"], ["cpu"]):
        return "cpu"
    raise ValueError(
        f"device={device!r}, expected 'auto', 'cpu', 'cuda', 'cuda:1', 'cuda:all' or a list of "
        f"CUDA devices"
    )
