"""SHA-256 of files; that of a weight file is computed once and remembered."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from .user_cache import cache_folder

__all__ = ["SHA256", "sha256_of_file", "sha256_of_weights"]

SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_weights(path: Path) -> str:
    """SHA-256 of a weight file, in hex.

    The hub's cache names files by this hash, so there the name is used. Elsewhere the file is
    read once, and the result kept in the user's cache folder under the file's device, inode,
    size and times.
    """
    if path.is_symlink():
        target = Path(os.readlink(path))
        if target.parent.name == "blobs" and SHA256.fullmatch(target.name):
            return target.name
    status = path.stat()
    key = (
        f"{status.st_dev}-{status.st_ino}-{status.st_size}-"
        f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    )
    kept = cache_folder("sha256") / key
    try:
        digest = kept.read_text("ascii")
        if SHA256.fullmatch(digest):
            return digest
    except (OSError, ValueError):
        pass  # not there, or not ours: computed below
    digest = sha256_of_file(path)
    _keep(kept, digest)
    return digest


def _keep(kept: Path, digest: str) -> None:
    """Best effort: without a writable cache folder, the hash is computed again next time."""
    part = kept.with_name(f".{kept.name}.{os.getpid()}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(digest, "ascii")
        os.replace(part, kept)
    except OSError:
        return
