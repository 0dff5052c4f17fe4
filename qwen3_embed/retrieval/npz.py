"""Named arrays in an .npz file: written in one step, read without pickle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

__all__ = ["load_arrays", "save_arrays"]


def save_arrays(path: str | os.PathLike[str], **arrays: npt.ArrayLike) -> None:
    """Writes an .npz file, replacing an old one only when the new one is complete."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, **cast("dict[str, Any]", arrays))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def load_arrays(path: str | os.PathLike[str], kind: str) -> dict[str, npt.NDArray[Any]]:
    """Reads an .npz file; ValueError says that it is no `kind` file."""
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as content:
            return cast("dict[str, npt.NDArray[Any]]", dict(content))
    except (ValueError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: not a {kind} file: {error}") from error
