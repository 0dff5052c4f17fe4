"""Colours on a terminal: an aid to the eye, never the only sign of anything."""

from __future__ import annotations

import os
from typing import TextIO

__all__ = ["BOLD", "CYAN", "GREEN", "RED", "YELLOW", "has_colours", "paint"]

BOLD, RED, GREEN, YELLOW, CYAN = "\033[1m", "\033[31m", "\033[32m", "\033[33m", "\033[36m"
_PLAIN = "\033[0m"


def has_colours(stream: TextIO) -> bool:
    """True for a terminal that shows colours, of a person who did not set NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, where the stream has colours."""
    return f"{colour}{text}{_PLAIN}" if has_colours(stream) else text
