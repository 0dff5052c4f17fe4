"""struct Settings: the limits of a server, all of them checked before any work."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of requests, of memory, and of waiting.

    Attributes
    ----------
    max_body_bytes : int
        Body of one request; 413 above it.
    max_inputs : int
        Texts of one request; 422 above it.
    max_request_tokens : int
        Tokens of one request; 422 above it.
    max_requests : int
        Requests being read or worked on; 429 above it.
    max_held_bytes : int
        Bodies of all these requests together; 429 above it.
    max_connections : int
        Open connections; above it the one that has been idle longest is closed, or the new one.
    max_header_bytes : int
        Header of one request; the connection is closed above it.
    header_s, body_s : float
        Time for a client to send its header, and its body.
    drain_s : int
        Grace period for running requests after SIGTERM.
    stall_s : float
        Time without any finished request, while some wait, after which health is degraded.
    idle_s : float or None
        Time without requests after which a model's memory is freed; None: never.
    truncate : bool
        Default for requests that don't say whether texts that are too long are truncated.
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
