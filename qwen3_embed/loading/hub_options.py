"""Options for requests to a hub, and the names that a hub knows."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["HUBS", "HubOptions", "is_hub_name", "is_revision"]

HUBS = ("huggingface", "modelscope")

_VARIABLE = "QWEN3_EMBED_HUB"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Options for requests to a hub, as in `huggingface_hub`.

    Attributes
    ----------
    hub : str
        One of `HUBS`; None becomes that of the environment variable QWEN3_EMBED_HUB, else
        "huggingface".

    Raises
    ------
    ValueError
        Another hub.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    hub: str | None = None

    def __post_init__(self) -> None:
        name, hub = "hub", self.hub
        if hub is None:
            name, hub = _VARIABLE, os.environ.get(_VARIABLE) or HUBS[0]
        if hub not in HUBS:
            raise ValueError(f"{name}={hub!r}, expected one of: {', '.join(map(repr, HUBS))}")
        object.__setattr__(self, "hub", hub)

    def without_token(self) -> dict[str, Any]:
        """The options by name, as they may be written to a file."""
        return {name: value for name, value in asdict(self).items() if name != "token"}


def is_hub_name(name: str) -> bool:
    """True if the name can be an "owner/name" on the hub."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def is_revision(revision: str) -> bool:
    """True if it can be a branch, a tag or a commit, and is a path that leads to no other folder.

    An adapter's file may name its base's revision, and both hubs' clients make a path of it.
    """
    parts = revision.split("/")
    return revision.isprintable() and "\\" not in revision and not {"", ".", ".."} & {*parts}
