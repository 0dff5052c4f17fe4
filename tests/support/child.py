"""A process that a test starts and then interrupts, kills or talks to."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def child(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Starts the command; kills it at the end of the block if it still runs.

    SIGINT has its default effect in the process even where the tests ignore it, as a shell's
    background jobs do: an ignored signal would be inherited.
    """
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, **options)
    finally:
        signal.signal(signal.SIGINT, inherited)
    with process:  # closes its pipes
        try:
            yield process
        finally:
            process.kill()
