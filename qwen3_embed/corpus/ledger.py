"""class Ledger: what a job has finished, in a folder that outlives the process.

Four files that only grow, and state.json, replaced whole, which says how much of each counts.
What a killed process wrote past that is cut off when the ledger is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..encoding.truncation import Truncation

__all__ = ["BAD", "Ledger", "State"]

BAD = -1
"""In the numbers: a row without a vector."""

_FORMAT = 2  # of state.json
_FILES = ("vectors", "numbers", "kept", "bad")


@dataclass(slots=True)
class State:
    """Counts of what is finished.

    Attributes
    ----------
    n_rows, n_vectors, n_bad : int
        Rows read; distinct texts computed; rows without a vector.
    truncation : Truncation
        Of the distinct texts; `longest_index` is a row's number.
    digest : str
        Of everything read so far, in hex.
    not_finite : list of int
        Numbers of vectors that came out with NaN or infinity.
    """

    n_rows: int = 0
    n_vectors: int = 0
    n_bad: int = 0
    truncation: Truncation = field(default_factory=Truncation)
    digest: str = ""
    not_finite: list[int] = field(default_factory=list)


class Ledger:
    """Opens a job's folder, new or as it was left.

    Parameters
    ----------
    folder : Path
    settings : dict
        What decides the result; a job goes on only with the same.
    dim : int
        Floats per vector.

    Raises
    ------
    ValueError
        The folder is of a job with other settings.
    BlockingIOError
        Another process is at work on it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], dim: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._settings = settings
        self._dim = dim
        self._lock = open(folder / "lock", "wb")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BlockingIOError(f"another process is at work on {folder}") from None
        self.state, sizes = self._read()
        self._files: dict[str, IO[bytes]] = {}
        for name in _FILES:
            file = open(folder / name, "ab")  # noqa: SIM115 - closed by close()
            file.truncate(sizes.get(name, 0))
            file.seek(0, os.SEEK_END)
            self._files[name] = file

    def append(
        self,
        numbers: npt.NDArray[np.int64],
        vectors: npt.NDArray[np.float32],
        kept: bytes,
        bad: bytes,
    ) -> None:
        """Adds rows: (n,) numbers of their vectors, (k, dim) new vectors, lines of the others."""
        self._files["numbers"].write(numbers.astype("<i8", copy=False).data)
        self._files["vectors"].write(vectors.astype("<f4", copy=False).data)
        self._files["kept"].write(kept)
        self._files["bad"].write(bad)
        self.state.n_rows += len(numbers)
        self.state.n_vectors += len(vectors)

    def commit(self) -> None:
        """Makes everything appended so far durable: it survives a power cut."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        content = {
            "format": _FORMAT,
            "settings": self._settings,
            "state": asdict(self.state),
            "bytes": {name: file.tell() for name, file in self._files.items()},
        }
        part = self.folder / "state.part"
        with open(part, "wb") as state:
            state.write(json.dumps(content, ensure_ascii=False, indent=1).encode())
            state.flush()
            os.fsync(state.fileno())
        os.replace(part, self.folder / "state.json")

    def vectors(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n, dim) float32: the vectors with these numbers; NaN for BAD."""
        rows = np.full((len(numbers), self._dim), np.nan, np.float32)
        good = np.flatnonzero(numbers != BAD)
        if len(good):
            # Mapped anew each time: what was touched is not held on to.
            stored = np.memmap(self.folder / "vectors", "<f4", "r").reshape(-1, self._dim)
            rows[good] = stored[numbers[good]]
        return rows

    def close(self) -> None:
        """Lets go of the folder. Idempotent."""
        for file in (*self._files.values(), self._lock):
            file.close()

    def _read(self) -> tuple[State, dict[str, int]]:
        try:
            content = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return State(), {}
        if content.get("format") != _FORMAT:
            self._lock.close()
            raise ValueError(
                f"{self.folder} was begun by another version of qwen3_embed, which cannot be "
                f"resumed: delete the folder and start again"
            )
        for name, value in self._settings.items():
            if content["settings"].get(name) != value:
                self._lock.close()
                raise ValueError(
                    f"{self.folder} is of a job with {name}={content['settings'].get(name)!r}, "
                    f"and now it is {value!r}: use the same, or delete the folder and start anew"
                )
        state = State(**content["state"])
        state.truncation = Truncation(**content["state"]["truncation"])
        return state, content["bytes"]
