"""A model that a caller names, or has open already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from ..model import Model

__all__ = ["opened"]

AnyModel = TypeVar("AnyModel", bound=Model)


def opened(
    kind: type[AnyModel],
    model: str | os.PathLike[str] | AnyModel,
    settings: Mapping[str, Any] | None,
) -> AnyModel:
    """The model itself if it is open, else one of this name with these settings.

    Raises
    ------
    TypeError
        Settings for an open model: they would be without effect.
    """
    if not isinstance(model, kind):
        return kind(model, **(settings or {}))  # type: ignore[arg-type]
    if settings:
        raise TypeError(
            f"the {kind.__name__} is open already, too late for {', '.join(settings)}: pass its "
            f"name, or open it with them"
        )
    return model
