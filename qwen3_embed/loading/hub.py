"""Snapshots of a hub's repositories: one path to files, from either hub.

Each hub's own client fetches, with its cache, environment variables and messages; it is imported
only when a name is looked up. Only files that the caller names are ever requested.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..errors import ModelNotFoundError
from .hub_options import HubOptions, is_revision

__all__ = ["Snapshot", "open_snapshot"]


class Snapshot(Protocol):
    """A repository's files at one revision, in the cache of the hub's client.

    Attributes
    ----------
    folder : Path
    revision : str
        The commit; on ModelScope, whose client keeps none, the branch, tag or commit asked for.
    place : str
        In messages: where a missing file was looked for.
    """

    folder: Path
    revision: str
    place: str

    def fetch(self, names: Sequence[str]) -> None:
        """Fetches those of the named files that the repository has and the cache lacks.

        Raises
        ------
        ModelNotFoundError
            No such repository or revision, no right to read it, or no connection.
        ModelFileError
            A file that doesn't arrive as the hub describes it.
        """


def open_snapshot(name: str, options: HubOptions, names: Sequence[str]) -> Snapshot:
    """The snapshot of "owner/name", holding those of the named files that it has.

    Raises
    ------
    ModelNotFoundError, ModelFileError
        As `Snapshot.fetch`.
    ImportError
        The hub's client is not installed.
    """
    if options.revision is not None and not is_revision(options.revision):
        raise ModelNotFoundError(
            f"{name} has no revision {options.revision!r}: expected a branch, a tag or a commit"
        )
    if options.hub == "modelscope":
        from .modelscope import ModelScopeSnapshot

        return ModelScopeSnapshot(name, options, names)
    from .huggingface import HuggingFaceSnapshot

    return HuggingFaceSnapshot(name, options, names)
