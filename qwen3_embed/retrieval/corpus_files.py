"""The text files of a folder: by suffix, without hidden, ignored, generated and binary ones."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

__all__ = ["CODE", "MARKDOWN", "PROSE", "RECORDS", "find_files", "suffix_of"]

MARKDOWN = (".md", ".markdown")
RECORDS = (".jsonl", ".ndjson")
PROSE = (".txt", ".text", ".rst")
CODE = (
    *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cu", ".cuh", ".java"),
    *(".kt", ".scala", ".cs", ".swift", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".go", ".rs"),
    *(".sh", ".bash", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".sql", ".proto"),
)
_GENERATED = (".egg-info", ".dist-info")  # ends of the names of folders
_SNIFFED_BYTES = 8000  # git looks as far for a NUL, which makes a file binary


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def find_files(folder: str) -> list[str]:
    """The files of a folder and all below it that can be searched, sorted.

    Parameters
    ----------
    folder : str
        What .gitignore files say is left out, those of the folders above included up to the
        root of the repository; they are read with pathspec, the extra "search".

    Returns
    -------
    list of str
        Paths that begin with `folder`.

    Warns
    -----
    UserWarning
        There is a .gitignore file, and pathspec is not installed.
    """
    ignored = _Ignored()
    for above in _folders_above(folder):
        ignored.read(above)
    found = []
    for base, folders, names in os.walk(folder):
        ignored.read(base)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(_GENERATED)
            and not ignored.covers(base, name + "/")
        ]
        for name in names:
            path = os.path.join(base, name)
            if (
                not name.startswith(".")
                and suffix_of(name) in (*PROSE, *MARKDOWN, *RECORDS, *CODE)
                and os.path.isfile(path)
                and not ignored.covers(base, name)
                and not (suffix_of(name) in CODE and _is_binary(path))
            ):
                found.append(path)
    return sorted(found)


def _folders_above(folder: str) -> list[str]:
    """The folders from the root of a Git repository down to, without, the one given."""
    above: list[str] = []
    here = Path(folder).resolve()
    while not (here / ".git").exists():
        if here.parent == here:
            return []  # no repository, so no rules from above
        here = here.parent
        above.append(str(here))
    return above[::-1]


def _is_binary(path: str) -> bool:
    """True of a file that only has the name of code, such as an MPEG stream (.ts)."""
    try:
        with open(path, "rb") as file:
            return b"\0" in file.read(_SNIFFED_BYTES)
    except OSError:
        return False  # reading it will raise the same error, and is reported


class _Ignored:
    """The rules of the .gitignore files read so far; the deepest file has the last word."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}  # by resolved folder
        self._warned = False

    def read(self, folder: str) -> None:
        """Reads a folder's own .gitignore, if it has one."""
        path = os.path.join(folder, ".gitignore")
        if not os.path.isfile(path):
            return
        try:
            from pathspec import GitIgnoreSpec
        except ImportError:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{path} is not read, so that ignored files are searched too: "
                    f'pip install "qwen3-embed-native[search]"',
                    stacklevel=4,
                )
            return
        lines = Path(path).read_text("utf-8", "replace").splitlines()
        self._specs[os.path.realpath(folder)] = GitIgnoreSpec.from_lines(lines)

    def covers(self, base: str, name: str) -> bool:
        """True if a name in folder `base` is ignored; a folder's name ends in a slash."""
        folder = os.path.realpath(base) if self._specs else ""
        below = name
        while folder:
            if folder in self._specs:
                verdict = self._specs[folder].check_file(below).include
                if verdict is not None:
                    return bool(verdict)
            above, part = os.path.split(folder)
            if above == folder:
                break
            folder, below = above, f"{part}/{below}"
        return False
