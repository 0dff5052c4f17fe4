"""Messages of the library, in the words of the command line."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

__all__ = ["json_line", "with_options"]

_OPTIONS = {
    "adapter": "--adapter",
    "batch_tokens": "--batch-tokens",
    "cache": "--cache",
    "device": "--device",
    "dim": "--dim",
    "dtype": "--dtype",
    "embedding": "--embedding",
    "encoding": "--encoding",
    "hub": "--hub",
    "instruction": "--instruction",
    "max_length": "--max-length",
    "num_threads": "--threads",
    "prompt_name": "--prompt-name",
    "revision": "--revision",
    "split": "--split",
    "top_k": "--top-k",
}
_PHRASES = {
    "the names in qwen3_embed.INSTRUCTIONS": "`qwen3-embed info --instructions` lists them",
    "pass token= or run `hf auth login`": "run `hf auth login`",
    "pass token= or set MODELSCOPE_API_TOKEN": "set MODELSCOPE_API_TOKEN",
    "check token= or MODELSCOPE_API_TOKEN": "check MODELSCOPE_API_TOKEN",
    "check token= and": "check HF_TOKEN, or run `hf auth login`, and",
    "local_files_only=False": "without --offline",
}
_ARGUMENT = re.compile(rf"\b({'|'.join(_OPTIONS)})=(?=\S)")
_LIMIT = re.compile(r"\bat max_length=(\d+) tokens")
_NAME = re.compile(r"\b(batch_tokens|max_length|num_threads|prompt_name)\b")


def with_options(message: str) -> str:
    """The message with the options of the command line for the arguments of Python.

    Examples
    --------
    >>> with_options("num_threads=0, expected 1..64 or None")
    '--threads 0, expected 1..64'
    """
    for phrase, replacement in _PHRASES.items():
        message = message.replace(phrase, replacement)
    message = _LIMIT.sub(r"at \1 tokens (see --max-length)", message)
    message = _ARGUMENT.sub(lambda found: _OPTIONS[found[1]] + " ", message)
    message = _NAME.sub(lambda found: _OPTIONS[found[1]], message)
    return message.replace(" or None", "")


def json_line(record: dict[str, Any]) -> str:
    """One JSON object on one line, for standard output in any encoding.

    Escapes what the encoding lacks as JSON does: what Python writes instead isn't JSON.
    """
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True)
    return line
