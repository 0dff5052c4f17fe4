"""Reads the sources and holds the rules of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_embed import _core

ROOT = Path(__file__).resolve().parents[1]
C_FILES = sorted(
    path
    for folder in ("csrc", "cuda")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".c", ".h", ".cu", ".cuh"}
)
PY_FILES = sorted(
    path
    for folder in ("qwen3_embed", "tests", "benchmarks", "training", "notebooks", "csrc", "cuda")
    for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_FORWARD_LINES = 130
MAX_MACRO_LINES = 5
MAX_COLUMNS = 88
MAX_TOP_LEVEL_MODULES = 12

STANDARD_C = {"errno", "inttypes", "limits", "math", "stdarg", "stdatomic", "stdbool", "stddef"}
STANDARD_C |= {"stdint", "stdio", "stdlib", "string", "time"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def without_comments(text: str) -> str:
    """Comments and string literals blanked, line numbers kept."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function: PEP 7 puts its braces in the first column."""
    start = None
    name = ""
    for number, line in enumerate(without_comments(path.read_text()).splitlines(), 1):
        if found := re.match(r"(?:ISA\()?(\w+)\)?\(", line):
            start, name = number, found.group(1)
        elif line == "}" and start is not None:
            yield name, number - start + 1
            start = None


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= (first.end_lineno or 0) - first.lineno + 1
            yield node.name, lines


def test_there_is_something_to_read() -> None:
    names = {name_of(path) for path in C_FILES}
    assert {"csrc/backend.h", "csrc/cpu/backend_cpu.c", "csrc/python/py_engine.c"} <= names
    assert ("forward", True) in {
        (name, lines > 40) for name, lines in c_functions(ROOT / "csrc/cpu/backend_cpu.c")
    }


@pytest.mark.parametrize("path", [*C_FILES, *PY_FILES], ids=name_of)
def test_file_budget(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_c_function_budget(path: Path) -> None:
    long = {
        name: lines
        for name, lines in c_functions(path)
        if lines > (MAX_FORWARD_LINES if name == "forward" else MAX_FUNCTION_LINES)
    }
    assert not long


@pytest.mark.parametrize("path", PY_FILES, ids=name_of)
def test_python_function_budget(path: Path) -> None:
    long = {name: n for name, n in python_functions(path) if n > MAX_FUNCTION_LINES}
    assert not long


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_columns(path: Path) -> None:
    wide = [n for n, s in enumerate(path.read_text().splitlines(), 1) if len(s) > MAX_COLUMNS]
    assert not wide


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_python_stays_in_py_files(path: Path) -> None:
    if path.parent.name != "python":
        assert not [f for f in includes(path) if f.startswith(("Python.h", "numpy/", "py_"))]


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_cuda_stays_in_cuda(path: Path) -> None:
    if "cuda" not in path.relative_to(ROOT).parts:
        headers = {f for f in includes(path) if f.startswith(("cuda", "cublas", "nv"))}
        assert headers <= {"cuda_library.h"}


@pytest.mark.parametrize("name", ["backend.h", "model.h", "error.h", "safetensors.h"])
def test_the_seam_knows_only_the_standard_library(name: str) -> None:
    allowed = {"backend.h", "model.h", "error.h", "safetensors.h"}
    for include in includes(ROOT / "csrc" / name):
        assert include in allowed or include.removesuffix(".h") in STANDARD_C


def test_the_scheduler_does_not_know_the_model() -> None:
    for name in ("scheduler.h", "scheduler.c", "queue.h", "queue.c", "prefix.h", "prefix.c"):
        assert not {"model.h", "safetensors.h"} & set(includes(ROOT / "csrc" / name))


def test_devices_do_not_know_each_other() -> None:
    for path in C_FILES:
        folders = set(path.relative_to(ROOT).parts)
        other = {"cpu": "cuda/", "cuda": "cpu/"}
        for folder in folders & set(other):
            assert not [f for f in includes(path) if other[folder] in f], name_of(path)


def test_nothing_includes_upward() -> None:
    """csrc/cpu, csrc/model and below never include the engine or the scheduler."""
    upper = {"engine.h", "scheduler.h", "queue.h"}
    for path in C_FILES:
        lower = path.parent.name in {"cpu", "cuda"} or path.stem in {"model", "safetensors"}
        if lower:
            assert not upper & {Path(f).name for f in includes(path)}, name_of(path)


def test_environment_is_read_in_one_place() -> None:
    readers: dict[str, list[str]] = {}
    for path in C_FILES:
        variables = re.findall(r'\b(?:secure_)?getenv\("(\w+)"\)', path.read_text())
        if re.search(r"\b(?:secure_)?getenv\b", without_comments(path.read_text())):
            readers[name_of(path)] = variables
    assert set(readers) == {"csrc/engine.c"}
    assert len(readers["csrc/engine.c"]) <= 3


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_no_library_code_prints_or_exits(path: Path) -> None:
    calls = r"\b(exit|_exit|abort|assert|printf|puts|putchar|perror)\s*\(|\bstderr\b|\bstdout\b"
    assert not re.findall(calls, without_comments(path.read_text()))


def test_no_globals_that_change() -> None:
    """The extension's writable memory holds Python's own tables, and nothing of ours."""
    table = subprocess.run(
        ["objdump", "-t", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    writable = {
        line.split()[-1] for line in table.splitlines() if " .data\t" in line or " .bss\t" in line
    }
    tables = re.compile(r"module_def|(module|engine|job)_(methods|slots|getset)|py_\w+_spec")
    given = re.compile(r"_|\.|completed\.|qe_numpy_api|names\.\d+$|data_start")
    assert "module_def" in writable
    assert not {n for n in writable if not tables.fullmatch(n) and not given.match(n)}


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_macros_are_small_and_never_return(path: Path) -> None:
    for macro in re.findall(r"^#define (?:.*\\\n)*.*$", path.read_text(), re.MULTILINE):
        assert macro.count("\n") < MAX_MACRO_LINES, macro
        returns = re.search(r"\breturn\b|\bgoto\b", macro)
        assert not returns or macro.startswith("#define CUDA_TRY("), macro


@pytest.mark.parametrize("path", [*C_FILES, *PY_FILES], ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"]
    assert not re.findall(rf"\b(?:{'|'.join(words)})\b", path.read_text())


def modules_of_the_package() -> dict[str, Path]:
    """Dotted names to files."""
    names = {}
    for path in (ROOT / "qwen3_embed").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports, under TYPE_CHECKING and in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                parents = package[: len(package) - node.level + 1]
                base = ".".join([*parents, *base.split(".")] if base else parents)
            submodules = {f"{base}.{alias.name}" for alias in node.names} & modules.keys()
            found |= submodules or {base}
    return (found & modules.keys()) - {name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, or none."""
    left = dict(graph)
    while ready := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ready:
            del left[name]
    if not left:
        return []
    path = [min(left)]
    while path[-1] not in path[:-1]:
        path.append(min(left[path[-1]] & left.keys()))
    return path[path.index(path[-1]) :]


def test_no_import_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    modules = modules_of_the_package()
    graph = {name: imports_of(name, path, modules) for name, path in modules.items()}
    assert "qwen3_embed.server.exchange" in graph["qwen3_embed.server.openai"]
    assert circle(graph) == []


def test_top_level_of_the_package_is_short() -> None:
    names = [path.stem for path in (ROOT / "qwen3_embed").glob("*.py")]
    assert "embedder" in names
    assert len(names) <= MAX_TOP_LEVEL_MODULES


def test_sys_path_is_left_alone() -> None:
    """Tests and tools are run as modules from the repository's root."""
    change = re.compile(r"sys\.path\s*(?:\.\s*(?:insert|append|extend|remove|pop)|\[|\+?=[^=])")
    assert change.search((ROOT / "setup.py").read_text())
    assert not [
        name_of(path)
        for path in PY_FILES
        if path.name not in {"setup.py", "conftest.py"} and change.search(path.read_text())
    ]
