"""Fingerprints: two Embedders with the same fingerprint give the same vectors.

It covers the weights, the tokenizer and its settings, the config, the pooling, the dtype and
the version of our numerics; not the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..version import NUMERICS_VERSION
from .file_hashes import sha256_of_file, sha256_of_weights
from .files import ModelFiles

__all__ = ["fingerprint_of"]

# What else decides the bits of a dtype; CPU and GPU each have theirs.
_SCHEMES = {
    "int8": "int8 activation_group=128 equalised_by=weights",
    "int8-weights": "int8-weights group=row scale=bf16 equalised_by=weights",
}
_STORED = "int8 activation_group=128 weights=stored"
_BLOCKS = "int8 activation_group=128 weights=q8_0"


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
        parts.append(f"equalisation {sha256_of_file(files.equalisation)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _scheme(files: ModelFiles, dtype: str) -> str:
    if files.stored is None:
        return _SCHEMES.get(dtype, dtype)
    return _STORED if files.places is None else _BLOCKS


def _sha256_of_tokenizer(files: ModelFiles) -> str:
    """Of its file, or of the GGUF file that holds it."""
    if files.tokenizer in files.shards:
        return sha256_of_weights(files.tokenizer)
    return sha256_of_file(files.tokenizer)
