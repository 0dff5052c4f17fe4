"""Fuzzes the safetensors reader and the loader with libFuzzer (clang), address sanitizer on.

    python -m tests.fuzz_loader --seconds 60
    python -m tests.fuzz_loader --runs 10000000 --corpus FOLDER

Prints the number of inputs run. On a crash or a leak it exits 1 and keeps the input in
the corpus folder's parent as crash-*: add what it shows to tests/support/make_bad_safetensors.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.c_build import LOADER, build
from tests.support.make_bad_safetensors import fuzz_seeds

WORDS = (
    *('"dtype":', '"shape":[', '"data_offsets":[', '"__metadata__":{', '"BF16"', '"F16"'),
    *('"F32"', '"F4"', '"I64"', "\\u", "\\ud83d\\ude00", "},", "model.", "layers.0.", "self_attn."),
    *("mlp.", "embed_tokens.weight", "lm_head.weight", "18446744073709551615", "1099511627776"),
    '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
)


def write_dictionary(path: Path) -> None:
    escaped = [word.replace("\\", "\\\\").replace('"', '\\"') for word in WORDS]
    path.write_text("".join(f'"{word}"\n' for word in escaped))


def write_seeds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in fuzz_seeds():
        (folder / name).write_bytes(content)


def fuzz(corpus: Path, limits: list[str]) -> int:
    """Runs the target; returns libFuzzer's exit status."""
    program = build(
        "fuzz_safetensors",
        ["tests/c/fuzz_safetensors.c", *LOADER],
        sanitize="fuzzer,address,undefined",
        compiler="clang",
        flags=("-O2", "-g"),
    )
    corpus.mkdir(parents=True, exist_ok=True)
    dictionary = corpus.parent / "words.dict"
    seeds = corpus.parent / "seeds"
    write_dictionary(dictionary)
    write_seeds(seeds)
    command = [str(program), str(corpus), str(seeds), f"-dict={dictionary}", "-max_len=8192"]
    command += [f"-artifact_prefix={corpus.parent}/", *limits]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    runs = re.findall(r"Done (\d+) runs in (\d+) second", done.stderr)
    if done.returncode == 0 and runs:
        n_runs, seconds = map(int, runs[-1])
        print(f"{n_runs} inputs in {seconds} s, 0 crashes, 0 leaks")
        return 0
    print(done.stderr[-8000:], file=sys.stderr)
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--seconds", type=int)
    limit.add_argument("--runs", type=int)
    parser.add_argument("--corpus", type=Path, help="kept and grown; a new one if not given")
    args = parser.parse_args()
    limits = [f"-max_total_time={args.seconds}"] if args.seconds else [f"-runs={args.runs}"]
    corpus = args.corpus or Path(tempfile.mkdtemp(prefix="qe-fuzz-")) / "corpus"
    sys.exit(fuzz(corpus, limits))


if __name__ == "__main__":
    main()
