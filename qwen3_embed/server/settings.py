"""struct Settings: the bounds that a server holds, all of them before it works."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of requests, of what is held at a time, and of patience.

    Attributes
    ----------
    max_body_bytes : int
        Of one request: 413 beyond.
    max_inputs : int
        Texts of one request: 422 beyond.
    max_request_tokens : int
        Tokens of one request: 422 beyond.
    max_requests : int
        Requests that are being read or worked on: 429 beyond.
    max_held_bytes : int
        Bodies of all of them together: 429 beyond.
    max_connections : int
        One beyond closes that which has been idle longest, or is closed itself.
    max_header_bytes : int
        Of one request.
    header_s, body_s : float
        How long a client may take to send its header, and its body.
    drain_s : int
        How long requests may go on after SIGTERM.
    stall_s : float
        Requests wait and none has been finished for so long: health is degraded.
    idle_s : float or None
        Time without requests after which a model's memory is freed; None: never.
    truncate : bool
        Whether texts that are too long are cut where a request doesn't say.
    cors_origins : tuple of str
        Web pages that browsers may call from: "https://app.example", or "*" for all.
    """

    max_body_bytes: int = 16 << 20
    max_inputs: int = 2048
    max_request_tokens: int = 1 << 20
    max_requests: int = 512
    max_held_bytes: int = 256 << 20
    max_connections: int = 1024
    max_header_bytes: int = 32 << 10
    header_s: float = 60.0
    body_s: float = 60.0
    drain_s: int = 30
    stall_s: float = 300.0
    idle_s: float | None = None
    truncate: bool = False
    cors_origins: tuple[str, ...] = ()
