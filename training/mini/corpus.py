"""Records of all sources, filtered against held-out text -> one compressed corpus file.

The one idea: everything that training reads is in this one file, written once, with the
counts of what came in, what the overlap filter dropped and what was a duplicate.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import lzma
import multiprocessing
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from training.mini import debian, functions, held_out, licences, records, wordnet

HANDBOOKS = [
    "debian-reference-en",
    "debian-reference-zh-cn",
    "maint-guide",
    "maint-guide-zh-cn",
    "libreoffice-help-en-us",
    "libreoffice-help-zh-cn",
    "debian-handbook",
    "installation-guide-amd64",
    "debmake-doc",
    "harden-doc",
    "debian-edu-doc-en",
    "debian-edu-doc-zh-cn",
    "apache2-doc",
    "developers-reference",
    "python3.11-doc",
    "git-man",
]
DICTIONARIES = ("dict-jargon", "dict-devil", "dict-elements")
# Records of one kind beyond this many are thinned by hash, so that no source drowns the rest.
MAX_RECORDS = {"parallel": 400_000, "long": 12_000, "code_named": 60_000}
VALIDATION_FROM = 0xFA  # groups whose byte is this or more are kept out of the losses


def library_roots() -> list[Path]:
    """Return the roots of the Python standard library, torch and transformers."""
    import torch
    import transformers

    standard = Path(sysconfig.get_paths()["stdlib"])
    return [standard, Path(torch.__file__).parent, Path(transformers.__file__).parent]


def held_out_texts(
    packages: dict[str, debian.Package], held: set[str], synsets: Path, libraries: list[Path]
) -> Iterator[str]:
    """Yield every held-out text, evaluated or not."""
    for name, package in packages.items():
        if name in held or held_out.name_byte(name) < held_out.PACKAGE_BELOW:
            for summary, text in [(package.summary, package.description), *package.older]:
                yield summary
                yield text
            yield package.summary_zh
            yield package.description_zh
    for synset in wordnet.load(synsets):
        if held_out.synset_is_held_out(synset.offset):
            yield synset.definition
            yield from synset.examples
    for root in libraries:
        for path, text in records.library_files(root):
            if held_out.file_is_held_out(path):
                yield text
                for function in functions.load(text):
                    yield function.doc
                    yield function.stripped


def order(record: records.Record) -> bytes:
    """Return a hash that orders records in a fixed, source-independent way."""
    return hashlib.sha256("\0".join(record).encode("utf-8", "replace")).digest()


def filtered(
    incoming: Iterable[records.Record], keep: held_out.OverlapFilter, counts: Counter
) -> Iterator[records.Record]:
    """Drop duplicates and records that overlap with held-out text, and count both."""
    seen: set[bytes] = set()
    drops = functools.lru_cache(100_000)(keep.drops)  # one function serves several records
    for record in incoming:
        counts[record.kind, record.source, "in"] += 1
        key = hashlib.sha256(f"{record.query}\0{record.document}".encode()).digest()
        if key in seen or record.query == record.document:
            counts[record.kind, record.source, "duplicate"] += 1
            continue
        seen.add(key)
        if drops(record.query) or drops(record.document):
            counts[record.kind, record.source, "overlap"] += 1
            continue
        yield record


def thinned(kept: list[records.Record]) -> list[records.Record]:
    """Order records by hash and cut each kind at its MAX_RECORDS."""
    taken: Counter = Counter()
    result = []
    for record in sorted(kept, key=order):
        if taken[record.kind] < MAX_RECORDS.get(record.kind, 10**9):
            taken[record.kind] += 1
            result.append(record)
    return result


def is_validation(record: records.Record) -> bool:
    """Tell whether a training record is set aside for the validation figures."""
    name = record.group or record.query
    return held_out.name_byte(name) >= VALIDATION_FROM


def text_records(lists: Path, unpacked: Path, taken: set[str]) -> Iterator[records.Record]:
    """Yield the records of every source but code; packages not in `taken` are left out."""
    packages = debian.load(lists)
    held = held_out.held_out_packages({n: p.source for n, p in packages.items()})
    folders = sorted(p for p in unpacked.iterdir() if p.is_dir() and p.name in taken)
    synsets = unpacked / "wordnet-base/usr/share/wordnet"
    yield from records.debian_records(packages, held)
    yield from records.wordnet_records(synsets)
    yield from records.relation_records(synsets)
    for name in DICTIONARIES:
        yield from records.dictionary_records(unpacked / name, name)
    yield from records.page_records([unpacked / name for name in HANDBOOKS if name in taken])
    yield from records.manual_records(folders)
    yield from chain.from_iterable(records.catalogue_records(folder) for folder in folders)


def held_out_filter(lists: Path, unpacked: Path) -> held_out.OverlapFilter:
    """Read all held-out text into a filter."""
    packages = debian.load(lists)
    held = held_out.held_out_packages({n: p.source for n, p in packages.items()})
    synsets = unpacked / "wordnet-base/usr/share/wordnet"
    return held_out.OverlapFilter(held_out_texts(packages, held, synsets, library_roots()))


def write_part(path: Path, kept: Iterable[records.Record], counts: Counter) -> None:
    """Write filtered records and, beside them, their counts."""
    temporary = path.with_suffix(".tmp")
    with lzma.open(temporary, "wt", encoding="utf-8", preset=1) as file:
        for record in kept:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([*key, n] for key, n in sorted(counts.items()))
    temporary.replace(path)


def read_parts(paths: list[Path]) -> tuple[list[records.Record], Counter]:
    """Read the records and counts that `write_part` wrote."""
    kept: list[records.Record] = []
    counts: Counter = Counter()
    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            kept += [records.Record(*json.loads(line)) for line in file]
        with path.with_suffix(".csv").open(newline="") as file:
            for kind, source, column, n in csv.reader(file):
                counts[kind, source, column] += int(n)
    return kept, counts


def _compressed(part: list[records.Record]) -> bytes:
    lines = (json.dumps([*r, int(is_validation(r))], ensure_ascii=False) + "\n" for r in part)
    return lzma.compress("".join(lines).encode("utf-8"), preset=6)


def write_corpus(kept: list[records.Record], path: Path, n_streams: int = 6) -> None:
    """Write the records as `n_streams` xz streams one behind the other, made in parallel."""
    # Texts that are alike lie side by side: the file is a third smaller.
    kept = sorted(kept, key=lambda r: (r.source, r.group, r.query))
    size = -(-len(kept) // n_streams)
    parts = [kept[start : start + size] for start in range(0, len(kept), size)]
    with multiprocessing.get_context("fork").Pool() as pool:
        path.write_bytes(b"".join(pool.map(_compressed, parts, chunksize=1)))


def build(lists: Path, unpacked: Path, wheels: Path, parts: Path, out: Path, sources: Path) -> None:
    """Write corpus.jsonl.xz and corpus_counts.csv into `out`.

    `sources` is the sources.csv that says which packages are taken.

    The filtered records of code and of all other text lie in two files in `parts`; one
    that exists is not made again.
    """
    parts.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    paths = [parts / "code.jsonl.xz", parts / "text.jsonl.xz"]
    taken = {name for name, source in licences.read(sources).items() if source.taken}
    if not all(path.exists() for path in paths):
        keep = held_out_filter(lists, unpacked)
        for path in paths:
            if path.exists():
                continue
            if path.name.startswith("code"):
                incoming = records.code_records(
                    library_roots(), sorted(wheels.glob("*.whl")), taken
                )
            else:
                incoming = text_records(lists, unpacked, taken)
            counts: Counter = Counter()
            write_part(path, filtered(incoming, keep, counts), counts)
    kept, counts = read_parts(paths)
    kept = thinned(kept)
    for record in kept:
        counts[record.kind, record.source, "used"] += 1
    write_corpus(kept, out / "corpus.jsonl.xz")
    columns = ("in", "duplicate", "overlap", "used")
    with (out / "corpus_counts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "source", *columns])
        for kind, source in sorted({key[:2] for key in counts}):
            writer.writerow([kind, source, *(counts[kind, source, c] for c in columns)])
