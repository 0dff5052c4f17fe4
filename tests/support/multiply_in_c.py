"""One product on one instruction set, by tests/c/multiply_int8.c."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from csrc.sources import AVX512, BYTES, SETS
from tests.support.c_build import EMULATOR, ENGINE, Source, build
from tests.support.reference import Floats

# Sets of other processors, whose kernels for int8 or Q8_0 also run on one with AVX-512-VNNI:
# those of avx_vnni, compiled for that encoding of the instruction, and Q8_0 beside AMX.
ELSEWHERE = {"avx_vnni": ("int8", "q8_0"), "amx_bf16": ("q8_0",)}


@cache
def program(forced: str | None) -> Path:
    sources: tuple[Source, ...] = ENGINE
    if forced == "avx_vnni":
        own = {f"csrc/cpu/{file}" for file in SETS["avx_vnni"][0] if "avx_vnni" in file}
        flags = (*AVX512, "-mavx512vnni", *BYTES, "-DQE_ISA=avx_vnni", "-Wno-psabi")
        sources = tuple((s[0], flags) if s[0] in own else s for s in ENGINE)
    defines = () if forced is None else (f"-DFORCED_ISA={forced}",)
    own_file = ("tests/c/multiply_int8.c", defines)  # the engine's objects are other tests', too
    return build(f"multiply_int8_{forced or 'chosen'}", [own_file, *sources])


def multiply_in_c(
    isa: str, n_threads: int, x: Floats, w: Any, scales: Floats | None, *, forced: bool = False
) -> Floats:
    """x (m, k), of bf16 values, times the transpose of w: (n, k) int8 with scales (n), or Q8_0
    (n, k / 32, 34) bytes."""
    (m, k), n = x.shape, len(w)
    given = np.array([m, n, k], "<i4").tobytes() + (x.view(np.uint32) >> 16).astype("<u2").tobytes()
    given += w.tobytes() + (b"" if scales is None else scales.astype("<f4").tobytes())
    kind = "q8_0" if scales is None else "int8"
    command = [*EMULATOR, str(program(isa if forced else None)), isa, str(n_threads), kind]
    done = subprocess.run(command, input=given, capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<f4").reshape(m, n)
