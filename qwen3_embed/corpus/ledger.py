"""class Ledger: the finished part of a run, in a folder that outlives the process.

Four files are only appended to; state.json, which is replaced atomically, records how many bytes of
each are committed. Opening the ledger truncates whatever a killed process wrote beyond that.
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
"""The number of a record that has no vector."""

_FORMAT = 2  # of state.json
_FILES = ("vectors", "numbers", "kept", "bad")


@dataclass(slots=True)
class State:
    """Counts of the finished part of a run.

    Attributes
    ----------
    n_records, n_vectors, n_bad, n_empty : int
        Records read; distinct texts encoded; records without a vector; empty texts.
    truncation : Truncation
        Of the distinct texts; `longest_index` is the index of a record.
    digest : str
        Hash in hex of everything read so far.
    not_finite : list of int
        Numbers of vectors that came out with NaN or infinity.
    """

    n_records: int = 0
    n_vectors: int = 0
    n_bad: int = 0
    n_empty: int = 0
    truncation: Truncation = field(default_factory=Truncation)
    digest: str = ""
    not_finite: list[int] = field(default_factory=list)


class Ledger:
    """Opens a run's folder, new or as the last process left it.

    Parameters
    ----------
    folder : Path
    settings : dict
        Everything that decides the result; a run resumes only with equal settings.
    dim : int
        Floats per vector.

    Raises
    ------
    ValueError
        The folder belongs to a run with other settings, or of another version.
    BlockingIOError
        Another process is using the folder.
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
            raise BlockingIOError(
                f"another process is using {folder}: wait for it, or end it"
            ) from None
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
        """Appends records; they count once `commit` returns.

        Parameters
        ----------
        numbers : ndarray
            (n,) int64: the number of each record's vector, or BAD.
        vectors : ndarray
            (k, dim) float32: the new vectors, which get the next k numbers.
        kept, bad : bytes
            JSON lines: the kept columns of the good records, and the bad records.
        """
        self._files["numbers"].write(numbers.astype("<i8", copy=False).data)
        self._files["vectors"].write(vectors.astype("<f4", copy=False).data)
        self._files["kept"].write(kept)
        self._files["bad"].write(bad)
        self.state.n_records += len(numbers)
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
        """Reads the vectors with these numbers: (n, dim) float32, NaN for BAD."""
        rows = np.full((len(numbers), self._dim), np.nan, np.float32)
        good = np.flatnonzero(numbers != BAD)
        if len(good):
            # Mapped anew for each call, so that pages read before are not kept.
            stored = np.memmap(self.folder / "vectors", "<f4", "r").reshape(-1, self._dim)
            rows[good] = stored[numbers[good]]
        return rows

    def close(self) -> None:
        """Closes the files and releases the lock. Idempotent."""
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
            begun = content["settings"].get(name)
            if begun != value:
                self._lock.close()
                raise ValueError(
                    f"{self.folder} belongs to a run with {name}={begun!r}, and now it is "
                    f"{value!r}: use the same, or delete the folder and start again"
                )
        state = State(**content["state"])
        state.truncation = Truncation(**content["state"]["truncation"])
        return state, content["bytes"]
