"""class Keys: API keys. A request's key is compared with all of them, in constant time."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

__all__ = ["Keys"]

_MIN_CHARACTERS = 16


class Keys:
    """The keys in a file, one per line; lines that begin with # are comments.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        The file has no key, or one that is too short to be a secret.
    """

    def __init__(self, path: Path) -> None:
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"{path} contains no key, expected one per line")
        if min(map(len, keys)) < _MIN_CHARACTERS:
            raise ValueError(f"{path} contains a key shorter than {_MIN_CHARACTERS} characters")
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def allow(self, authorization: bytes) -> bool:
        """True if the value of an Authorization header contains one of the keys."""
        scheme, _, token = authorization.partition(b" ")
        digest = sha256(token.strip()).digest()
        matches = [compare_digest(digest, known) for known in self._digests]
        return any(matches) and scheme.lower() == b"bearer"
