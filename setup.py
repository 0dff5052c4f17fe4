"""Builds qwen3_embed._core, the CPU engine and its Python binding, with a C compiler alone; and,
where nvcc and cuBLAS are, qwen3_embed/libqe_cuda.so, the CUDA engine.

The CPU's inner kernels are compiled once per instruction set; the best is chosen at run time.
QWEN3_EMBED_CUDA=0 builds without CUDA, =1 not without it.
QWEN3_EMBED_TARGET=aarch64-linux-gnu.2.28 builds for that platform with zig: csrc/target.py.
QWEN3_EMBED_SANITIZE=address,undefined (or thread) builds for that sanitizer, without CUDA.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).parent))
from csrc.sources import FLAGS, binding_sources, cuda_sources, engine_sources, kernel_sources
from csrc.target import TARGET, use_zig
from csrc.toolkit import ToolkitError, find_toolkit

SANITIZE = os.environ.get("QWEN3_EMBED_SANITIZE", "")
CUDA = "0" if SANITIZE else os.environ.get("QWEN3_EMBED_CUDA", "auto")
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
LIBRARY = "qwen3_embed.libqe_cuda"

if TARGET:
    use_zig()
if SANITIZE:
    FLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]
if CUDA not in ("auto", "0", "1"):
    raise SystemExit(f"QWEN3_EMBED_CUDA={CUDA}, expected auto, 0 or 1")


class BuildEngines(build_ext):
    """Compiles all files in parallel, the kernels of each instruction set with its own flags."""

    def get_ext_filename(self, fullname: str) -> str:
        if LIBRARY.endswith(fullname):  # no extension of Python: no tag in its name
            return os.path.join(*fullname.split(".")) + ".so"
        return str(super().get_ext_filename(fullname))

    def build_extension(self, ext: Extension) -> None:
        if ext.name == LIBRARY:
            objects = self.compiler.compile(
                ["csrc/error.c"], output_dir=self.build_temp, extra_postargs=FLAGS
            )
            try:
                target, folder = (
                    Path(self.get_ext_fullpath(ext.name)),
                    Path(self.build_temp, "cuda"),
                )
                toolkit.build(target, ext.sources, folder, objects)
            except ToolkitError as error:
                raise CompileError(str(error)) from None
            return
        units = [("common", source, []) for source in ext.sources] + kernel_sources()

        def compile_unit(unit: tuple[str, str, list[str]]) -> str:
            name, source, flags = unit
            objects: list[str] = self.compiler.compile(
                [source],
                output_dir=str(Path(self.build_temp, name)),
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=[*FLAGS, *flags],
                depends=ext.depends,
            )
            return objects[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compile_unit, units))
        ext.sources = []
        ext.depends = ext.extra_objects  # or it would not be linked again when an object is new
        super().build_extension(ext)


extensions = [
    Extension(
        "qwen3_embed._core",
        [*engine_sources(), *binding_sources()],
        include_dirs=["csrc", numpy.get_include()],
        depends=sorted(str(f) for f in Path("csrc").rglob("*.h")),
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
        py_limited_api=ABI3,
        extra_compile_args=FLAGS,
        extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
        libraries=["m", "pthread", "dl"],
    )
]
if CUDA != "0":
    try:
        toolkit = find_toolkit()
        extensions.append(Extension(LIBRARY, cuda_sources()))
    except ToolkitError as error:
        if CUDA == "1":
            raise SystemExit(f"QWEN3_EMBED_CUDA=1, but {error}") from None
        print(f"qwen3_embed: building for the CPU alone ({error})", file=sys.stderr)

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildEngines},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
