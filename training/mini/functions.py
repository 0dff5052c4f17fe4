"""Python source files -> (docstring, function) pairs, with names and comments stripped."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MIN_DOC_CHARS = 25
MAX_DOC_CHARS = 400
MIN_LINES, MAX_LINES = 3, 60


@dataclass
class Function:
    """One documented function: first paragraph of its docstring, and its code twice."""

    name: str
    doc: str
    full: str
    stripped: str


def _first_paragraph(doc: str) -> str:
    text = re.split(r"\n\s*\n", doc.strip())[0]
    text = re.split(r"\n\s*(?::param|:return|Args:|Parameters|Returns|>>>)", text)[0]
    return re.sub(r"\s+", " ", text).strip()


def _strip_name(code: str, name: str) -> str:
    return re.sub(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", "f", code)


def load(source: str) -> Iterator[Function]:
    """Yield the documented functions and methods of one file.

    `stripped` has no comments, no docstrings and no decorators, and the function's own
    name is replaced by `f`; `full` keeps the name. Both are printed anew from the syntax
    tree, so that layout says nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        doc = ast.get_docstring(node)
        if not doc or len(node.body) < 2:
            continue
        text = _first_paragraph(doc)[:MAX_DOC_CHARS]
        if len(text) < MIN_DOC_CHARS or " " not in text:
            continue
        node.body = node.body[1:]
        node.decorator_list = []
        for inner in ast.walk(node):
            documented = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if documented and ast.get_docstring(inner) and len(inner.body) > 1:
                inner.body = inner.body[1:]
        try:
            full = ast.unparse(node)
        except (RecursionError, ValueError):
            continue
        if MIN_LINES <= full.count("\n") + 1 <= MAX_LINES:
            yield Function(node.name, text, full, _strip_name(full, node.name))
