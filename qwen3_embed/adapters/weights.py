"""class Weights: a model's own weights, or those with an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .adapter import Adapter

__all__ = ["Weights"]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The model's own weights, or those with one of its adapters.

    Attributes
    ----------
    number : int
        Number of these weights in `Engine.submit`.
    name : str or None
        None: the model's own.
    adapter : Adapter or None
    location : str or None
        Folder or hub name to load the adapter from again.
    head : ndarray or None
        The output head of a reranker, see head.py.
    """

    number: int
    name: str | None
    adapter: Adapter | None
    location: str | None
    head: npt.NDArray[np.float64] | None
