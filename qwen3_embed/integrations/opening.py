"""Opening a model from its name, for integrations; an open model is used as it is.

Every integration takes `model`, a name or an open model, and `settings`, the keyword arguments to
open it with. Those that open models on other machines take names only.
"""

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
    """Returns an open model as it is; opens a named one with these settings.

    Raises
    ------
    TypeError
        Settings for an open model, which would have no effect.
    """
    if not isinstance(model, kind):
        return kind(model, **(settings or {}))  # type: ignore[arg-type]
    if settings:
        raise TypeError(
            f"settings are given ({', '.join(settings)}) for a {kind.__name__} that is already "
            f"open: pass the model's name, or open the model with them"
        )
    return model
