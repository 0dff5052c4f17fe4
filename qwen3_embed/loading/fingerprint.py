"""Fingerprints: two Embedders with the same fingerprint give the same vectors.

It covers the weights, the tokenizer and its settings, the config, the pooling, the dtype and
the version of our numerics; not the device.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..version import NUMERICS_VERSION
from .files import ModelFiles
from .user_cache import cache_folder

__all__ = ["fingerprint_of", "sha256_of_weights"]

# What else decides the bits of a dtype; CPU and GPU each have theirs.
_SCHEMES = {
    "int8": "int8 activation_group=128 equalised_by=weights",
    "int8-weights": "int8-weights group=row scale=bf16 equalised_by=weights",
}
_STORED = "int8 activation_group=128 weights=stored"
_BLOCKS = "int8 activation_group=128 weights=q8_0"

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprint_of(
    files: ModelFiles,
    *,
    dtype: str,
    max_length: int,
    special_tokens_in_text: bool,
    others: Iterable[str] = (),
) -> str:
    """SHA-256, in hex, of everything that determines a vector.

    Parameters
    ----------
    files : ModelFiles
    dtype : str
        Of the weights in the engine.
    max_length : int
        In tokens: long texts are cut there.
    special_tokens_in_text : bool
    others : iterable of str
        Further parts: an adapter, a reranker's head.

    Returns
    -------
    str
        64 hex digits.
    """
    config = files.config.for_engine(max_length)
    inv_freq = config.pop("rope_inv_freq")
    parts = [f"weights {sha256_of_weights(shard)}" for shard in files.shards]
    parts += [
        f"tokenizer {_sha256_of_tokenizer(files)} special_tokens_in_text={special_tokens_in_text}",
        *(f"{name}={value!r}" for name, value in sorted(config.items())),
        f"rope_inv_freq={inv_freq.astype('<f4').tobytes().hex()}",
        "pooling=last_token",
        f"dtype={_scheme(files, dtype)}",
        f"numerics={NUMERICS_VERSION}",
        *others,
    ]
    if files.equalisation is not None:
        parts.append(f"equalisation {_sha256(files.equalisation)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _scheme(files: ModelFiles, dtype: str) -> str:
    if files.stored is None:
        return _SCHEMES.get(dtype, dtype)
    return _STORED if files.places is None else _BLOCKS


def _sha256_of_tokenizer(files: ModelFiles) -> str:
    """Of its file, or of the GGUF file that holds it."""
    if files.tokenizer in files.shards:
        return sha256_of_weights(files.tokenizer)
    return _sha256(files.tokenizer)


def sha256_of_weights(path: Path) -> str:
    """SHA-256 of a weight file, in hex.

    The hub's cache names files by this hash, so there the name is used. Elsewhere the file is
    read once, and the result kept in the user's cache folder under the file's device, inode,
    size and times.
    """
    if path.is_symlink():
        target = Path(os.readlink(path))
        if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
            return target.name
    status = path.stat()
    key = (
        f"{status.st_dev}-{status.st_ino}-{status.st_size}-"
        f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    )
    kept = cache_folder("sha256") / key
    try:
        digest = kept.read_text("ascii")
        if _SHA256.fullmatch(digest):
            return digest
    except (OSError, ValueError):
        pass  # not there, or not ours: computed below
    digest = _sha256(path)
    _keep(kept, digest)
    return digest


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(kept: Path, digest: str) -> None:
    """Best effort: without a writable cache folder, the hash is computed again next time."""
    part = kept.with_name(f".{kept.name}.{os.getpid()}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(digest, "ascii")
        os.replace(part, kept)
    except OSError:
        return
