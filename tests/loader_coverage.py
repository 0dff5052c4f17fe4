"""Measures how much of the loader the tests reach, by branch, with clang and llvm-cov.

    python -m tests.loader_coverage            # a table; exits 1 below 95 % of branches
    python -m tests.loader_coverage --missed   # and the lines with a branch not taken

What runs is what pytest and the fuzzer run: every case of make_bad_safetensors.py, the
fuzzer's seeds, the C tests of the loader, and every fault of test_faults.c.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz_loader import write_seeds
from tests.support.c_build import FAULT_LINK, FAULTS, LOADER, ROOT, Source, build
from tests.support.make_bad_safetensors import all_cases
from tests.support.model_files import SIZES, random_weights, small_weights, write_file

MEASURED = ("json.c", "safetensors.c", "config.c", "model.c", "floats.c", "prefetch.c")
MEASURED += ("weight_table.c", "map_file.c")
LEAST_PERCENT = 95.0
COVERAGE = ("-fprofile-instr-generate", "-fcoverage-mapping")


def measured(sources: Sequence[Source]) -> list[Source]:
    """The sources, those of the loader with counters."""
    return [(s, COVERAGE) if isinstance(s, str) and s in LOADER else s for s in sources]


class Programs:
    """Runs instrumented programs; each run leaves a profile in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built: list[Path] = []
        self.n_runs = 0

    def build(self, name: str, sources: Sequence[Source]) -> Path:
        fuzzer = name.startswith("fuzz")
        flags = ("-O1", "-g", "-fsanitize=fuzzer") if fuzzer else ("-O1", "-g")
        link = [COVERAGE[0]]
        link += FAULT_LINK if "tests/c/faults.c" in sources else ()
        link += ["-Wl,--wrap=mmap"] if name == "test_safetensors" else ()
        program = build(name, measured(sources), compiler="clang", flags=flags, link=link)
        self.built.append(program)
        return program

    def run(self, program: Path, *args: object, text: str = "") -> None:
        self.n_runs += 1
        profile = self.folder / f"{self.n_runs}-%p.profraw"  # one a process
        subprocess.run(
            [program, *map(str, args)],
            input=text.encode(),
            env={**os.environ, "LLVM_PROFILE_FILE": str(profile)},
            capture_output=True,
            check=False,  # a refusal is an exit status too
        )
        if not list(self.folder.glob(f"{self.n_runs}-*.profraw")):
            raise RuntimeError(f"{program.name} left no profile")

    def merged(self) -> Path:
        target = self.folder / "all.profdata"
        profiles = sorted(self.folder.glob("*.profraw"))
        subprocess.run(["llvm-profdata", "merge", *profiles, "-o", target], check=True)
        return target


def run_files(programs: Programs, folder: Path) -> None:
    """Every case through the reader, every seed through the fuzz target."""
    paths = []
    for case in all_cases():
        paths.append(folder / f"{case.name}.safetensors")
        paths[-1].write_bytes(case.content)
    reader = programs.build("parse_safetensors", ["tests/c/parse_safetensors.c", *LOADER])
    programs.run(reader, text="".join(f"{path}\n" for path in paths))
    seeds = folder / "seeds"
    write_seeds(seeds)
    target = programs.build("fuzz_safetensors", ["tests/c/fuzz_safetensors.c", *LOADER])
    programs.run(target, "-runs=0", seeds)


def run_models(programs: Programs, folder: Path) -> None:
    """The C tests, and the faults with BF16 and F32 weights."""
    sizes = list(SIZES.values())
    model_args = "tests/c/model_args.c"
    models = [
        write_file(folder / f"{dtype}.model", random_weights(dtype))
        for dtype in ("BF16", "F16", "F32")
    ]
    opener = programs.build("open_model", ["tests/c/open_model.c", model_args, *LOADER])
    for path in models:
        programs.run(opener, *sizes, path)
    programs.run(opener, *sizes, models[0], models[0])
    tester = programs.build(
        "test_model", ["tests/c/test_model.c", model_args, "csrc/adapter.c", *LOADER]
    )
    programs.run(tester, *sizes, models[0])
    tester = programs.build("test_safetensors", ["tests/c/test_safetensors.c", *LOADER])
    programs.run(tester, folder)
    faults = programs.build("test_faults", ["tests/c/test_faults.c", *FAULTS, *LOADER])
    for dtype in ("BF16", "F32"):
        path = write_file(folder / f"{dtype}.finite", small_weights(dtype))
        programs.run(faults, *sizes, path)


def report(programs: Programs, missed: bool) -> bool:
    """Prints the table; whether every file has enough."""
    profile = f"-instr-profile={programs.merged()}"
    objects = [f"-object={program}" for program in programs.built[1:]]
    common = [str(programs.built[0]), *objects, profile]
    files = [str(ROOT / "csrc" / name) for name in MEASURED]
    export = ["llvm-cov", "export", "-summary-only", *common, *files]
    found = json.loads(subprocess.run(export, check=True, capture_output=True, cwd=ROOT).stdout)
    enough = True
    print(f"{'file':<16}{'lines %':>9}{'branches':>10}{'taken':>7}{'%':>8}")
    for entry in found["data"][0]["files"]:
        branches, lines = entry["summary"]["branches"], entry["summary"]["lines"]
        percent = 100.0 * branches["covered"] / branches["count"]
        enough &= percent >= LEAST_PERCENT
        name = Path(entry["filename"]).name
        print(
            f"{name:<16}{lines['percent']:>9.1f}{branches['count']:>10}"
            f"{branches['covered']:>7}{percent:>8.1f}"
        )
    if missed:
        show = ["llvm-cov", "show", "-show-branches=count", *common, *files]
        text = subprocess.run(show, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        for line in text.splitlines():
            if line.startswith(str(ROOT)) or ("Branch" in line and ": 0" in line):
                print(line.removeprefix(f"{ROOT}/"))
    return enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--missed", action="store_true", help="list branches not taken")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qe-coverage-") as name:
        folder = Path(name)
        programs = Programs(folder)
        run_files(programs, folder)
        run_models(programs, folder)
        enough = report(programs, args.missed)
    if not enough:
        sys.exit(f"below {LEAST_PERCENT:.0f} % of branches")


if __name__ == "__main__":
    main()
