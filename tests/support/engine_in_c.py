"""The engine as a C program, tests/c/embed_tokens.c: of changed sources, or of another processor.

core = CoreInC(build_engine())
open_engine(folder, core=core)  # as with qwen3_embed._core
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.c_build import EMULATOR, ENGINE, Source, build
from tests.support.reference import Floats

SIZES = ["hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads", "head_dim"]
SIZES += ["vocab_size", "max_length"]


def build_engine(isa: str = "", source: str = "", changed: str = "") -> Path:
    """The program; of `source`, for that instruction set or for all, `changed` is compiled."""
    sources: list[Source] = ["tests/c/embed_tokens.c"]
    for unit in ENGINE:
        path, flags = (unit, ()) if isinstance(unit, str) else unit
        is_others = any(f.startswith("-DQE_ISA=") and f != f"-DQE_ISA={isa}" for f in flags)
        if path == source and not is_others:
            # Its headers are found as from its place among the true sources.
            path, flags = changed, (*flags, f"-I{Path(source).parent}")
        sources.append((path, flags))
    return build("embed_tokens", sources)


class CoreInC:
    """Stands in for `qwen3_embed._core`: an engine runs the program anew for each call."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def instruction_sets(self) -> list[str]:
        command = [*EMULATOR, str(self.program), "sets"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True)
        return listed.stdout.split()

    def Engine(self, paths: Sequence[str], config: Mapping[str, Any], **options: Any) -> EngineInC:
        return EngineInC(self.program, paths, config, **options)


class EngineInC:
    """One model on the instruction set that the environment forces when it is opened."""

    def __init__(
        self,
        program: Path,
        paths: Sequence[str],
        config: Mapping[str, Any],
        *,
        dtype: str = "bfloat16",
        num_threads: int = 0,
        batch_tokens: int = 0,
    ) -> None:
        self.begin, self.environment = [*EMULATOR, str(program), dtype], dict(os.environ)
        self.end = [str(num_threads), str(batch_tokens), *paths]
        scalars = [config["rms_norm_eps"], config["rope_scale"], *config["rope_inv_freq"]]
        self.config = np.array([config[name] for name in SIZES], "<i4").tobytes()
        self.config += np.array(scalars, "<f4").tobytes()

    @property
    def info(self) -> dict[str, str]:
        two = np.array([0, 2], np.int32)  # one text of two tokens
        return {"kernels": self._run(two * 0, two, 1, True)[0]}

    def rows(self, n: int, dim: int) -> Floats:
        return np.full((n, dim), np.nan, np.float32)

    def submit(
        self, tokens: Any, cu_seqlens: Any, rows: Floats, first: int, normalize: bool
    ) -> EngineInC:
        found = self._run(tokens, cu_seqlens, rows.shape[1], normalize)[1]
        rows[first : first + len(found)] = found
        return self

    def wait(self) -> None:
        """Of a job, which was done at once."""

    def close(self) -> None:
        """There is nothing to close between calls."""

    def _run(self, tokens: Any, cu_seqlens: Any, dim: int, unit: bool) -> tuple[str, Floats]:
        counts = np.array([dim, len(cu_seqlens) - 1], "<i4")
        given = self.config + b"".join(a.astype("<i4").tobytes() for a in (counts, cu_seqlens))
        given += tokens.astype("<i4").tobytes()
        command = [*self.begin, "unit" if unit else "raw", *self.end]
        done = subprocess.run(command, input=given, capture_output=True, env=self.environment)
        assert done.returncode == 0, done.stderr.decode()
        kernels, rows = done.stdout[:32].split(b"\0")[0].decode(), done.stdout[32:]
        return kernels, np.frombuffer(rows, "<f4").reshape(-1, dim)
