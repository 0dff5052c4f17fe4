"""Logs of a server on standard error: JSON or plain lines, never with a client's text."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import warnings
from typing import Any

import msgspec

__all__ = ["RequestLog", "log_to_stderr"]

_FLUSH_S = 0.1


def _time(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            content["request_id"] = request_id
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The message alone, for people; the start of a server needs no time and no level."""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return record.getMessage() + trace


def log_to_stderr(level: str, as_json: bool) -> None:
    """Sends the server's logs to standard error, as JSON for programs or plain for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _PlainFormatter())
    logger = logging.getLogger("qwen3_embed.server")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False

    def log_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        logger.warning("%s", message)

    warnings.showwarning = log_warning  # in the log's own form, such as of a small `dimensions`


class RequestLog:
    """One line per request, at the level "info".

    `logging` takes 50 us per line, a fifth of all the work for a short request; here lines are
    encoded by msgspec and written every 100 ms.

    Parameters
    ----------
    logger : logging.Logger
        Its level decides whether lines are written.

    Attributes
    ----------
    is_on : bool
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.is_on = logger.isEnabledFor(logging.INFO)
        self._as_json = not any(isinstance(h.formatter, _PlainFormatter) for h in logger.handlers)
        self._lines: list[bytes] = []

    def add(self, about: dict[str, Any]) -> None:
        """Writes a line about a request soon. To be called on the event loop."""
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
        line = {"time": _time(time.time()), "level": "info", "event": "request", **about}
        self._lines.append(msgspec.json.encode(line) if self._as_json else _plain(line))

    def flush(self) -> None:
        """Writes the lines that wait."""
        if self._lines:
            lines = b"\n".join(self._lines).decode()
            self._lines.clear()
            print(lines, file=sys.stderr, flush=True)


def _plain(line: dict[str, Any]) -> bytes:
    """A line such as "15:04:05 200 /v1/embeddings 1.3 ms, mini, 8 texts, 120 tokens"."""
    text = f"{line['time'][11:19]} {line['status']} {line['route']} {line['ms']} ms"
    if "model" in line:
        text += f", {line['model']}, {line['n_texts']} texts, {line['n_tokens']} tokens"
    return text.encode()
