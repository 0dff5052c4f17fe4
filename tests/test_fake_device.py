"""The layers above a GPU, tested with a fake one: notes and refused arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ModelMaker
from tests.support.engines import cpu_only
from tests.test_cuda_library import run_python, shared_library

pytestmark = cpu_only
ROOT = Path(__file__).resolve().parents[1]

# Opens the fake device and prints, as JSON, what is asked of it.
OPEN = """
import json, sys, warnings
from pathlib import Path
from qwen3_embed import _core
from tests.support.engines import embed, engine_config, random_texts
folder, library, cublas_folder = map(Path, sys.argv[1:4])
def open_fake(**options):
    paths = [str(path) for path in folder.glob("*.safetensors")]
    return _core.Engine(paths, engine_config(folder), device="cuda", cuda_library=str(library),
                        cublas_folder=str(cublas_folder), **options)
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libqe_cuda.so of tests/c/fake_cuda.c, and empty ones of what it stands on."""
    folder = tmp_path_factory.mktemp("fake")
    shared_library(folder, "libcuda.so.1")
    shared_library(folder, "libcublasLt.so.13")
    sources = ["tests/c/fake_cuda.c", "csrc/error.c"]
    target = str(folder / "libqe_cuda.so")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Icsrc", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, *sources, "-o", target], cwd=ROOT, check=True)
    return folder


def ask(libraries: Path, model: Path, code: str) -> object:
    arguments = [str(model), str(libraries / "libqe_cuda.so"), str(libraries)]
    return json.loads(run_python(libraries, "-c", OPEN + code, *arguments))


def test_a_note_is_one_warning_and_stays_in_info(libraries: Path, models: ModelMaker) -> None:
    code = """
engine = open_fake()
seen = []
for _ in range(4):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embed(engine, random_texts([3]), 8)
    said = [[w.category.__name__, str(w.message)] for w in caught]
    seen.append([said, engine.info["note"]])
print(json.dumps(seen))
"""
    warning = ["RuntimeWarning", "device cuda:0: slow, for a test"]
    assert ask(libraries, models("tiny64"), code) == [
        [[], ""],
        [[warning], "slow, for a test"],
        [[], "slow, for a test"],
        [[], "slow, for a test"],
    ]


def test_a_warning_that_is_an_error_is_raised(libraries: Path, models: ModelMaker) -> None:
    code = """
warnings.simplefilter("error")
engine = open_fake()
said = []
for _ in range(3):
    try: embed(engine, random_texts([3]), 8)
    except RuntimeWarning as error: said.append(str(error))
print(json.dumps(said))
"""
    said = ["device cuda:0: slow, for a test"]
    assert ask(libraries, models("tiny64"), code) == said


@pytest.mark.parametrize("n_threads", [10**6, 4097, -1])
def test_threads_out_of_range(libraries: Path, models: ModelMaker, n_threads: int) -> None:
    code = f"""
try: open_fake(num_threads={n_threads})
except ValueError as error: print(json.dumps(str(error)))
"""
    said = f"num_threads={n_threads}, expected 1 to 4096"
    assert ask(libraries, models("tiny64"), code) == said


def test_the_cpu_has_no_note() -> None:
    code = "from qwen3_embed import Embedder; print(Embedder('mini').info['note'] == '')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"True\n"
