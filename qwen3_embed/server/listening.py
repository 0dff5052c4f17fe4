"""One process, one event loop, one socket: uvicorn with our bounds, drained on SIGTERM."""

from __future__ import annotations

import logging
import resource
import signal
import socket
from types import FrameType

import uvicorn

from .application import Application
from .connection import connection_class

__all__ = ["listen"]

_BACKLOG = 2048
_OTHER_FILES = 256  # weights, caches, logs
_KEEP_ALIVE_S = 75  # longer than proxies keep theirs, so that they close first

logger = logging.getLogger("qwen3_embed.server")


def listen(application: Application, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; requests that were begun are finished first.

    Raises
    ------
    OSError
        The address can't be had.
    """
    _allow_files(application.settings.max_connections)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=_BACKLOG) as sock:
        found_host, found_port = sock.getsockname()[:2]
        config = uvicorn.Config(
            application,
            http=connection_class(application.settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here believes X-Forwarded-For
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=application.settings.drain_s,
            backlog=_BACKLOG,
        )
        address = f"[{found_host}]" if ":" in found_host else found_host
        names = ", ".join(application.registry.names())
        logger.warning("serving %s at http://%s:%d", names, address, found_port)
        _Server(config).run([sock])
        logger.warning("drained")


def _allow_files(n_connections: int) -> None:
    """As many open files as connections need, if the system lets this process have them."""
    needed = n_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            logger.warning(
                "%d open files are allowed, %d connections need %d: raise the limit (ulimit -Hn), "
                "or lower --max-connections",
                allowed,
                n_connections,
                needed,
            )


class _Server(uvicorn.Server):
    should_exit: bool

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, but the signal isn't raised again: to be drained is no failure."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
