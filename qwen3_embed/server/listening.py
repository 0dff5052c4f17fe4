"""One process, one event loop, one socket; drained on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
from pathlib import Path

import uvloop

from .application import Application
from .connection import Connection, Connections
from .example import example_command, first_key

__all__ = ["listen"]

_BACKLOG = 2048
_ACCEPTS = 32  # per iteration of the event loop: a millisecond
_ACCEPT_PAUSE_S = 0.2  # after a failure, which is most often a lack of file descriptors
_SWITCH_S = 0.0005  # a thread that encodes a long answer keeps the loop from running no longer
_OTHER_FILES = 256  # weights, caches, logs

logger = logging.getLogger("qwen3_embed.server")


def listen(application: Application, host: str, port: int, key_file: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; requests that were begun are finished first.

    Parameters
    ----------
    application : Application
    host : str
    port : int
        0: any that is free.
    key_file : Path, optional
        Named in the command that is printed as an example.

    Raises
    ------
    OSError
        The address is taken or not this machine's.
    """
    _allow_files(application.settings.max_connections)
    sys.setswitchinterval(_SWITCH_S)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(
            f"--host {host} --port {port}: {error.strerror}; choose a free port of this machine"
        ) from None
    with listening as sock:
        sock.setblocking(False)
        found_host, found_port = sock.getsockname()[:2]
        address = f"[{found_host}]" if ":" in found_host else found_host
        names = ", ".join(application.registry.names())
        url = f"http://{address}:{found_port}"
        key = None if key_file is None else first_key(key_file)
        lines = [
            f"serving {names} at {url}",
            f"try: {example_command(application.registry, url, key)}",
        ]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Server(application, sock).run(lines))
        logger.warning("drained")


class _Server:
    """Accepts connections, watches their deadlines, and drains them at the end.

    Event loops accept one connection, or a backlog, per iteration: too few or too many where an
    iteration also answers a batch. Here an iteration accepts up to `_ACCEPTS`.
    """

    def __init__(self, application: Application, sock: socket.socket) -> None:
        self._application = application
        self._sock = sock
        self._connections = Connections(application)
        self._opening: set[asyncio.Task[object]] = set()
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()

    async def run(self, lines: list[str]) -> None:
        """Serves until it is stopped; the lines are logged once it can be."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        self._application.open()
        loop.add_reader(self._sock, self._accept)
        for line in lines:
            logger.warning("%s", line)
        watching = loop.create_task(self._watch())
        await self._stop.wait()
        loop.remove_reader(self._sock)
        self._sock.close()
        self._connections.drain()
        await self._wait_for_answers()
        watching.cancel()
        self._application.close()

    def _interrupt(self) -> None:
        """Ctrl-C drains, a second one ends at once."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS):
            try:
                accepted, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("no connection can be accepted: %s", error)
                loop.remove_reader(self._sock)
                loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
                return
            accepted.setblocking(False)
            opening = loop.create_task(
                loop.connect_accepted_socket(lambda: Connection(self._connections), accepted)
            )
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def _accept_again(self) -> None:
        if not self._stop.is_set():
            asyncio.get_running_loop().add_reader(self._sock, self._accept)

    async def _watch(self) -> None:
        settings = self._application.settings
        waits_s = [settings.header_s, settings.body_s, settings.idle_s or settings.header_s]
        interval_s = min(1.0, *(wait_s / 4 for wait_s in waits_s))
        while True:
            await asyncio.sleep(interval_s)
            self._connections.check_deadlines()
            self._application.shared.idle_models.unload_idle()

    async def _wait_for_answers(self) -> None:
        """Returns when all answers are written, after the grace period, or at a second Ctrl-C."""
        waiting = asyncio.create_task(self._kill.wait())
        until_s = asyncio.get_running_loop().time() + self._application.settings.drain_s
        while self._connections.open or self._opening:
            left_s = until_s - asyncio.get_running_loop().time()
            if left_s <= 0 or self._kill.is_set():
                logger.warning("%d requests were not finished", len(self._connections.open))
                self._connections.abort()
                break
            await asyncio.wait([waiting], timeout=min(left_s, 0.02))
        waiting.cancel()


def _allow_files(n_connections: int) -> None:
    """Allows as many open files as connections need, within the system's limit."""
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
