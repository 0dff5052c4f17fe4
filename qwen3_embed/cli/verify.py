"""`qwen3-embed verify`: compare a model's vectors with published or recorded numbers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .colours import GREEN, RED, paint
from .model_arguments import add_model_arguments, open_model, open_reranker

if TYPE_CHECKING:
    from ..checks.verify import Check

__all__ = ["add_arguments", "run"]

_EPILOG = """examples:
  qwen3-embed verify
  qwen3-embed verify --model Qwen3-Embedding-0.6B"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own arguments."""
    parser.epilog = _EPILOG
    compared = parser.add_argument_group("numbers")
    compared.add_argument(
        "--reference",
        metavar="NAME",
        help="official model that --model is a copy of (default: by its name)",
    )
    values = compared.add_mutually_exclusive_group()
    values.add_argument(
        "--values",
        type=Path,
        metavar="FILE",
        help="recorded values (default: verify.json in the model's folder)",
    )
    values.add_argument(
        "--write", type=Path, metavar="FILE", help="record this model's values and exit"
    )
    compared.add_argument(
        "--max-error",
        type=float,
        metavar="E",
        help="with --write: the error allowed to other instruction sets (default: 0.05)",
    )
    add_model_arguments(parser, "mini", takes_cache=False)
    parser.set_defaults(wrong=parser.error)


def run(namespace: argparse.Namespace) -> int:
    """Prints a table; returns 1 if a number is off or no numbers are known for the model."""
    from ..checks.verify import (
        SAME_ENGINE_ERROR,
        VALUES_FILE,
        official_name,
        record_values,
        run_checks,
    )

    max_error = namespace.max_error
    if max_error is not None and (namespace.write is None or not 0 < max_error < 1):
        namespace.wrong("--max-error goes with --write and is expected between 0 and 1")
    if "qwen3-reranker" in (namespace.reference or Path(namespace.model).name).lower():
        return _verify_reranker(namespace)
    with open_model(namespace, namespace.model) as model:
        if namespace.write is not None:
            content = json.dumps(
                record_values(model, max_error or SAME_ENGINE_ERROR), ensure_ascii=False, indent=1
            )
            namespace.write.write_text(content + "\n", encoding="utf-8")
            return 0
        values = namespace.values
        if values is None and (model.folder / VALUES_FILE).exists():
            values = model.folder / VALUES_FILE
        official = namespace.reference or official_name(model)
        checks = run_checks(model, official=official, values=values)
        name = model.name
    if not checks:
        print(
            f"error: no numbers are known for {name}: pass --reference for a copy of an official "
            f"model, or --values",
            file=sys.stderr,
        )
        return 1
    return _report(name, checks)


def _verify_reranker(namespace: argparse.Namespace) -> int:
    from ..checks.verify_reranker import run_reranker_checks

    if namespace.write is not None or namespace.values is not None:
        namespace.wrong("--write and --values are for embedding models")
    with open_reranker(namespace, namespace.model) as ranker:
        official = namespace.reference or Path(ranker.name).name
        return _report(ranker.name, run_reranker_checks(ranker, official))


def _report(name: str, checks: list[Check]) -> int:
    _print_table(checks)
    n_missed = sum(not check.ok for check in checks)
    print(f"{name}: {len(checks) - n_missed} of {len(checks)} numbers agree")
    return 1 if n_missed else 0


def _print_table(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    print(f"{'check':{width}}  {'found':>10}  {'expected':>10}  {'within':>8}        source")
    for check in checks:
        verdict = paint(*(("ok  ", GREEN) if check.ok else ("MISS", RED)), sys.stdout)
        print(
            f"{check.name:{width}}  {check.found:10.5f}  {check.expected:10.5f}  "
            f"{check.tolerance:8.5f}  {verdict}  {check.source}"
        )
