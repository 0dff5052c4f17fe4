"""class CrossOrigin: which web pages may call the server from a browser. By default none may."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["CrossOrigin"]

_ANY = "*"
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9-]+(?:\s*,\s*[A-Za-z0-9-]+){0,63}")
_EXPOSED = b"x-request-id, retry-after"
_MAX_AGE_S = b"600"

Headers = list[tuple[bytes, bytes]]


class CrossOrigin:
    """The allowed origins.

    Parameters
    ----------
    origins : sequence of str
        Such as "https://app.example"; "*" for all.

    Raises
    ------
    ValueError
        One that is no origin: scheme and host, without a path.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        for origin in origins:
            if origin != _ANY and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
                raise ValueError(
                    f"--cors-origin {origin}: expected an origin such as https://app.example, or *"
                )
        self._origins = {origin.encode() for origin in origins}

    def is_preflight(self, request: Mapping[bytes, bytes]) -> bool:
        """True if a browser asks, for an allowed page, before it sends a request."""
        return b"access-control-request-method" in request and bool(self._allowed(request))

    def preflight(self, request: Mapping[bytes, bytes], methods: str) -> Headers:
        """Headers of the answer to such a question.

        Clients add headers of their own, so those that the browser names are allowed.
        """
        named = request.get(b"access-control-request-headers", b"").strip()
        if not _HEADER_NAMES.fullmatch(named):
            named = b"authorization, content-type"
        return [
            *self._allowed(request),
            (b"access-control-allow-methods", methods.encode()),
            (b"access-control-allow-headers", named),
            (b"access-control-max-age", _MAX_AGE_S),
        ]

    def headers(self, request: Mapping[bytes, bytes]) -> Headers:
        """Headers of any other answer; none if the page is not allowed to read it."""
        allowed = self._allowed(request)
        return [*allowed, (b"access-control-expose-headers", _EXPOSED)] if allowed else []

    def _allowed(self, request: Mapping[bytes, bytes]) -> Headers:
        origin = request.get(b"origin")
        if origin is None:
            return []
        if _ANY.encode() in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        return []
