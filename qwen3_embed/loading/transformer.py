"""sentence_bert_config.json: how sentence-transformers prepares a text, checked key by key.

A key that changes what sentence-transformers computes is honoured or refused by name; so is a
key that isn't known here, unless it is switched off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from .config import Kind, read_object

__all__ = ["TransformerSettings", "read_length_limit", "read_transformer_settings"]

_FILE = "sentence_bert_config.json"
_TASKS: dict[Kind, tuple[str, ...]] = {
    "embedder": ("feature-extraction",),
    "reranker": ("text-generation", "sequence-classification"),
}
_OUTPUTS: dict[Kind, str] = {"embedder": "last_hidden_state", "reranker": "logits"}
# Arguments of Transformers: the dtype and the speed of its computation, or where files come from.
_ARGUMENTS = ("model_kwargs", "processor_kwargs", "config_kwargs")
_OLD_ARGUMENTS = ("model_args", "tokenizer_args", "config_args")
_ARGUMENTS_WITHOUT_EFFECT = frozenset([
    "attn_implementation", "cache_dir", "device_map", "dtype", "low_cpu_mem_usage",
    "padding_side", "token", "torch_dtype", "trust_remote_code", "use_cache", "use_fast",
])  # fmt: skip
_PADDING = frozenset(["padding", "padding_side", "pad_to_multiple_of", "return_tensors"])
_MAX_VARIABLES = 16


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """The settings that matter of a sentence_bert_config.json.

    Attributes
    ----------
    task : str or None
        "feature-extraction", "text-generation" or "sequence-classification"; None: not said.
    max_length : int or None
        In tokens.
    message_format : str or None
        Texts are rendered as chat messages: "flat" (content is a str), "structured" (a list) or
        "auto". None: they are not.
    is_text_only : bool
        The file lists the kinds of input, and chat messages are not among them.
    variables : mapping of str to object
        What the chat template sees beside the messages.
    """

    task: str | None = None
    max_length: int | None = None
    message_format: str | None = None
    is_text_only: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


def read_length_limit(content: Mapping[str, Any], key: str) -> int | None:
    """A limit in tokens; None where the file knows none, for which Transformers writes 10^30."""
    value = content.get(key)
    return value if type(value) is int and 1 <= value <= 1 << 24 else None


def read_transformer_settings(folder: Path, kind: Kind) -> TransformerSettings:
    """Reads and checks the sentence_bert_config.json of a folder, which may be absent.

    Raises
    ------
    ModelFileError
        A damaged file, or a setting that the engine doesn't compute.
    """
    path = folder / _FILE
    content = read_object(path)
    reader = _Reader(path, kind, content)
    return reader.settings() if content else TransformerSettings()


class _Reader:
    def __init__(self, path: Path, kind: Kind, content: dict[str, Any]) -> None:
        self._path = path
        self._kind = kind
        self._content = content
        self._limits: list[int] = []
        self._variables: dict[str, Any] = {}
        self._message_format: str | None = None

    def _refuse(self, key: str, value: Any, expected: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {key} is {json.dumps(value):.200}, {expected}")

    def settings(self) -> TransformerSettings:
        for key, value in self._content.items():
            self._read(key, value)
        task = self._content.get("transformer_task")
        modalities = self._content.get("modality_config")
        return TransformerSettings(
            task,
            min(self._limits, default=None),
            self._message_format,
            modalities is not None and self._message_format is None,
            self._variables,
        )

    def _read(self, key: str, value: Any) -> None:
        if key == "max_seq_length":
            self._add_limit(self._content, key)
        elif value is None or value is False or value in ("", [], {}) or key == "unpad_inputs":
            return
        elif key == "do_lower_case":
            raise self._refuse(
                key,
                value,
                "expected false: save the model with a lower-casing tokenizer.json instead",
            )
        elif key == "transformer_task":
            if value not in _TASKS[self._kind]:
                expected = " or ".join(_TASKS[self._kind])
                raise self._refuse(key, value, f"expected {expected} to open a {self._kind}")
        elif key == "modality_config":
            self._read_modalities(value)
        elif key == "module_output_name":
            if value not in ("token_embeddings", "causal_logits", "scores"):
                raise self._refuse(key, value, "expected token_embeddings, causal_logits or scores")
        elif key == "processing_kwargs":
            self._read_processing(value)
        elif key in _ARGUMENTS or key in _OLD_ARGUMENTS:
            self._read_arguments(key, value)
        else:
            raise self._refuse(
                key, value, "expected null: this setting of sentence-transformers is not supported"
            )

    def _add_limit(self, content: Mapping[str, Any], key: str) -> None:
        limit = read_length_limit(content, key)
        if limit is not None:
            self._limits.append(limit)

    def _object(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._refuse(key, value, "expected an object")
        return value

    def _read_modalities(self, value: Any) -> None:
        modalities = self._object("modality_config", value)
        for name in ("text", "message"):
            if name not in modalities:
                continue
            key = f"modality_config.{name}"
            entry = self._object(key, modalities[name])
            output = entry.get("method_output_name")
            if entry.get("method") != "forward" or output != _OUTPUTS[self._kind]:
                raise self._refuse(
                    key, entry, f"expected the method forward and the output {_OUTPUTS[self._kind]}"
                )
            if name == "message":
                self._message_format = entry.get("format", "auto")
                if self._message_format not in ("flat", "structured", "auto"):
                    raise self._refuse(key, entry, 'expected the format "flat" or "structured"')
        if "text" not in modalities and "message" not in modalities:
            raise self._refuse(
                "modality_config",
                value,
                'expected "text" or "message": no other input is supported',
            )

    def _read_processing(self, value: Any) -> None:
        """Arguments of each call of the tokenizer, by the kind of input that they are for."""
        for name, arguments in self._object("processing_kwargs", value).items():
            key = f"processing_kwargs.{name}"
            if name in ("audio", "image", "video"):
                continue
            if name not in ("text", "common", "chat_template"):
                raise self._refuse(key, arguments, "expected no such key")
            for argument, setting in self._object(key, arguments).items():
                self._read_call_argument(name, f"{key}.{argument}", argument, setting)

    def _read_call_argument(self, group: str, key: str, argument: str, setting: Any) -> None:
        if argument in _PADDING or argument == "logits_to_keep":
            return
        if argument == "max_length":
            self._add_limit({argument: setting}, argument)
        elif argument == "truncation":
            if setting not in (None, True, "longest_first", "only_first"):
                raise self._refuse(key, setting, "expected true: texts past max_length are cut")
        elif argument == "restore_suffix" and group == "chat_template":
            if setting is not True:
                raise self._refuse(
                    key, setting, "expected true: what follows a text is kept when the text is cut"
                )
        elif group == "chat_template" and argument not in ("chat_template", "tokenize"):
            simple = setting is None or isinstance(setting, (bool, int, float, str))
            if not simple or len(self._variables) >= _MAX_VARIABLES:
                raise self._refuse(key, setting, "expected a str, a number, true or false")
            self._variables[argument] = setting
        else:
            raise self._refuse(key, setting, "expected no such argument: it is not supported")

    def _read_arguments(self, key: str, value: Any) -> None:
        for argument, setting in self._object(key, value).items():
            if argument == "model_max_length":
                self._add_limit({argument: setting}, argument)
            elif argument not in _ARGUMENTS_WITHOUT_EFFECT and setting is not None:
                raise self._refuse(
                    f"{key}.{argument}", setting, "expected no such argument: it is not supported"
                )
