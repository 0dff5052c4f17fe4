"""Every source -> training records, before the overlap filter.

The one idea: whatever a source is, it becomes (query, document) records of a few kinds;
a kind says which loss the record feeds and which instruction stands before its query.
"""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from training.mini import catalogues, documents, functions, held_out, wordnet
from training.mini.debian import Package, mask_name

MAX_CHARS = 900  # of a document; the teacher reads 256 word pieces anyway
MAX_LONG_CHARS = 7000


class Record(NamedTuple):
    """One training record; `group` names texts that must not be each other's negatives."""

    kind: str
    source: str
    group: str
    query: str
    document: str


_LANGUAGE = re.compile(r"(?i)(?<=[/.])(zh[-_]cn|en[-_]us|en|c)(?=[/.])[/.]")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_FURNITURE = ("navigation", "contents", "table of contents", "quick search", "next topic")


def is_chinese(text: str) -> bool:
    """Tell whether a text reads as Chinese: a tenth of it or more is Chinese characters."""
    return len(_CHINESE.findall(text)) * 10 >= len(text) > 0


def debian_records(packages: dict[str, Package], held: set[str]) -> Iterator[Record]:
    """Summary -> description in both languages and across, from packages not held out."""
    for name, package in packages.items():
        if name in held or held_out.name_byte(name) < held_out.PACKAGE_BELOW:
            continue
        english = [(package.summary, package.description), *package.older]
        for summary, text in english:
            if len(text) < 60 or "ransitional" in summary:
                continue
            query, document = mask_name(summary, name), mask_name(text, name)
            yield Record("en", "debian", package.source, query, document[:MAX_CHARS])
            if document != text:
                titled = f"{name}: {summary}"
                yield Record("en", "debian", package.source, titled, text[:MAX_CHARS])
        if not package.summary_zh:
            continue
        query = mask_name(package.summary_zh, name)
        document = mask_name(package.description_zh, name)[:MAX_CHARS]
        if len(document) > 30 and is_chinese(document):
            yield Record("zh", "debian", package.source, query, document)
        if len(package.description) > 60 and is_chinese(query):
            target = mask_name(package.description, name)[:MAX_CHARS]
            yield Record("zh_en", "debian", package.source, query, target)
            summary = mask_name(package.summary, name)
            yield Record("parallel", "debian", package.source, summary, query)
            if is_chinese(document):
                yield Record("parallel", "debian", package.source, target, document)
                yield Record("en_zh", "debian", package.source, summary, document)


def wordnet_records(folder: Path) -> Iterator[Record]:
    """Definition -> example, words -> definition, from synsets not held out."""
    for synset in wordnet.load(folder):
        if held_out.synset_is_held_out(synset.offset):
            continue
        group = f"{synset.kind}{synset.offset}"
        for example in synset.examples:
            yield Record("sense", "wordnet", group, synset.definition, example)
        lemmas = ", ".join(synset.lemmas)
        yield Record("sense", "wordnet", group, synset.definition, lemmas)


def relation_records(folder: Path) -> Iterator[Record]:
    """Related definitions, words in use and examples with synonyms; nothing held out."""
    synsets = [s for s in wordnet.load(folder) if not held_out.synset_is_held_out(s.offset)]
    known = {(s.kind, s.offset): s for s in synsets}
    for synset in synsets:
        group = f"{synset.kind}{synset.offset}"
        for at in synset.related:
            if at in known:
                other = known[at].definition
                yield Record("related", "wordnet", group, synset.definition, other)
        for example in synset.examples:
            used = [w for w in synset.lemmas if re.search(rf"(?i)\b{re.escape(w)}\b", example)]
            for word in used[:1]:
                yield Record("word", "wordnet", group, word, example)
                for other in synset.lemmas:
                    if other != word:
                        text = re.sub(rf"(?i)\b{re.escape(word)}\b", lambda _, o=other: o, example)
                        yield Record("sense", "wordnet", group, synset.definition, text)
        for word in synset.lemmas:
            yield Record("word", "wordnet", group, word, synset.definition)


def dictionary_records(folder: Path, name: str) -> Iterator[Record]:
    """Headword -> entry of a dictionary."""
    for word, entry in documents.dictionary(folder):
        if len(entry) > 40 and len(word) > 1:
            body = re.sub(rf"(?i)^{re.escape(word)}\b", "", entry).strip(" ,.;:")
            yield Record("entry", name, word.lower(), word, body[:MAX_CHARS])


def catalogue_records(folder: Path) -> Iterator[Record]:
    """English and Chinese messages of programs."""
    for english, chinese in catalogues.pairs(folder):
        yield Record("parallel", folder.name, "", english[:MAX_CHARS], chinese[:MAX_CHARS])


def _pages(folders: list[Path]) -> dict[str, dict[str, Path]]:
    """Group help pages by path without language: key -> {"en": path, "zh": path}."""
    pages: dict[str, dict[str, Path]] = defaultdict(dict)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix not in (".html", ".page", ".docbook") or not path.is_file():
                continue
            relative = "/" + str(path.relative_to(folder))
            found = {t.lower().replace("_", "-") for t in _LANGUAGE.findall(relative)}
            other = re.search(
                r"(?i)[/.](?!en|zh[-_]cn|man|usr)([a-z]{2}([-_][a-z]{2})?)[/.]", relative
            )
            if "zh-cn" in found:
                language = "zh"
            elif found or (not other and "zh" not in relative.lower()):
                language = "en"
            else:
                continue
            key = re.sub(r"doc/[^/]*(-doc|help)[^/]*/", "doc/", _LANGUAGE.sub("", relative))
            pages[key].setdefault(language, path)
    return pages


def page_records(folders: list[Path]) -> Iterator[Record]:
    """Translated help pages: aligned blocks, and heading -> section in each language."""
    for key, found in _pages(folders).items():
        blocks = {lang: documents.read_page(path) for lang, path in found.items()}
        source = next(iter(found.values())).relative_to(folders[0].parent).parts[0]
        if len(blocks) == 2:
            for english, chinese in documents.aligned(blocks["en"], blocks["zh"]):
                if not is_chinese(chinese) or is_chinese(english) or len(english) <= 5:
                    continue
                if 0.12 < len(chinese) / len(english) < 1.5:
                    yield Record("parallel", source, "", english[:MAX_CHARS], chinese[:MAX_CHARS])
        parts = {lang: list(documents.sections(page, MAX_CHARS)) for lang, page in blocks.items()}
        if len(parts) == 2 and len(parts["en"]) == len(parts["zh"]):
            for (title, text), (title_zh, text_zh) in zip(parts["en"], parts["zh"], strict=True):
                if len(title) > 5 and is_chinese(title_zh) and not is_chinese(text):
                    yield Record("zh_en", source, key, title_zh, text)
                    if is_chinese(text_zh):
                        yield Record("en_zh", source, key, title, text_zh)
        for language, page in blocks.items():
            kind = "title" if language == "en" else "zh"
            for heading, text in parts[language]:
                if heading.strip().lower() in _FURNITURE:
                    continue
                if len(heading) > 5 and is_chinese(text) == (language == "zh"):
                    yield Record(kind, source, key, heading, text)
            whole = " ".join(text for _, text in page)
            if len(whole) > 2500 and page and len(page[0][1]) > 5:
                rest = whole[len(page[0][1]) :].strip()
                yield Record("long", source, key, page[0][1], rest[:MAX_LONG_CHARS])


def manual_records(folders: list[Path]) -> Iterator[Record]:
    """One-line description -> text of manual pages, and across the two languages."""
    english: dict[str, tuple[str, str]] = {}
    for language, pattern in (
        ("en", "usr/share/man/man[1-8]/*"),
        ("zh", "usr/share/man/zh_CN/*/*"),
    ):
        for folder in folders:
            for path in sorted(folder.glob(pattern)):
                if path.is_symlink():
                    continue
                summary, text = documents.manual_page(path)
                name = path.name.split(".")[0]
                if len(summary) < 8 or len(text) < 80:
                    continue
                group = f"man {name}"
                if language == "en":
                    english[path.name] = (summary, text)
                    yield Record("title", folder.name, group, summary, text[:MAX_CHARS])
                    if len(text) > 2500:
                        yield Record("long", folder.name, group, summary, text[:MAX_LONG_CHARS])
                elif is_chinese(text):
                    yield Record("zh", folder.name, group, summary, text[:MAX_CHARS])
                    other = english.get(path.name)
                    if other and is_chinese(summary):
                        yield Record("parallel", folder.name, group, other[0], summary)
                        yield Record("zh_en", folder.name, group, summary, other[1][:MAX_CHARS])


def _wheel_files(path: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(".py") and "/test" not in name:
                yield name, wheel.read(name).decode("utf-8", "replace")


def library_files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (path below the root, text) of every Python file of an installed library."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        if not relative.startswith(("site-packages/", "test/", "lib2to3/tests/")):
            yield relative, path.read_text("utf-8", "replace")


def code_records(libraries: list[Path], wheels: list[Path], taken: set[str]) -> Iterator[Record]:
    """Docstring -> function, named and stripped, from files not held out and wheels `taken`."""
    for root in libraries:
        for path, text in library_files(root):
            if not held_out.file_is_held_out(path):
                yield from _function_records(root.name, path, text)
    for wheel in wheels:
        name = wheel.name.split("-")[0].lower()
        if name in taken:
            for path, text in _wheel_files(wheel):
                yield from _function_records(name, path, text)


def name_words(name: str) -> str:
    """Cut an identifier at case and underscores: "readTextFile" -> "read text file"."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    return " ".join(parts).lower()


def _function_records(source: str, path: str, text: str) -> Iterator[Record]:
    for function in functions.load(text):
        group = f"{source} {function.name}"
        yield Record("code", source, group, function.doc, function.stripped[:MAX_CHARS])
        yield Record("code_named", source, group, function.doc, function.full[:MAX_CHARS])
        words = name_words(function.name)
        if " " in words:
            yield Record("code_name", source, group, words, function.stripped[:MAX_CHARS])
