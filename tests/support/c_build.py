"""Compiles C test programs and fuzz targets; objects are kept in build/tests by their content.

program = build("parse_safetensors", ["tests/c/parse_safetensors.c", *LOADER], sanitize=ASAN)
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fcntl import LOCK_EX, flock
from functools import cache
from hashlib import sha256
from pathlib import Path

from csrc.sources import engine_sources, kernel_sources

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "tests"

# A source, relative to the repository, or one with flags of its own.
Source = str | tuple[str, tuple[str, ...]]

LOADER: tuple[Source, ...] = (
    "csrc/error.c",
    "csrc/floats.c",
    "csrc/json.c",
    "csrc/map_file.c",
    "csrc/model.c",
    "csrc/config.c",
    "csrc/weight_table.c",
    "csrc/prefetch.c",
    "csrc/safetensors.c",
)

# The whole engine, without Python.
ENGINE: tuple[Source, ...] = (
    *((source, ("-Wno-psabi",)) for source in engine_sources()),
    *((source, (*flags, "-Wno-psabi")) for _, source, flags in kernel_sources()),
)

# What a test of faults links beside its own file, and with which options.
FAULTS: tuple[Source, ...] = (
    "tests/c/fault_runs.c",
    "tests/c/faults.c",
    "tests/c/model_args.c",
)
FAULT_LINK = tuple(
    f"-Wl,--wrap={name}"
    for name in (
        *("malloc", "calloc", "realloc", "aligned_alloc", "strdup", "open", "fstat", "mmap"),
        *("madvise", "pthread_create", "sched_getaffinity"),
    )
)

ASAN = "address,undefined"
TSAN = "thread"

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


@cache
def _surroundings(compiler: str) -> str:
    """A hash of all that an object depends on beside its source and flags."""
    content = sha256(_run([compiler, "--version"]).encode())
    for folder in ("csrc", "tests/c"):
        for header in sorted((ROOT / folder).rglob("*.h")):
            content.update(f"{header.relative_to(ROOT)}\0".encode() + header.read_bytes())
    return content.hexdigest()


def _made(name: str, parts: Sequence[str], command: Sequence[str]) -> Path:
    """The file that the command makes of these parts; made by one process if many want it."""
    key = sha256("\0".join([*parts, *command]).encode()).hexdigest()[:16]
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / f"{Path(name).stem}-{key}{Path(name).suffix}"
    with open(f"{target}.lock", "w") as lock:
        flock(lock, LOCK_EX)
        if not target.exists():
            part = f"{target}.part"
            _run([*command, "-o", part])
            os.replace(part, target)
    return target


def _compile(compiler: str, source: str, flags: Sequence[str]) -> str:
    parts = [_surroundings(compiler), (ROOT / source).read_text()]
    command = [compiler, *WARNINGS, "-Icsrc", "-Itests/c", *flags, "-c", source]
    return str(_made(f"{Path(source).stem}.o", parts, command))


def build(
    name: str,
    sources: Sequence[Source],
    *,
    sanitize: str = "",
    compiler: str = "gcc",
    flags: Sequence[str] = ("-O1", "-g1", "-ffp-contract=off", "-fno-math-errno"),
    link: Sequence[str] = (),
) -> Path:
    """Compiles and links a program; the same arguments give the same file.

    Parameters
    ----------
    name
        Of the program's file.
    sources
        C files, relative to the repository. A pair gives a file flags of its own.
    sanitize
        A value of ``-fsanitize=``: `ASAN`, `TSAN`, or none.
    compiler
        ``"gcc"`` or ``"clang"``.
    flags
        For every source, and for linking.
    link
        For linking only, before ``-lm -pthread``.

    Returns
    -------
    Path
        The program.

    Raises
    ------
    RuntimeError
        The compiler failed; its command and output are the message.
    """
    if sanitize:
        flags = (*flags, f"-fsanitize={sanitize}", "-fno-sanitize-recover=all")
    pairs = [(source, ()) if isinstance(source, str) else source for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(lambda pair: _compile(compiler, pair[0], [*flags, *pair[1]]), pairs)
        objects = list(made)
    return _made(name, [], [compiler, *flags, *objects, *link, "-lm", "-pthread"])
