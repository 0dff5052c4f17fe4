"""Compiled gettext catalogues (.mo) -> English and Chinese message pairs."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator
from pathlib import Path

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_MARKUP = re.compile(r"<[^<>]{1,120}>")
_ACCELERATOR = re.compile(r"\([_&][A-Za-z0-9]\)|[_&](?=[A-Za-z0-9])")


def _clean(text: str) -> str:
    text = text.rpartition("\x04")[2]  # a message's context stands before \x04
    text = _MARKUP.sub(" ", text)
    text = _ACCELERATOR.sub(lambda m: "" if len(m[0]) == 1 or m[0][0] == "(" else m[0], text)
    return re.sub(r"\s+", " ", text.replace("\\n", " ")).strip()


def pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (English, Chinese) from every zh_CN catalogue below `folder`."""
    for path in sorted(folder.rglob("*.mo")):
        try:
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        except (OSError, UnicodeDecodeError, ValueError, LookupError):
            continue  # a broken catalogue of one program is no reason to stop
        for key, value in catalogue.items():
            if isinstance(key, tuple):
                if key[1] != 0:
                    continue
                key = key[0]
            english, chinese = _clean(key), _clean(value)
            if len(english) >= 8 and _CHINESE.search(chinese) and " " in english:
                yield english, chinese
