"""class ModelScopeSnapshot: files from modelscope.cn, by its official client `modelscope-hub`.

The listing is asked for once per opening. It gives a size and a hash for every file: a file in
the client's cache that agrees with it is used where it is, and the client checks what it fetches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, ModelNotFoundError
from .file_hashes import SHA256, sha256_of_file, sha256_of_weights
from .hub_options import HubOptions

try:
    from modelscope_hub import FileInfo, HubApi, HubConfig, HubError
    from modelscope_hub import errors as hub_errors
except ImportError as error:
    raise ImportError(
        f"hub='modelscope' needs modelscope-hub 0.5 or later ({error}): "
        f"pip install 'qwen3-embed-native[modelscope]'"
    ) from None

__all__ = ["ModelScopeSnapshot"]

_BRANCH = "master"  # of a repository, unless a revision is asked for
_WEIGHTS = ".safetensors"
_ELSEWHERE = "take the model from Hugging Face with hub='huggingface', or pass a folder"


class ModelScopeSnapshot:
    """A `Snapshot` of a repository on ModelScope."""

    folder: Path

    def __init__(self, name: str, options: HubOptions, names: Sequence[str]) -> None:
        self._name = name
        self._options = options
        self._config = HubConfig(token=_token(options.token))
        self._api = HubApi(self._config)
        self._listing: dict[str, FileInfo] | None = None
        self.revision = options.revision or _BRANCH
        self.place = "on ModelScope"
        try:
            self._open(names)
        except HubError as error:
            raise self._explained(error) from error

    def fetch(self, names: Sequence[str]) -> None:
        """Fetches those of the named files that the repository has and the cache lacks."""
        try:
            self._fetch(names)
        except HubError as error:
            raise self._explained(error) from error

    def _open(self, names: Sequence[str]) -> None:
        if self._options.local_files_only:
            self._take_cached()
            return
        try:
            files = self._api.list_repo_files(self._name, "model", revision=self.revision)
        except hub_errors.NetworkError:
            try:
                self._take_cached()
            except hub_errors.CacheNotFound:
                pass
            else:
                return
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelNotFoundError(
                f"{self._config.endpoint} answers for {self._name} with something else than a "
                f"list of files ({error}): check MODELSCOPE_ENDPOINT"
            ) from error
        self._listing = {file.path: file for file in files if not file.is_dir}
        self._fetch(names)

    def _take_cached(self) -> None:
        """The folder of an earlier download, as it is."""
        revision = self._options.revision
        self.folder = self._download(revision=revision, local_files_only=True)
        if self.folder.parent.name == "snapshots":
            self.revision = self.folder.name
        elif revision is not None:
            raise hub_errors.CacheNotFound(
                f"{self.folder} is of an older client, which did not record revisions"
            )
        self.place = "in the cache"

    def _fetch(self, names: Sequence[str]) -> None:
        if self._listing is None:
            return
        try:
            folder = self._download(revision=self.revision, local_files_only=True)
        except hub_errors.CacheNotFound:
            folder = None
        listed = [self._checked(self._listing[name]) for name in names if name in self._listing]
        missing = [
            {"Path": file.path, "Size": file.size or None, "Sha256": file.sha256}
            for file in listed
            if folder is None or not _agrees(folder / file.path, file)
        ]
        if missing or folder is None:
            folder = self._download(revision=self.revision, file_list=missing)
        self.folder = folder

    def _download(self, **options: Any) -> Path:
        named = self._options.cache_dir
        cache = None if named is None else Path(named)
        return Path(self._api.download_repo(self._name, "model", cache_dir=cache, **options))

    def _checked(self, file: FileInfo) -> FileInfo:
        if type(file.size) is not int or file.size < 0 or not _is_hash(file.sha256):
            raise ModelFileError(
                f"ModelScope lists {file.path} of {self._name} with size {file.size!r} and SHA-256 "
                f"{file.sha256!r}, expected bytes and 64 hex digits"
            )
        return file

    def _explained(self, error: HubError) -> ModelNotFoundError | ModelFileError:
        """The same failure with what to do about it."""
        name, revision = self._name, self.revision
        said = str(error).partition("\n")[0]
        if isinstance(error, hub_errors.CacheNotFound):
            return ModelNotFoundError(
                f"{name} (revision {revision}) is not in ModelScope's cache ({said}), and the "
                f"network may not be used: allow it once (local_files_only=False), or pass a folder"
            )
        if isinstance(error, hub_errors.AuthenticationError):
            return ModelNotFoundError(
                f"ModelScope refused the token for {name}: check token= or MODELSCOPE_API_TOKEN"
            )
        if isinstance(error, hub_errors.PermissionDeniedError):
            return ModelNotFoundError(
                f"{name} is gated or private: accept its terms at "
                f"{self._config.endpoint}/models/{name}, then pass token= or set "
                f"MODELSCOPE_API_TOKEN"
            )
        if isinstance(error, hub_errors.NotExistError):
            return ModelNotFoundError(self._what_is_missing())
        if isinstance(error, hub_errors.NetworkError):
            return ModelNotFoundError(
                f"{name} (revision {revision}) is not in the cache, and {self._config.endpoint} "
                f"can't be reached: connect, set MODELSCOPE_ENDPOINT, {_ELSEWHERE} ({said})"
            )
        causes = getattr(error, "failed_files", {})
        for path, cause in causes.items():
            if isinstance(cause, hub_errors.FileIntegrityError):
                return ModelFileError(
                    f"{path} of {name} arrives from ModelScope other than listed there, and is not "
                    f"kept: {str(cause).partition(chr(10))[0]}; try again later, or {_ELSEWHERE}"
                )
        first = next((f"{path}: {cause}" for path, cause in causes.items()), "").split("\n")[0]
        return ModelNotFoundError(
            f"fetching {name} (revision {revision}) from {self._config.endpoint} failed: "
            f"{first or said}; try again, what has arrived is kept; or {_ELSEWHERE}"
        )

    def _what_is_missing(self) -> str:
        """The repository or its revision, for which the listing gives the same answer."""
        try:
            known = self._api.list_repo_revisions(self._name, "model")
        except HubError:
            return (
                f"no repository {self._name} on ModelScope, or it is private: check the spelling; "
                f"for a private one pass token= or set MODELSCOPE_API_TOKEN"
            )
        found = [str(each.get("Revision")) for each in known[:10] if isinstance(each, dict)]
        return (
            f"{self._name} has no revision {self.revision!r}: expected a branch, a tag or a commit"
            + (f", such as {', '.join(found)}" if found else "")
        )


def _token(given: str | bool | None) -> str | None:
    """The client's own if None or True, none at all if False."""
    return given if isinstance(given, str) else "" if given is False else None


def _is_hash(value: object) -> bool:
    """True without one, too: the client then compares sizes alone, as with Hugging Face."""
    return value is None or (isinstance(value, str) and SHA256.fullmatch(value) is not None)


def _agrees(path: Path, file: FileInfo) -> bool:
    """True if the file is there and is the one that is listed."""
    if not path.is_file() or (file.size and path.stat().st_size != file.size):
        return False
    sha256_of = sha256_of_weights if path.suffix == _WEIGHTS else sha256_of_file
    return file.sha256 is None or sha256_of(path) == file.sha256
