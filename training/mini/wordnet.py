"""WordNet database files -> synsets with definition and example sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KINDS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
_RELATIONS = ("@", "@i", "&", "+", "\\", "^", "*")
_EXAMPLE = re.compile(r'"([^"]+)"')


@dataclass
class Synset:
    """One synset; `offset` is its byte offset in the data file, its identity."""

    offset: int
    kind: str
    lemmas: list[str]
    definition: str
    examples: list[str]
    related: list[tuple[str, int]]  # (kind, offset) of hypernyms, similar and derived synsets


def load(folder: Path) -> Iterator[Synset]:
    """Yield every synset of the data files (data.noun and so on) in `folder`."""
    for kind in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{kind}").read_text("utf-8").splitlines():
            if line.startswith(" "):  # the licence at the head of the file
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split(" ")
            n_words = int(fields[3], 16)
            lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(n_words)]
            lemmas = [re.sub(r"\((a|p|ip)\)$", "", lemma) for lemma in lemmas]
            first = 4 + 2 * n_words  # the number of pointers, then four fields for each
            pointers = [fields[at : at + 3] for at in range(first + 1, len(fields) - 3, 4)]
            pointers = pointers[: int(fields[first])]
            related = [(_KINDS[p[2]], int(p[1])) for p in pointers if p[0] in _RELATIONS]
            examples = [found.strip() for found in _EXAMPLE.findall(gloss)]
            definition = gloss.split('; "')[0].split('"')[0].strip(" ;")
            yield Synset(int(fields[0]), kind, lemmas, definition, examples, related)
