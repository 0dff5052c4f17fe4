"""The build finds CUDA, or names the part that is missing: with a made-up toolkit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from csrc import target, toolkit
from csrc.sources import cuda_sources
from csrc.toolkit import Toolkit, ToolkitError, find_toolkit

NVCC = """#!/bin/sh
echo "Cuda compilation tools, release {release}, V{release}.88"
"""


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and nothing of this machine's own CUDA."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(toolkit, "USUAL_HOME", tmp_path / "cuda")
    monkeypatch.setattr(toolkit.sysconfig, "get_path", lambda name: str(tmp_path / "site"))
    return tmp_path / "cuda"


def add_nvcc(home: Path, release: str = "13.0") -> None:
    write(home / "bin/nvcc", NVCC.format(release=release))
    write(home / "include/cuda_runtime_api.h")
    write(home / "lib64/libcudart_static.a")


def test_no_nvcc(home: Path) -> None:
    with pytest.raises(ToolkitError, match="no nvcc: set CUDA_HOME"):
        find_toolkit()


def test_a_script_on_the_path_is_not_a_toolkit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "bin/nvcc", NVCC.format(release="13.0"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ToolkitError, match="no nvcc"):
        find_toolkit()


def test_nvcc_without_cublas(home: Path) -> None:
    add_nvcc(home)
    with pytest.raises(ToolkitError, match=r"nvcc is in .*cuda, but cuBLAS is not: .*pip install"):
        find_toolkit()


def test_another_release(home: Path) -> None:
    add_nvcc(home, "12.9")
    with pytest.raises(ToolkitError, match="of CUDA 12, expected 13"):
        find_toolkit()


def test_cublas_of_the_toolkit(home: Path) -> None:
    add_nvcc(home)
    write(home / "include/cublasLt.h")
    library = write(home / "lib64/libcublasLt.so.13")
    found = find_toolkit()
    assert (found.nvcc, found.cublas) == (home / "bin/nvcc", library)


def test_cublas_of_a_wheel_beside_the_toolkit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers and library of the wheel; the compiler that CUDA_HOME names."""
    other = tmp_path / "other"
    add_nvcc(other)
    monkeypatch.setenv("CUDA_HOME", str(other))
    wheel = tmp_path / "site/nvidia/cu13"
    write(wheel / "include/cublasLt.h")
    library = write(wheel / "lib/libcublasLt.so.13")
    found = find_toolkit()
    assert (found.nvcc, found.cublas) == (other / "bin/nvcc", library)
    assert wheel / "include" in found.include


def test_all_of_it_from_wheels(home: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "site/nvidia/cu13"
    write(wheels / "bin/nvcc", NVCC.format(release="13.2"))
    for name in ("cuda_runtime_api.h", "cublasLt.h"):
        write(wheels / "include" / name)
    for name in ("libcudart_static.a", toolkit.CUBLAS):
        write(wheels / "lib" / name)
    assert find_toolkit().nvcc == wheels / "bin/nvcc"


def test_objects_are_made_anew_when_a_header_changes(tmp_path: Path) -> None:
    source, header = write(tmp_path / "a.cu"), write(tmp_path / "a.h")
    made = tmp_path / "a.o"
    listing = write(tmp_path / "a.d", f"{made}: {source} \\\n  {header}\n")
    assert not toolkit._is_newer(made, listing)
    write(made)
    later = time.time() + 10
    os.utime(made, (later, later))
    assert toolkit._is_newer(made, listing)
    os.utime(header, (later + 10, later + 10))
    assert not toolkit._is_newer(made, listing)
    header.unlink()
    assert not toolkit._is_newer(made, listing)


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        ("80+ptx;90a", "80,sm_80 80,compute_80 90a,sm_90a"),
        ("80-virtual", "80,compute_80"),
        (
            "release",
            "80,sm_80 80,compute_80 86,sm_86 89,sm_89 90a,sm_90a 100,sm_100 120,sm_120 "
            "120,compute_120",
        ),
    ],
)
def test_architectures(monkeypatch: pytest.MonkeyPatch, names: str, codes: str) -> None:
    monkeypatch.setenv("QWEN3_EMBED_CUDA_ARCHS", names)
    expected = [f"arch=compute_{code.replace(',', ',code=')}" for code in codes.split()]
    assert toolkit._architecture_flags()[1::2] == expected


@pytest.mark.parametrize("names", ["", "80;", "hopper", "80+pt", "80ptx", "80-real"])
def test_architectures_that_are_none(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv("QWEN3_EMBED_CUDA_ARCHS", names)
    with pytest.raises(ToolkitError, match=r"QWEN3_EMBED_CUDA_ARCHS: .*expected such as 90a"):
        toolkit._architecture_flags()


@pytest.mark.parametrize("name", ["", "x86_64-linux-gnu.2.28"])
def test_a_release_is_linked_by_zig(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Compiled by nvcc either way; a version script hides all but the table."""
    commands: list[list[str]] = []
    monkeypatch.setattr(toolkit, "_run", lambda words: commands.append([str(w) for w in words]))
    monkeypatch.setattr(toolkit, "TARGET", name)
    monkeypatch.setattr(toolkit, "_is_newer", lambda made, listing: True)
    Toolkit(home / "bin/nvcc", (), (), tmp_path / toolkit.CUBLAS).build(
        tmp_path / "libqe_cuda.so", ["cuda/library.cu"], tmp_path, ["error.o"]
    )
    ((*linker, last),) = commands
    assert last == "-Wl,-z,defs"
    assert linker[0] == "g++" if not name else linker[1:4] == ["-m", "ziglang", "c++"]
    assert "-Wl,--version-script=cuda/exports.map" in linker
    assert "qe_cuda_table;" in Path(__file__).parents[1].joinpath("cuda/exports.map").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aarch64-linux-gnu", r"QWEN3_EMBED_TARGET=aarch64-linux-gnu, expected such as x86_64"),
        ("aarch64-macos.13.0", "expected such as"),
        ("aarch64-linux-gnu.2.28", "ziglang is not installed: `pip install --group release`"),
    ],
)
def test_targets_that_can_not_be_built(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(target.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(SystemExit, match=said):
        target.use_zig(name)


def test_every_source_is_named() -> None:
    assert "cuda/backend_cuda.cu" in cuda_sources()
    assert all(Path(__file__).parents[1].joinpath(name).exists() for name in cuda_sources())
