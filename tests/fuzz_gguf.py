"""Changed GGUF files: the reader and the engine give a model or a QwenEmbedError, nothing else.

python -m tests.fuzz_gguf --cases 100000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path

from qwen3_embed import QwenEmbedError, _core
from qwen3_embed.loading.config import parse_config
from qwen3_embed.loading.gguf import CLASSIFIER, read_gguf
from qwen3_embed.loading.gguf_model import config_of, tokenizer_json
from tests.support.make_gguf import make_gguf
from tests.support.make_model import make_model

SIZES = (0, 1, 7, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def change(content: bytearray, header_bytes: int, source: random.Random) -> bytearray:
    """One to three changes, most of them in the header."""
    for _ in range(source.randint(1, 3)):
        at = source.randrange(header_bytes if source.random() < 0.95 else len(content))
        match source.randrange(6):
            case 0:
                content[at] ^= 1 << source.randrange(8)
            case 1:
                content[at : at + 8] = source.choice(SIZES).to_bytes(8, "little")
            case 2:
                content[at : at + 4] = (source.choice(SIZES) % 2**32).to_bytes(4, "little")
            case 3:
                del content[at : at + source.randint(1, 40)]
            case 4:
                other = source.randrange(header_bytes)
                content[at:at] = content[other : other + source.randint(1, 40)]
            case _:
                del content[source.randrange(len(content)) :]
        if len(content) < 32:
            break
    return content


def try_open(path: Path) -> str:
    """Returns "opened" or the name of the error."""
    try:
        gguf = read_gguf(path)
        config = parse_config(config_of(gguf, "embedder"), str(path))
        tokenizer_json(gguf)
        places = {name: place for name, place in gguf.places.items() if name != CLASSIFIER}
        engine = _core.Engine(
            [str(path)], config.for_engine(8), dtype="int8", num_threads=1, places=places
        )
        engine.close()
    except QwenEmbedError as error:
        return type(error).__name__
    return "opened"


def fuzz(n_cases: int, seed: int) -> Counter[str]:
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "model", "tiny64", num_hidden_layers=1)
        original = make_gguf(folder, Path(scratch) / "a.gguf").read_bytes()
        header_bytes = min(p.offset for p in read_gguf(Path(scratch) / "a.gguf").places.values())
        path = Path(scratch) / "changed.gguf"
        found: Counter[str] = Counter()
        for _ in range(n_cases):
            path.write_bytes(change(bytearray(original), header_bytes, source))
            found[try_open(path)] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the GGUF reader.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, n in fuzz(arguments.cases, arguments.seed).most_common():
        print(f"{n:8} {name}")


if __name__ == "__main__":
    main()
