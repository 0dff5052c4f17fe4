"""Instructions that an emulated aarch64 processor executes for a batch, per instruction set.

python -m benchmarks.instructions [--csv]

They are counted one by one in qemu's log: of the matrix products alone, that is of the files
gemm_*, int8_* and q8_0_* of the set, without packing and epilogues, and of the whole pass. Both are
the difference between a text of 17 tokens and one of a single token, opening included in each. No
time is measured: only a processor can tell how long an instruction takes. The logs take 20 minutes.
"""

from __future__ import annotations

import os
import re
import tempfile
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["QE_TEST_ARM"] = "max"  # before tests.support is imported

from benchmarks.record import parser_of, record
from csrc.sources import FLAGS
from tests.support.c_build import EMULATOR, ENGINE, build
from tests.support.engine_in_c import CoreInC
from tests.support.engines import embed, open_engine, random_texts
from tests.support.make_model import make_model

PRODUCT = re.compile(r"(gemm|int8|q8_0)_(portable|neon)")
PIECE = re.compile(r"^ \.text\S*\s+0x([0-9a-f]+)\s+0x[0-9a-f]+ (\S+)", re.MULTILINE)
TOKENS = 16


def count(log: Path) -> Counter[bytes]:
    """Executions per address, from the log of one run."""
    with log.open("rb") as lines:
        return Counter(line.split(b"/", 2)[1] for line in lines if line.startswith(b"Trace"))


class Counting:
    """A program of the engine whose instructions are logged to a pipe."""

    def __init__(self, folder: Path) -> None:
        self.log, link_map = folder / "log", folder / "map"
        os.mkfifo(self.log)
        sources = ["tests/c/embed_tokens.c", *ENGINE]
        link = [f"-Wl,-Map={link_map}"]
        self.core = CoreInC(build("counted", sources, flags=FLAGS, link=link))
        self.pieces = sorted(
            (int(at, 16), name) for at, name in PIECE.findall(link_map.read_text())
        )

    def run(self, folder: Path, isa: str, dtype: str, n_tokens: int) -> tuple[int, int]:
        """Instructions of the products and of all, for one text."""
        engine = open_engine(folder, isa, self.core, dtype=dtype, num_threads=1)
        logged = ["-singlestep", "-d", "nochain,exec", "-D", str(self.log)]
        engine.begin[len(EMULATOR) : len(EMULATOR)] = logged
        with ThreadPoolExecutor(1) as reader:
            counting = reader.submit(count, self.log)
            embed(engine, random_texts([n_tokens]), 1)
            counts = counting.result()
        starts = [at for at, _ in self.pieces]
        products = sum(
            n
            for pc, n in counts.items()
            if PRODUCT.match(Path(self.pieces[bisect_right(starts, int(pc, 16)) - 1][1]).name)
        )
        return products, counts.total()


def main() -> None:
    arguments = parser_of(__doc__, shape="tiny128").parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_model(Path(temporary) / "model", arguments.shape, num_hidden_layers=2)
        counting = Counting(Path(temporary))
        for dtype in ("bfloat16", "int8"):
            found = {}
            for isa in reversed(counting.core.instruction_sets()):  # portable first
                one, many = (counting.run(folder, isa, dtype, n) for n in (1, 1 + TOKENS))
                found[isa] = [b - a for a, b in zip(one, many, strict=True)]
                shares = [n / base for n, base in zip(found[isa], found["portable"], strict=True)]
                rows.append(
                    {
                        "shape": arguments.shape,
                        "dtype": dtype,
                        "isa": isa,
                        "tokens": TOKENS,
                        "product_instructions": found[isa][0],
                        "product_share": round(shares[0], 4),
                        "pass_instructions": found[isa][1],
                        "pass_share": round(shares[1], 4),
                    }
                )
    record("instructions", arguments, rows, "emulated: " + " ".join(EMULATOR))


if __name__ == "__main__":
    main()
