"""Reads sentence-transformers' files beside a model: pooling, prompts, length.

The engine pools the last token and may L2-normalise, or scores it by the logits of two tokens;
any other module is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ModelFileError
from ..templates import DEFAULT_INSTRUCTION, instruct_prompt
from .config import Kind, read_json

__all__ = ["ModuleSettings", "read_module_settings"]

# The official models' own, for a folder without config_sentence_transformers.json.
_OFFICIAL_PROMPTS: Mapping[str, str] = MappingProxyType(
    {"query": instruct_prompt(DEFAULT_INSTRUCTION), "document": ""}
)

_MODULES: dict[Kind, tuple[str, ...]] = {
    "embedder": ("Transformer", "Pooling", "Normalize"),
    "reranker": ("Transformer", "LogitScore"),
}
_OWN_FOLDERS = {"Pooling": "1_Pooling", "LogitScore": "1_LogitScore"}


@dataclass(frozen=True, slots=True)
class ModuleSettings:
    """Settings that a model folder has beside its config.json.

    Attributes
    ----------
    prompts : mapping of str to str
        Literal prefixes by name; the official ones where the folder has none.
    default_prompt_name : str or None
        The prompt that `encode` uses when none is asked for.
    max_length : int or None
        The shortest limit that any of the files names, in tokens.
    answers : tuple of int, or None
        Of a reranker, where the files say so: the ids of the tokens for yes and for no.
    """

    prompts: Mapping[str, str]
    default_prompt_name: str | None
    max_length: int | None
    answers: tuple[int, int] | None = None


def _read_object(path: Path) -> dict[str, Any]:
    """The object in an optional JSON file; {} without the file."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _check_pooling(path: Path) -> None:
    content = _read_object(path)
    modes = content.get("pooling_mode")
    if modes is None:
        prefix = "pooling_mode_"
        modes = [k.removeprefix(prefix) for k, on in content.items() if k.startswith(prefix) and on]
    if isinstance(modes, str):
        modes = [modes]
    if modes != ["lasttoken"]:
        found = ", ".join(map(str, modes)) if isinstance(modes, list) and modes else "none"
        raise ModelFileError(
            f"{path}: the pooling is {found}, expected lasttoken: no other pooling is built"
        )


def _check_modules(folder: Path, kind: Kind) -> None:
    path = folder / "modules.json"
    if not path.exists():
        return  # a plain causal language model: sentence-transformers pools its last token too
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelFileError(f"{path}: expected a list of objects")
    known = _MODULES[kind]
    found: list[str] = []
    for module in modules:
        name = str(module.get("type"))
        noun = name.rpartition(".")[2]
        if not name.startswith("sentence_transformers.") or noun not in known:
            raise ModelFileError(
                f"{path}: the module {name} is not supported, expected {' then '.join(known)} "
                f"to be opened as {kind}"
            )
        found.append(noun)
        if noun == "Transformer" and module.get("path") not in ("", None):
            raise ModelFileError(
                f"{path}: the Transformer lies in {module['path']!r}, expected the folder itself"
            )
        if noun in _OWN_FOLDERS and module.get("path") != _OWN_FOLDERS[noun]:
            raise ModelFileError(
                f"{path}: the {noun} lies in {module.get('path')!r}, "
                f"expected {_OWN_FOLDERS[noun]!r}"
            )
        if noun == "Pooling":
            _check_pooling(folder / _OWN_FOLDERS[noun] / "config.json")
    # Rows are normalised unless the caller says otherwise, so the last module may be absent.
    if found not in (list(known[:2]), list(known)):
        raise ModelFileError(
            f"{path}: the modules are {', '.join(found)}, expected {', '.join(known)}"
        )


def _answers(folder: Path) -> tuple[int, int] | None:
    path = folder / _OWN_FOLDERS["LogitScore"] / "config.json"
    content = _read_object(path)
    if not content:
        return None
    yes, no = (content.get(key) for key in ("true_token_id", "false_token_id"))
    if type(yes) is not int or type(no) is not int or min(yes, no) < 0:
        raise ModelFileError(
            f"{path}: true_token_id and false_token_id are {yes} and {no}, expected token ids"
        )
    return yes, no


def _prompts(folder: Path) -> tuple[Mapping[str, str], str | None]:
    path = folder / "config_sentence_transformers.json"
    content = _read_object(path)
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise ModelFileError(f"{path}: prompts is expected to map names to texts")
    default = content.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelFileError(
            f"{path}: default_prompt_name is {default!r}, expected one of the prompts' names"
        )
    return (MappingProxyType(prompts) if prompts else _OFFICIAL_PROMPTS), default


def _length_limit(path: Path, key: str) -> list[int]:
    value: Any = _read_object(path).get(key)
    # Where no limit is known, transformers writes 10^30.
    known = type(value) is int and 1 <= value <= 1 << 24
    return [value] if known else []


def read_module_settings(folder: Path, kind: Kind = "embedder") -> ModuleSettings:
    """Reads the files of sentence-transformers in a model folder; each may be absent.

    Parameters
    ----------
    folder : Path
    kind : Kind

    Returns
    -------
    ModuleSettings

    Raises
    ------
    ModelFileError
        A module, pooling or setting that the engine doesn't compute, or a damaged file.
    """
    _check_modules(folder, kind)
    transformer = folder / "sentence_bert_config.json"
    if _read_object(transformer).get("do_lower_case"):
        raise ModelFileError(f"{transformer}: do_lower_case is true, expected false")
    prompts, default = _prompts(folder)
    limits = _length_limit(transformer, "max_seq_length")
    limits += _length_limit(folder / "tokenizer_config.json", "model_max_length")
    answers = _answers(folder) if kind == "reranker" else None
    return ModuleSettings(prompts, default, min(limits, default=None), answers)
