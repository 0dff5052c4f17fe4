"""class HuggingFaceSnapshot: files from huggingface.co or a mirror, by `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants, errors, snapshot_download

from ..errors import ModelNotFoundError
from ..version import __version__
from .hub_options import HubOptions

__all__ = ["HuggingFaceSnapshot"]

_ELSEWHERE = (
    "set HF_ENDPOINT to a mirror, such as https://hf-mirror.com; take the model from ModelScope "
    "with hub='modelscope'; or pass a folder"
)


class HuggingFaceSnapshot:
    """A `Snapshot` of a repository on the Hugging Face hub."""

    def __init__(self, name: str, options: HubOptions, names: Sequence[str]) -> None:
        self._name = name
        self._options = options
        self.place = "in the cache" if options.local_files_only else "on the hub"
        self.folder = self._fetched(names)
        self.revision = self.folder.name
        # What is fetched later belongs to the commit of these files, even if the branch moves on.
        self._options = replace(options, revision=self.revision)

    def fetch(self, names: Sequence[str]) -> None:
        """Fetches those of the named files that the repository has and the cache lacks."""
        self._fetched(names)

    def _fetched(self, names: Sequence[str]) -> Path:
        options = self._options
        try:
            folder = snapshot_download(
                self._name,
                revision=options.revision,
                cache_dir=None if options.cache_dir is None else Path(options.cache_dir),
                token=options.token,
                local_files_only=options.local_files_only,
                allow_patterns=list(names),
                library_name="qwen3-embed-native",
                library_version=__version__,
            )
        except Exception as error:
            raise ModelNotFoundError(_what_to_do(self._name, options, error)) from error
        return Path(folder)


def _what_to_do(name: str, options: HubOptions, error: Exception) -> str:
    revision = options.revision or "main"
    status = _http_status(error)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms at {constants.ENDPOINT}/{name}, then pass token= "
            f"or run `hf auth login`"
        )
    if status == 401 and options.token is not None:
        return f"the hub refused the token for {name}: check token= and what it may read"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"no repository {name} on the hub, or it is private: check the spelling; for a "
            f"private one pass token= or run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}: expected a branch, a tag or a commit"
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} is not a hub name ({error}); expected 'owner/name'"
    if isinstance(error, errors.LocalEntryNotFoundError) and status is None:
        here = f"{name} (revision {revision}) is not, or not whole, in the cache, and "
        if options.local_files_only or constants.HF_HUB_OFFLINE:
            return (
                f"{here}the network may not be used: allow it once (local_files_only=False, no "
                f"HF_HUB_OFFLINE), or pass a folder"
            )
        return f"{here}{constants.ENDPOINT} can't be reached: connect; {_ELSEWHERE} ({error})"
    return (
        f"fetching {name} (revision {revision}) from {constants.ENDPOINT} failed: "
        f"{type(error).__name__}: {error}; try again, what has arrived is kept; or {_ELSEWHERE}"
    )


def _http_status(error: BaseException | None) -> int | None:
    """The HTTP status in an error or its causes; None: there was none."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None
