"""Debian package indices -> records with English and Chinese descriptions.

The one idea: the indices that `apt-get update` stores are the data set; a record is one
binary package, and text is unwrapped once, here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUITES = ("bookworm", "trixie", "sid", "bullseye")  # first one wins where texts differ
_PREFIX = "deb.debian.org_debian_dists_{suite}_main_"
_CHINESE_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])")


@dataclass
class Package:
    """One binary package: its source and its texts (empty where there is none)."""

    name: str
    source: str
    summary: str = ""
    description: str = ""
    summary_zh: str = ""
    description_zh: str = ""
    older: list[tuple[str, str]] = field(default_factory=list)  # (summary, text) elsewhere


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.split("\n"):
            if line.startswith(" ") and key:
                fields[key] += "\n" + line[1:]
            elif ":" in line:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if "Package" in fields:
            yield fields


def _unwrap(text: str) -> tuple[str, str]:
    """Split a Description field into its summary line and its unwrapped long text."""
    summary, _, rest = text.partition("\n")
    lines: list[str] = []
    for line in rest.split("\n"):
        stripped = line.strip()
        if stripped == ".":
            lines.append("")
        elif line.startswith(" ") or stripped[:2] in ("* ", "- ", "o ") or not lines:
            lines.append(stripped)
        elif lines[-1]:
            lines[-1] += " " + stripped
        else:
            lines.append(stripped)
    body = "\n".join(line for line in lines if line)
    return summary.strip(), _CHINESE_BREAK.sub("", body)


def _read(path: Path) -> str:
    if path.suffix == ".lz4":
        import lz4.frame  # not where tasks that were kept are evaluated

        return lz4.frame.decompress(path.read_bytes()).decode("utf-8", "replace")
    return path.read_text("utf-8", "replace")


def load(lists: Path) -> dict[str, Package]:
    """Read the indices under `lists` (apt's Dir::State::Lists) into name -> Package."""
    packages: dict[str, Package] = {}
    for suite in SUITES:
        stem = _PREFIX.format(suite=suite)
        for path in sorted(lists.glob(stem + "binary-amd64_Packages*")):
            for fields in _stanzas(_read(path)):
                name = fields["Package"]
                source = fields.get("Source", name).split(" ")[0]
                packages.setdefault(name, Package(name, source))
        for path in sorted(lists.glob(stem + "i18n_Translation-en*")):
            for fields in _stanzas(_read(path)):
                package = packages.get(fields["Package"])
                summary, body = _unwrap(fields.get("Description-en", ""))
                if package is None or not summary:
                    continue
                if not package.summary:
                    package.summary, package.description = summary, body
                elif body != package.description:
                    package.older.append((summary, body))
        for path in sorted(lists.glob(stem + "i18n_Translation-zh*CN*")):
            for fields in _stanzas(_read(path)):
                package = packages.get(fields["Package"])
                if package is not None and not package.summary_zh:
                    text = fields.get("Description-zh_CN", "")
                    package.summary_zh, package.description_zh = _unwrap(text)
    return packages


def mask_name(text: str, name: str) -> str:
    """Replace the package's own name, and its stem, in `text` by "it"."""
    stem = re.sub(r"^(lib|python3-|golang-|node-|ruby-|r-cran-|r-bioc-)", "", name)
    stem = re.sub(r"(-(dev|doc|data|common|bin|tools|utils|dbg|perl|el|java|gui)|\d+)$", "", stem)
    for word in sorted({name, stem}, key=len, reverse=True):
        if len(word) > 1:
            text = re.sub(rf"(?i)(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", "it", text)
    return text
