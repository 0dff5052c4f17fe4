"""Logs of a server: one JSON object per line on standard error, never with a client's text."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["log_as_json"]

_FIELDS = ("request_id", "route", "status", "ms", "model", "n_texts", "n_tokens")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for name in _FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                content[name] = value
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def log_as_json(level: str) -> None:
    """Sends the logs of the server and of uvicorn to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    for name, least in (("qwen3_embed.server", level), ("uvicorn.error", "warning")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least.upper())
        logger.propagate = False
