"""Finds what libqe_cuda.so is built with, and builds it: nvcc, then the host's linker.

The CUDA runtime is linked in, cuBLASLt stays outside: it is as large as a small model, and
comes at run time from NVIDIA's wheels or the system.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from csrc.target import TARGET, zig

FLAGS = ["-std=c++20", "-O3", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
# sm_90a has kernels of its own; PTX is for later GPUs. The first is for development and CI.
ARCHITECTURES = "80+ptx;90a"
RELEASE_ARCHITECTURES = "80+ptx;86;89;90a;100;120+ptx"
CUBLAS = "libcublasLt.so.13"
USUAL_HOME = Path("/usr/local/cuda")
LINK = ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-static-libstdc++", "-static-libgcc"]
LINK += ["-Wl,--version-script=cuda/exports.map", "-Wl,-z,defs"]


class ToolkitError(Exception):
    """A part of CUDA that a build needs is missing; the message is one sentence."""


@dataclass(frozen=True)
class Toolkit:
    """One installation that compiles and links.

    Attributes
    ----------
    nvcc : Path
    include : tuple of Path
        Folders of headers beside nvcc's own.
    libraries : tuple of Path
        Folders of libcudart_static.a.
    cublas : Path
        The library that is linked to: a file, because NVIDIA's wheels have no plain -l name.
    """

    nvcc: Path
    include: tuple[Path, ...]
    libraries: tuple[Path, ...]
    cublas: Path

    def build(
        self, target: Path, sources: Sequence[str], folder: Path, objects: Sequence[str]
    ) -> None:
        """Compiles CUDA sources, several at a time, and links them with objects into target."""
        folder = folder / _architectures().replace(";", "_")
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # The largest first, so that none is left for the end.
            ordered = sorted(sources, key=lambda source: -Path(source).stat().st_size)
            made = list(pool.map(lambda source: self._compile(source, folder), ordered))
        target.parent.mkdir(parents=True, exist_ok=True)
        folders = [f"-L{path}" for path in self.libraries]
        # nvcc refuses zig as the host's compiler; but zig links what g++ compiled.
        linker = [*zig("c++"), "-s"] if TARGET else ["g++"]
        _run([*linker, "-shared", "-o", target, *made, *objects, self.cublas, *folders, *LINK])

    def _compile(self, source: str, folder: Path) -> Path:
        made = folder / f"{Path(source).stem}.o"
        if not _is_newer(made, made.with_suffix(".d")):
            include = [f"-I{path}" for path in (Path("csrc"), Path("cuda"), *self.include)]
            part = made.with_suffix(".part.o")
            listing = ["-MD", "-MF", made.with_suffix(".d")]
            flags = [*FLAGS, *_architecture_flags(), *include, *listing]
            _run([self.nvcc, *flags, "-c", source, "-o", part])
            part.replace(made)
        return made


def find_toolkit() -> Toolkit:
    """CUDA_HOME's, the PATH's, NVIDIA's wheels', or the one in the usual place.

    Raises
    ------
    ToolkitError
        Something is missing.
    """
    # Not sys.path: pip builds apart from the packages of the environment it installs to.
    wheels = Path(sysconfig.get_path("purelib"), "nvidia", "cu13")
    on_path = shutil.which("nvcc")
    homes = [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    homes += [Path(os.path.realpath(on_path)).parent.parent] if on_path else []
    homes += [wheels, USUAL_HOME]
    home = next((home for home in homes if _is_toolkit(home)), None)
    if home is None:
        raise ToolkitError("no nvcc: set CUDA_HOME, or put the CUDA toolkit's bin on the PATH")
    version = subprocess.run([home / "bin/nvcc", "-V"], capture_output=True, text=True, check=True)
    release = re.search(r"release (\d+)\.\d+", version.stdout)
    if release is None or int(release[1]) != 13:
        raise ToolkitError(f"{home}/bin/nvcc is of CUDA {release and release[1]}, expected 13")
    places = [home, home / "targets/x86_64-linux", home / "targets/sbsa-linux", wheels]
    include = tuple(path for place in places if (path := place / "include").is_dir())
    folders = [place / name for place in places for name in ("lib64", "lib")]
    cublas = next((path for folder in folders if (path := folder / CUBLAS).exists()), None)
    if cublas is None or not any((path / "cublasLt.h").exists() for path in include):
        raise ToolkitError(
            f"nvcc is in {home}, but cuBLAS is not: install CUDA's cuBLAS package, or "
            f"`pip install 'nvidia-cublas==13.*'` into this environment"
        )
    libraries = tuple(path for path in folders if (path / "libcudart_static.a").exists())
    if not libraries:
        raise ToolkitError(f"nvcc is in {home}, but libcudart_static.a is not")
    return Toolkit(home / "bin/nvcc", include, libraries, cublas)


def _is_newer(made: Path, listing: Path) -> bool:
    """True if `made` is newer than every file in the dependency listing that the compiler wrote."""
    if not (made.exists() and listing.exists()):
        return False
    files = listing.read_text().partition(": ")[2].replace("\\\n", " ").split()
    times = [Path(file).stat().st_mtime if Path(file).exists() else math.inf for file in files]
    return made.stat().st_mtime > max(times, default=math.inf)


def _is_toolkit(home: Path) -> bool:
    """The nvcc on the PATH may be a script that calls one elsewhere: then no headers are near."""
    return all((home / name).exists() for name in ("bin/nvcc", "include/cuda_runtime_api.h"))


def _architectures() -> str:
    """QWEN3_EMBED_CUDA_ARCHS: names with semicolons between them, or "release"."""
    names = os.environ.get("QWEN3_EMBED_CUDA_ARCHS", ARCHITECTURES)
    return RELEASE_ARCHITECTURES if names == "release" else names


def _architecture_flags() -> list[str]:
    """nvcc's flags: machine code for "90a", with PTX for "80+ptx", PTX alone for "80-virtual"."""
    flags = []
    for name in _architectures().split(";"):
        found = re.fullmatch(r"(\d+[af]?)(\+ptx|-virtual)?", name)
        if found is None:
            raise ToolkitError(
                f"QWEN3_EMBED_CUDA_ARCHS: {name!r}, expected such as 90a, 80+ptx or 80-virtual"
            )
        number, suffix = found.groups()
        codes = {None: ["sm"], "+ptx": ["sm", "compute"], "-virtual": ["compute"]}[suffix]
        for code in codes:
            flags += ["-gencode", f"arch=compute_{number},code={code}_{number}"]
    return flags


def _run(command: Sequence[object]) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolkitError(f"failed: {' '.join(words)}\n{done.stdout}{done.stderr}")
