"""Types of the bodies of requests; all else is refused when a body is read."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from .problems import Problem
from .wire import OutputDtype

__all__ = [
    "Document",
    "EmbedRequest",
    "EmbeddingRequest",
    "RerankRequest",
    "TeiRerankRequest",
    "Texts",
    "TokenizeRequest",
    "check_documents",
    "decode",
    "decode_inputs",
]

_MAX_NAME = 256
_MAX_INSTRUCTION = 8192

Name = Annotated[str, Meta(max_length=_MAX_NAME)]
Instruction = Annotated[str, Meta(max_length=_MAX_INSTRUCTION)]
Dimensions = Annotated[int, Meta(ge=1, le=1 << 20)]
Count = Annotated[int, Meta(ge=1, le=1 << 20)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]

Texts = list[str] | list[list[int]]


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    """POST /v1/embeddings; `input` is read by `decode_inputs`."""

    input: Raw
    model: Name
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] = "float"
    output_dtype: OutputDtype = "float"
    user: Name | None = None
    instruction: Instruction | None = None
    input_type: Literal["query", "document"] | None = None
    prompt_name: Name | None = None
    truncate: bool | None = None


class Document(Struct):
    """Cohere's clients may send a document as an object; its other fields are not read."""

    text: str


class RerankRequest(Struct, forbid_unknown_fields=True):
    """POST /v1/rerank."""

    query: str
    documents: list[str | Document]
    model: Name | None = None
    top_n: Count | None = None
    return_documents: bool = False
    max_tokens_per_doc: Count | None = None
    instruction: Instruction | None = None
    user: Name | None = None
    truncate: bool | None = None


class EmbedRequest(Struct, forbid_unknown_fields=True):
    """TEI: POST /embed."""

    inputs: Raw
    truncate: bool | None = None
    truncation_direction: Literal["Right", "right"] = "Right"
    prompt_name: Name | None = None
    normalize: bool = True
    dimensions: Dimensions | None = None


class TeiRerankRequest(Struct, forbid_unknown_fields=True):
    """TEI: POST /rerank."""

    query: str
    texts: list[str]
    truncate: bool | None = None
    truncation_direction: Literal["Right", "right"] = "Right"
    raw_scores: bool = False
    return_text: bool = False


class TokenizeRequest(Struct, forbid_unknown_fields=True):
    """TEI: POST /tokenize."""

    inputs: Raw
    add_special_tokens: bool = True
    prompt_name: Name | None = None


Body = TypeVar("Body")


def decode(body: bytes | Raw, kind: type[Body], param: str | None = None) -> Body:
    """A body, or a part of one, as `kind`; a Problem with 400 where it isn't."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        # msgspec's messages name fields and types, never values.
        raise Problem(400, f"the body is not as expected: {error}", param=param) from None


def decode_inputs(raw: Raw, max_inputs: int, param: str) -> Texts:
    """The texts or token ids of a request; one alone becomes a list of one.

    The number of lists is looked at before they are made: two bytes of JSON are a list of 56.

    Raises
    ------
    Problem
        400 for another type, 422 for too many.
    """
    content = bytes(raw).lstrip()
    found: Texts
    if content.startswith(b'"'):
        return [decode(content, str, param)]
    inner = content[1:].lstrip()[:1]
    if content.startswith(b"[") and inner == b"[":
        if content.count(b"[") > max_inputs + 1:
            raise _too_many("more", max_inputs, param)
        found = decode(content, list[list[TokenId]], param)
    elif content.startswith(b"[") and inner.isdigit():
        found = [decode(content, list[TokenId], param)]
    elif content.startswith(b"["):
        found = decode(content, list[str], param)
    else:
        raise Problem(
            400,
            f"{param} is expected to be a string, an array of strings, an array of token ids, "
            f"or an array of such arrays",
            param=param,
        )
    if not found:
        raise _none(param)
    if len(found) > max_inputs:
        raise _too_many(str(len(found)), max_inputs, param)
    return found


def check_documents(documents: list[str], max_inputs: int, param: str) -> None:
    """Raises a Problem if there are no documents (400) or too many (422)."""
    if not documents:
        raise _none(param)
    if len(documents) > max_inputs:
        raise _too_many(str(len(documents)), max_inputs, param)


def _none(param: str) -> Problem:
    return Problem(400, f"{param} is empty, expected at least one text", param=param)


def _too_many(found: str, max_inputs: int, param: str) -> Problem:
    return Problem(
        422, f"{param} has {found} items, expected at most {max_inputs} a request", param=param
    )
