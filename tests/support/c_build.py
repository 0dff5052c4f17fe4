"""Compiles C test programs and fuzz targets, each object once per process.

program = build("parse_safetensors", ["tests/c/parse_safetensors.c", *LOADER], sanitize=ASAN)
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from csrc.sources import engine_sources, kernel_sources

ROOT = Path(__file__).resolve().parents[2]

# A source, relative to the repository, or one with flags of its own.
Source = str | tuple[str, tuple[str, ...]]

LOADER: tuple[Source, ...] = (
    "csrc/error.c",
    "csrc/floats.c",
    "csrc/json.c",
    "csrc/model.c",
    "csrc/weight_table.c",
    "csrc/prefetch.c",
    "csrc/safetensors.c",
)

# The whole engine, without Python.
ENGINE: tuple[Source, ...] = (
    *engine_sources(),
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


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="qe-c-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


@cache
def _compile(compiler: str, source: str, flags: tuple[str, ...]) -> Path:
    key = sha256("\0".join((compiler, source, *flags)).encode()).hexdigest()[:16]
    target = _folder() / f"{Path(source).stem}-{key}.o"
    _run([compiler, *flags, "-c", source, "-o", str(target)])
    return target


@cache
def _link(
    compiler: str,
    name: str,
    sources: tuple[Source, ...],
    flags: tuple[str, ...],
    link: tuple[str, ...],
) -> Path:
    objects = []
    for source in sources:
        path, own = (source, ()) if isinstance(source, str) else source
        objects.append(
            str(_compile(compiler, path, (*WARNINGS, "-Icsrc", "-Itests/c", *flags, *own)))
        )
    key = sha256("\0".join((compiler, *objects, *flags, *link)).encode()).hexdigest()[:16]
    target = _folder() / f"{name}-{key}"
    _run([compiler, *flags, *objects, *link, "-lm", "-pthread", "-o", str(target)])
    return target


def build(
    name: str,
    sources: Sequence[Source],
    *,
    sanitize: str = "",
    compiler: str = "gcc",
    flags: Sequence[str] = ("-O1", "-g"),
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
        The program. It is deleted when the process ends.

    Raises
    ------
    RuntimeError
        The compiler failed; its command and output are the message.
    """
    if sanitize:
        flags = (*flags, f"-fsanitize={sanitize}", "-fno-sanitize-recover=all")
    return _link(compiler, name, tuple(sources), tuple(flags), tuple(link))
