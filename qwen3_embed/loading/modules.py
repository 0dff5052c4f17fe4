"""modules.json and what it leads to: how sentence-transformers puts a model together.

The engine pools the last token and may L2-normalise, or scores it by the logits of one or two
tokens; any other module is refused by name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ModelFileError
from ..templates import DEFAULT_INSTRUCTION, QWEN_PROMPT, PairPrompt, instruct_prompt
from .chat_template import carries_pairs, read_chat_template, read_pair_prompt
from .config import Kind, read_json, read_object
from .transformer import TransformerSettings, read_length_limit, read_transformer_settings

__all__ = ["ModuleSettings", "Modules", "read_module_settings", "read_modules"]

# The official models' own, for a folder without config_sentence_transformers.json.
_OFFICIAL_PROMPTS: Mapping[str, str] = MappingProxyType(
    {"query": instruct_prompt(DEFAULT_INSTRUCTION), "document": ""}
)

_MODULES: dict[Kind, tuple[str, ...]] = {
    "embedder": ("Transformer", "Pooling", "Normalize"),
    "reranker": ("Transformer", "LogitScore"),
}
_SEQUENCES: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "embedder": (_MODULES["embedder"][:2], _MODULES["embedder"]),
    "reranker": (_MODULES["reranker"][:1], _MODULES["reranker"]),
}
_KINDS_IN_WORDS: dict[Kind, str] = {
    "embedder": "an embedding model: open it as an Embedder",
    "reranker": "a reranker: open it as a Reranker",
}
_OTHER: dict[Kind, Kind] = {"embedder": "reranker", "reranker": "embedder"}
_MODEL_TYPES: dict[str, Kind] = {"SentenceTransformer": "embedder", "CrossEncoder": "reranker"}
_WITHOUT_EFFECT = frozenset(["Dropout"])  # modules of training alone
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_ACTIVATIONS = ("Sigmoid", "Identity")
_CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True, slots=True)
class Modules:
    """The folders of a model's modules, relative to the model's own; "" is that one.

    Attributes
    ----------
    is_listed : bool
        There is a modules.json.
    transformer : str
        Of config.json, tokenizer.json and the weights.
    pooling, normalize, logit_score : str or None
        None: no such module.
    """

    is_listed: bool = False
    transformer: str = ""
    pooling: str | None = None
    normalize: str | None = None
    logit_score: str | None = None

    @property
    def config_files(self) -> list[str]:
        """The small files of the modules after the first."""
        folders = [self.pooling, self.normalize, self.logit_score]
        return [f"{folder}/config.json" for folder in folders if folder]


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
    is_listed : bool
        A modules.json says which kind of model it is.
    answers : tuple of int, or None
        Of a reranker, where the files say so: the ids of the tokens for yes and for no, or of
        one token whose logit is the score.
    pair_prompt : PairPrompt
        Of a reranker.
    """

    prompts: Mapping[str, str]
    default_prompt_name: str | None
    max_length: int | None
    is_listed: bool = False
    answers: tuple[int, ...] | None = None
    pair_prompt: PairPrompt = QWEN_PROMPT


def read_modules(folder: Path, kind: Kind) -> Modules:
    """Reads modules.json, which may be absent: then the model is a plain Transformer.

    Raises
    ------
    ModelFileError
        A damaged file, or modules that the engine doesn't compute.
    """
    path = folder / "modules.json"
    if not path.exists():
        return (
            Modules()
        )  # a plain causal language model: sentence-transformers pools the last token
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelFileError(f"{path}: expected a list of objects")
    found: dict[str, str] = {}
    order = []
    for module in modules:
        noun = _noun_of(module, path, kind)
        if noun in _WITHOUT_EFFECT:
            continue
        order.append(noun)
        found[noun] = _folder_of(module, noun, path)
    # Rows are normalised unless the caller says otherwise, so the last module may be absent.
    if tuple(order) not in _SEQUENCES[kind]:
        known = " or ".join(", ".join(sequence) for sequence in _SEQUENCES[kind])
        raise ModelFileError(f"{path}: the modules are {', '.join(order)}, expected {known}")
    return Modules(
        True,
        found["Transformer"],
        found.get("Pooling"),
        found.get("Normalize"),
        found.get("LogitScore"),
    )


def _noun_of(module: dict[str, Any], path: Path, kind: Kind) -> str:
    name = str(module.get("type"))
    noun = name.rpartition(".")[2]
    is_known = name.startswith("sentence_transformers.")
    if is_known and (noun in _MODULES[kind] or noun in _WITHOUT_EFFECT):
        if module.get("kwargs"):
            raise ModelFileError(
                f"{path}: {noun} has the kwargs {module['kwargs']!r}, expected none: they are not "
                f"supported"
            )
        return noun
    hint = ""
    if is_known and noun in _MODULES[_OTHER[kind]]:
        hint = f"; this is {_KINDS_IN_WORDS[_OTHER[kind]]}"
    raise ModelFileError(
        f"{path}: the module {name} is not supported, expected "
        f"{' then '.join(_MODULES[kind])} to be opened as {kind}{hint}"
    )


def _folder_of(module: dict[str, Any], noun: str, path: Path) -> str:
    folder = module.get("path") or ""
    if folder == "" and noun in ("Transformer", "Normalize"):
        return ""
    if not isinstance(folder, str) or not _PATH.fullmatch(folder) or ".." in folder:
        raise ModelFileError(
            f"{path}: the {noun} lies in {folder!r}, expected the plain name of a folder beside it"
        )
    return folder


def read_module_settings(
    folder: Path, modules: Modules, transformer: Path, kind: Kind
) -> ModuleSettings:
    """Reads the files of sentence-transformers and of the tokenizer; each may be absent.

    Parameters
    ----------
    folder : Path
    modules : Modules
    transformer : Path
        The folder of the tokenizer and of sentence_bert_config.json.
    kind : Kind

    Returns
    -------
    ModuleSettings

    Raises
    ------
    ModelFileError
        A module, pooling or setting that the engine doesn't compute, or a damaged file.
    """
    content = read_object(folder / _CONFIG)
    _check_config(content, folder / _CONFIG, kind)
    if modules.pooling is not None:
        _check_pooling(folder / modules.pooling / "config.json")
    if modules.normalize:
        _check_names(folder / modules.normalize / "config.json", "sentence_embedding")
    settings = read_transformer_settings(transformer, kind)
    prompts, default = _prompts(content, folder / _CONFIG)
    tokenizer = read_object(transformer / "tokenizer_config.json")
    limits = [settings.max_length, read_length_limit(tokenizer, "model_max_length")]
    answers, pair_prompt = None, QWEN_PROMPT
    if kind == "reranker":
        answers = _answers(folder / (modules.logit_score or "1_LogitScore") / "config.json")
        instruction = prompts.get(default, "") if default is not None else ""
        pair_prompt = read_pair_prompt(transformer, settings, instruction or None)
    else:
        _check_is_embedder(transformer, modules, settings)
    return ModuleSettings(
        prompts or _OFFICIAL_PROMPTS,
        default,
        min((limit for limit in limits if limit is not None), default=None),
        modules.is_listed,
        answers,
        pair_prompt,
    )


def _check_config(content: dict[str, Any], path: Path, kind: Kind) -> None:
    model_type = content.get("model_type")
    if model_type is not None and _MODEL_TYPES.get(str(model_type)) != kind:
        other = _MODEL_TYPES.get(str(model_type))
        advice = f"this is {_KINDS_IN_WORDS[other]}" if other else "it is not supported"
        raise ModelFileError(f"{path}: model_type is {model_type!r}: {advice}")
    activation = content.get("activation_fn")
    if activation is not None and str(activation).rpartition(".")[2] not in _ACTIVATIONS:
        raise ModelFileError(
            f"{path}: activation_fn is {activation!r}, expected Sigmoid or Identity; what a score "
            f"becomes is the argument activation= of predict"
        )
    if content.get("truncate_dim") is not None:
        warnings.warn(
            f"{path}: truncate_dim is {content['truncate_dim']!r}: pass dim= to encode, which "
            f"otherwise gives all dimensions",
            UserWarning,
            stacklevel=2,
        )


def _check_pooling(path: Path) -> None:
    content = read_object(path)
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


def _check_names(path: Path, expected: str) -> None:
    """That a module reads and writes what it does by default."""
    content = read_object(path)
    for key in ("module_input_name", "module_output_name"):
        if content.get(key, expected) not in (None, expected):
            raise ModelFileError(f"{path}: {key} is {content[key]!r}, expected {expected!r}")


def _check_is_embedder(folder: Path, modules: Modules, settings: TransformerSettings) -> None:
    if settings.message_format is not None:
        raise ModelFileError(
            f'{folder}: modality_config in sentence_bert_config.json has "message", so '
            f"sentence-transformers renders every text with the chat template, which an Embedder "
            f'does not; remove "message" if the model was trained on plain texts'
        )
    if not modules.is_listed and carries_pairs(read_chat_template(folder)):
        raise ModelFileError(
            f"{folder}: the chat template renders queries with documents, so this is "
            f"{_KINDS_IN_WORDS['reranker']}"
        )


def _answers(path: Path) -> tuple[int, ...] | None:
    content = read_object(path)
    if not content:
        return None
    _check_names(path, "causal_logits")
    yes, no = (content.get(key) for key in ("true_token_id", "false_token_id"))
    ids = [token_id for token_id in (yes, no) if type(token_id) is int and token_id >= 0]
    if len(ids) != (1 if no is None else 2):
        raise ModelFileError(
            f"{path}: true_token_id and false_token_id are {yes} and {no}, expected token ids"
        )
    return tuple(ids)


def _prompts(content: dict[str, Any], path: Path) -> tuple[Mapping[str, str], str | None]:
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise ModelFileError(f"{path}: prompts is expected to map names to texts")
    default = content.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelFileError(
            f"{path}: default_prompt_name is {default!r}, expected one of the prompts' names"
        )
    return MappingProxyType(prompts), default
