"""Messages on a machine that lacks a part of CUDA; these tests need no GPU, nor use one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3_embed import DeviceError, _core
from qwen3_embed.loading import device
from qwen3_embed.loading.device import CUDA_PATHS, resolve_device
from tests.support.engines import DEVICE, cpu_only

pytestmark = cpu_only
in_this_build = pytest.mark.skipif(CUDA_PATHS.library is None, reason="built without CUDA")


def shared_library(folder: Path, name: str, content: str = "") -> Path:
    """A library of that file name and soname."""
    path = folder / name
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-xc", "-", f"-Wl,-soname,{name}", "-o", str(path)],
        input=content.encode(),
        check=True,
    )
    return path


def run_python(folder: Path, *arguments: str) -> str:
    """Runs this package in a new process, with `folder` before the system's libraries."""
    package_folder = str(Path(device.__file__).parents[2])
    environment = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": package_folder}
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def info_line(folder: Path) -> str:
    """The line on CUDA that `qwen3-embed info` prints."""
    output = run_python(folder, "-m", "qwen3_embed", "info")
    (line,) = [line for line in output.splitlines() if line.startswith("cuda:")]
    return line.removeprefix("cuda:").strip()


def test_this_machine() -> None:
    assert DEVICE == "cpu"
    assert resolve_device("auto") == ("cpu",)


def test_not_in_this_build(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="holds no CUDA library; use device='cpu'"):
        _core.cuda_devices(None, None)
    monkeypatch.setattr(device, "CUDA_PATHS", (None, None))
    assert resolve_device("auto") == ("cpu",)
    with pytest.raises(DeviceError, match="holds no CUDA library"):
        resolve_device("cuda:all")


@in_this_build
def test_no_driver(tmp_path: Path) -> None:
    if (found := info_line(tmp_path)).startswith("no NVIDIA driver"):
        assert "libcuda.so.1" in found
    else:
        pytest.skip("this machine has a driver")


@in_this_build
def test_no_cublas(tmp_path: Path) -> None:
    """A driver is there, and cuBLAS neither beside Python nor in the system."""
    shared_library(tmp_path, "libcuda.so.1")
    code = (
        "from qwen3_embed import _core\n"
        f"try: _core.cuda_devices({CUDA_PATHS.library!r}, {str(tmp_path)!r})\n"
        "except Exception as error: print(error)\n"
    )
    said = run_python(tmp_path, "-c", code)
    assert said.startswith("device cuda: no cuBLAS (")
    assert f"{tmp_path}/libcublasLt.so.13" in said
    assert said.endswith("install qwen3-embed-native[cuda]\n")


@in_this_build
@pytest.mark.skipif(CUDA_PATHS.cublas_folder is None, reason="no cuBLAS here")
def test_old_driver(tmp_path: Path) -> None:
    """A driver that knows nothing of CUDA 13."""
    shared_library(tmp_path, "libcuda.so.1")
    assert "the NVIDIA driver is for CUDA" in info_line(tmp_path)


def test_another_version_of_the_library(tmp_path: Path) -> None:
    shared_library(tmp_path, "libcuda.so.1")
    shared_library(tmp_path, "libcublasLt.so.13")
    table = "const struct {unsigned abi, size; void *f[2];} qe_cuda_table = {1, 24};"
    other = shared_library(tmp_path, "other.so", table)
    code = (
        "from qwen3_embed import _core\n"
        f"try: _core.cuda_devices({str(other)!r}, {str(tmp_path)!r})\n"
        "except Exception as error: print(error)\n"
    )
    said = run_python(tmp_path, "-c", code)
    assert f"{other} has version 1 of qe_cuda_table, expected 4; reinstall" in said


@in_this_build
def test_what_the_library_exports_and_needs() -> None:
    """One table, and of CUDA nothing but cuBLASLt, which is not in the package."""
    library = CUDA_PATHS.library
    assert library is not None
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout.split()
    assert symbols[2::3] == ["qe_cuda_table"]
    dynamic = subprocess.run(
        ["readelf", "-d", library], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line}
    assert "libcublasLt.so.13" in needed
    assert needed <= {
        *("libcublasLt.so.13", "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1"),
        *("libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    }
    assert "RUNPATH" not in dynamic
    assert not list(Path(library).parent.rglob("*cublas*"))
