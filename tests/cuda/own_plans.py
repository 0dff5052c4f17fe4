"""Turns measured plans into plans of this repository's own kernels, for the sanitizer.

cuBLAS writes its products by tensor copies, which initcheck does not see, and hands tiles on in
ways that racecheck takes for races. Our plans give the same bits.

    export XDG_CACHE_HOME=FOLDER
    python -m tests.cuda.smoke --short && python -m tests.cuda.own_plans FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

PLAN_ROWS, PLAN_CUBLAS = 1, 2  # cuda/products/plans.h
LAST_VARIANT = 6  # cuda/products/gemm_rows.cu
KIND = 7  # words of a line before it: dtype, n, k, ldx, ldy, output, bucket


def hash_text(text: str) -> int:
    """FNV-1a of 64 bits, as cuda/products/plan_cache.cu has it."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def own_line(line: str) -> str:
    words = line.split(" ")[1:]
    if words[KIND] == str(PLAN_CUBLAS):
        words[KIND:] = [str(PLAN_ROWS), str(LAST_VARIANT), *["0"] * 8]
    entry = " ".join(words)
    return f"{hash_text(entry):016x} {entry}"


def main() -> None:
    for path in Path(sys.argv[1]).rglob("gemm-*"):
        key, *lines = path.read_text().splitlines()
        path.write_text("\n".join([key, *map(own_line, lines)]) + "\n")
        print(f"{path.name}: {len(lines)} plans")


if __name__ == "__main__":
    main()
