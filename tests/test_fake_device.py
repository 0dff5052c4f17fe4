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


def test_info_says_what_fits(libraries: Path, models: ModelMaker) -> None:
    """The fake GPU has 2 GB free; of the weights in bf16 it says 1.6 GB, of others 0.8."""
    code = """
import contextlib, io
from qwen3_embed.cli import main
from qwen3_embed.loading import device, device_memory, engines
paths = device.CudaPaths(str(library), str(cublas_folder))
device.CUDA_PATHS = device_memory.CUDA_PATHS = engines.CUDA_PATHS = paths
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    status = main(["info", "--model", str(folder), "--device", "cuda"])
one = printed.getvalue()
printed.seek(0); printed.truncate()
with contextlib.redirect_stdout(printed):
    main(["info", "--model", str(folder), "--device", "cuda:0,cuda:1", "--split", "layers"])
print(json.dumps([status, one, printed.getvalue()]))
"""
    answer = ask(libraries, models("tiny64"), code)
    assert isinstance(answer, list)
    assert answer[0] == 0
    found = dict(line.split(":", 1) for line in answer[1].splitlines())
    assert "2.00 GB of 4.00 GB free" in found["memory"]
    assert "texts of 4096 tokens in batches of 64" in found["memory"]
    bf16, int8 = (found[f"needs in {dtype}"].strip() for dtype in ("bfloat16", "int8-weights"))
    assert bf16.startswith("2.26 GB, with --embedding host 2.26 GB (and 0.00 GB of the host's): ")
    assert bf16.endswith(": fits with --embedding host --max-length 1024 --batch-tokens 1024")
    assert int8.startswith("1.46 GB")
    assert int8.endswith(": fits")
    assert found["needs in float8"].strip() == int8
    split = dict(line.split(":", 1) for line in answer[2].splitlines())
    assert split["device"].strip() == "cuda:0,cuda:1"
    assert (
        "on cuda:0 2.00 GB of 4.00 GB free, on cuda:1 2.00 GB of 4.00 GB free;" in split["memory"]
    )
    assert split["needs in bfloat16"].strip().startswith("1.46 GB (1 layers) + 1.46 GB (1 layers)")
    assert split["needs in bfloat16"].endswith(": fits")


def test_weights_are_equalised_for_int8(libraries: Path, models: ModelMaker) -> None:
    code = """
engine = open_fake(dtype="int8-weights", embedding="host", num_threads=2)
print(json.dumps(embed(engine, random_texts([3]), 8).tolist()))
"""
    assert ask(libraries, models("tiny64"), code) == [[1.0] * 8]


def test_the_cpu_has_no_note() -> None:
    code = "from qwen3_embed import Embedder; print(Embedder('mini').info['note'] == '')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"True\n"
