"""A folder is searched again after one of its files has changed: the time of the whole process.

`python -m benchmarks.search_folder --model mini`: Markdown files of random words, eight passages
each. The first search embeds all; before each later one a paragraph is added
to one file. Prints the first search's time, and of the later ones the median, the best and the
processor time, which other work on the machine lengthens less.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.record import model_folder, parser_of, record

TEXT = """the of to and in is it you that he was for on are with as his they be at one have this
from or had by hot but some what there we can out other were all your when up use word how said an
each she which do their time if will way about many then them would write like so these her long
make thing see him two has look more day could go come did my sound no most number who over know
water than call first people may down side been now find"""
WORDS = TEXT.split()
_PASSAGES = 8  # per file
_WORDS = 15  # per passage
_FILES_PER_FOLDER = 50


def text_of(words: random.Random) -> str:
    """One paragraph."""
    return " ".join(words.choices(WORDS, k=_WORDS))


def make_corpus(folder: Path, n_files: int) -> list[Path]:
    """Files of a fixed seed, in folders of fifty, with rules of Git as a repository has."""
    words = random.Random(1)
    paths = [
        folder / f"{i // _FILES_PER_FOLDER:03}" / f"{i % _FILES_PER_FOLDER:02}.md"
        for i in range(n_files)
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(text_of(words) for _ in range(_PASSAGES)) + "\n")
    (folder / ".gitignore").write_text("build/\ndist/\n*.log\n*.egg-info/\n.venv/\n/out\n")
    return paths


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = make_corpus(Path(scratch) / "notes", arguments.files)
        command = [sys.executable, "-m", "qwen3_embed", "search", str(Path(scratch) / "notes")]
        command += ["the last commit", "--model", str(model_folder(arguments)), "--device", "cpu"]
        environment = os.environ | {"XDG_CACHE_HOME": scratch}

        def search() -> tuple[float, float]:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begin = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            wall_s = time.perf_counter() - begin
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return wall_s, cpu_s

        first_s, _ = search()
        rounds = []
        words = random.Random(2)
        for path in random.Random(3).sample(paths, arguments.rounds):
            with path.open("a") as file:
                file.write(f"\n{text_of(words)}\n")
            rounds.append(search())
        walls, cpus = zip(*rounds, strict=True)
        record(
            "search_folder",
            arguments,
            [
                {
                    "n_files": arguments.files,
                    "n_passages": arguments.files * _PASSAGES,
                    "first_s": round(first_s, 1),
                    "again_median_s": round(median(walls), 3),
                    "again_best_s": round(min(walls), 3),
                    "again_cpu_s": round(median(cpus), 3),
                }
            ],
        )


if __name__ == "__main__":
    main()
