"""Compiles C test programs and fuzz targets; objects are kept in build/tests by their content.

program = build("parse_safetensors", ["tests/c/parse_safetensors.c", *LOADER], sanitize=ASAN)

All tests use the objects that `PLAIN` flags give, so that the engine is compiled once, and what a
sanitizer watches once more. With QE_TEST_ARM=max, or another of qemu's processors, programs are
compiled for aarch64, and EMULATOR runs them.
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

ARM = os.environ.get("QE_TEST_ARM", "")
COMPILER = "aarch64-linux-gnu-gcc" if ARM else "gcc"
EMULATOR = ("qemu-aarch64-static", "-cpu", ARM) if ARM else ()  # before a program's path

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
    *(
        (source, (*flags, "-Wno-psabi"))
        for _, source, flags in kernel_sources("aarch64" if ARM else "")
    ),
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

# Little to compile; where programs are emulated, little to run.
PLAIN = ("-O2" if ARM else "-O1", "-g1", "-ffp-contract=off", "-fno-math-errno")


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


def _sanitizer(sanitize: str) -> tuple[str, ...]:
    return (f"-fsanitize={sanitize}", "-fno-sanitize-recover=all") if sanitize else ()


def _runs_here(source: Source) -> bool:
    """False for the kernels of sets that an engine does not choose here."""
    from qwen3_embed import _core

    chosen = os.environ.get("QWEN3_EMBED_ISA") or _core.instruction_sets()[0]
    own = [] if isinstance(source, str) else [f for f in source[1] if f.startswith("-DQE_ISA=")]
    return own in ([], [f"-DQE_ISA={chosen}"])


def compile_object(source: Source, flags: Sequence[str] = PLAIN, compiler: str = COMPILER) -> str:
    """The object of one source; the same arguments and content give the same file."""
    path, own = (source, ()) if isinstance(source, str) else source
    parts = [_surroundings(compiler), (ROOT / path).read_text()]
    command = [compiler, *WARNINGS, "-Icsrc", "-Itests/c", *flags, *own, "-c", path]
    return str(_made(f"{Path(path).stem}.o", parts, command))


def compile_objects(
    sources: Sequence[Source],
    flags: Sequence[str] = PLAIN,
    *,
    sanitize: str = "",
    compiler: str = COMPILER,
) -> list[str]:
    """The objects of sources, in order; `sanitize` watches those that run on this machine."""

    def compile_one(source: Source) -> str:
        watch = _sanitizer(sanitize) if sanitize and _runs_here(source) else ()
        return compile_object(source, (*flags, *watch), compiler)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def link_objects(name: str, objects: Sequence[str], flags: Sequence[str], compiler: str) -> Path:
    """The program or library of these objects."""
    static = ["-static"] if ARM else []
    return _made(name, [], [compiler, *objects, *flags, *static, "-lm", "-pthread"])


def build(
    name: str,
    sources: Sequence[Source],
    *,
    sanitize: str = "",
    compiler: str = COMPILER,
    flags: Sequence[str] = PLAIN,
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
        ``"gcc"``, ``"clang"`` or a cross compiler.
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
    objects = compile_objects(sources, flags, sanitize=sanitize, compiler=compiler)
    return link_objects(name, objects, (*flags, *_sanitizer(sanitize), *link), compiler)
