"""Reads the sources and holds the rules of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

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

# "rows a batch", "one engine a GPU": where a rate or a count is meant, English has "per".
COUNTED = "token|float|byte|request|second|text|kernel|block|row|file|engine|scale|head|chunk|line"
COUNTED += "|warning|vector|object|thread|module|document|value|task|radian|instruction|process"
PLURALS = COUNTED.replace("|", "s|") + "es|batches|queries|launches|FLOP|MB|GB|ms|once|twice"
ITEMS = "second|minute|hour|token|text|layer|vector|request|row|call|GPU|SM|multiprocessor|stage"
ITEMS += "|step|file|device|dimension|query|core|machine|chip|process|thread|command|model|project"
ITEMS += "|set|group|head|line|block|warp|tile|job|chunk|document|key|engine|executor|worker|task"
ITEMS += "|weight|batch|session|position|sequence|error"
RATE = rf"\b(?:{PLURALS}|(?:an?|one) (?:[\w-]+ )?(?:{COUNTED})) (?-i:an?) (?:{ITEMS})\b"
RATE = RATE.replace(" ", r"(?:[ \t]+|[ \t]*\n[ \t]*)")  # a line's end, but no blank line
CLAUSE = re.compile(r"(?:What|Whatever|Who|Whoever|Whose|Whether|Which|Where|When|Why|How)\b")

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
        (name, lines > 20) for name, lines in c_functions(ROOT / "csrc/cpu/backend_cpu.c")
    }


def test_files_are_short() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in [*C_FILES, *PY_FILES]}
    assert not {name: n for name, n in lines.items() if n > MAX_FILE_LINES}


def test_c_functions_are_short() -> None:
    assert not [
        (name_of(path), name, n)
        for path in C_FILES
        for name, n in c_functions(path)
        if n > (MAX_FORWARD_LINES if name == "forward" else MAX_FUNCTION_LINES)
    ]


def test_python_functions_are_short() -> None:
    assert not [
        (name_of(path), name, n)
        for path in PY_FILES
        for name, n in python_functions(path)
        if n > MAX_FUNCTION_LINES
    ]


def test_c_lines_are_short() -> None:
    assert not [
        f"{name_of(path)}:{number}"
        for path in C_FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]


def test_python_stays_in_its_folder() -> None:
    assert not [
        (name_of(path), header)
        for path in C_FILES
        for header in includes(path)
        if header.startswith(("Python.h", "numpy/", "py_")) and path.parent.name != "python"
    ]


def test_cuda_stays_in_its_folder() -> None:
    assert not [
        (name_of(path), header)
        for path in C_FILES
        for header in includes(path)
        if header.startswith(("cuda", "cublas", "nv")) and header != "cuda_library.h"
        if "cuda" not in path.relative_to(ROOT).parts
    ]


def test_the_seam_knows_only_the_standard_library() -> None:
    seam = ("backend.h", "model.h", "error.h", "safetensors.h")
    assert not [
        (name, include)
        for name in seam
        for include in includes(ROOT / "csrc" / name)
        if include not in seam and include.removesuffix(".h") not in STANDARD_C
    ]


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


def test_no_library_code_prints_or_exits() -> None:
    calls = r"\b(?:exit|_exit|abort|assert|printf|puts|putchar|perror)\s*\(|\bstderr\b|\bstdout\b"
    assert not [
        (name_of(path), call)
        for path in C_FILES
        for call in re.findall(calls, without_comments(path.read_text()))
    ]


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


def test_macros_are_small_and_never_return() -> None:
    macros = [
        (name_of(path), macro)
        for path in C_FILES
        for macro in re.findall(r"^#define (?:.*\\\n)*.*$", path.read_text(), re.MULTILINE)
    ]
    assert not [macro for macro in macros if macro[1].count("\n") >= MAX_MACRO_LINES]
    assert not [
        macro
        for macro in macros
        if re.search(r"\breturn\b|\bgoto\b", macro[1])
        and not macro[1].startswith("#define CUDA_TRY(")
    ]


def test_nothing_is_left_for_later() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"]
    assert not [
        (name_of(path), word)
        for path in [*C_FILES, *PY_FILES]
        for word in re.findall(rf"\b(?:{'|'.join(words)})\b", path.read_text())
    ]


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


def private_reach(path: Path) -> list[str]:
    """Attributes with an underscore of anything but self, its class and its parents."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
            owner = ast.unparse(node.value)
            named_tuple = node.attr in {"_asdict", "_replace", "_fields"}
            if owner not in {"self", "cls", "super()", "torch"} and not named_tuple:
                found.append(f"{name_of(path)}: {owner}.{node.attr}")
    return found


def test_nobody_reaches_into_another_class() -> None:
    """The package and its benchmarks use what the classes offer."""
    assert private_reach(ROOT / "tests" / "test_pipeline.py")
    paths = [path for path in PY_FILES if name_of(path).startswith(("qwen3_embed", "benchmarks"))]
    assert not [line for path in paths for line in private_reach(path)]


def sentences() -> dict[Path, str]:
    """The files with English in them, but for this one, which holds bad examples."""
    folders = ("qwen3_embed", "csrc", "cuda", "tests", "benchmarks", "training", "docs")
    paths = [*ROOT.glob("*"), *(path for name in folders for path in (ROOT / name).rglob("*"))]
    kinds = {".py", ".c", ".h", ".cu", ".cuh", ".md"}
    read = [path for path in paths if path.suffix in kinds and path != Path(__file__)]
    return {path: path.read_text() for path in read}


def test_rates_say_per() -> None:
    def rates(text: str) -> Iterator[re.Match[str]]:
        prose = re.sub(r"^[ \t]*(?:\*|//|#)", " ", text, flags=re.MULTILINE)
        return re.finditer(RATE, prose, re.IGNORECASE)

    for habit in ("24 bytes a text", "Floats a\n * vector", "one JSON object a line", "once a set"):
        assert list(rates(habit)), habit
    for other in ("rows per batch", "one of a batch", "past a row", "a text and a query"):
        assert not list(rates(other)), other
    assert not [
        (name_of(path), found.group())
        for path, text in sentences().items()
        for found in rates(text)
    ]


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings, and strings below an assignment, which are read as such."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def test_docstrings_are_no_relative_clauses() -> None:
    found = [(name_of(path), text) for path in PY_FILES for text in docstrings(path)]
    assert len(found) > 500
    assert not [(name, text) for name, text in found if CLAUSE.match(text)]
