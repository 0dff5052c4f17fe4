"""Bodies of requests, read as the structs of schemas.py; all else is refused."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw

from .problems import Problem

__all__ = ["Texts", "check_documents", "decode", "decode_inputs", "is_null"]

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]

Texts = list[str] | list[list[int]]

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


def is_null(raw: Raw) -> bool:
    """True if a field is absent, null or empty."""
    return bytes(raw) in (b"", b"null", b"[]", b"{}")


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
        422, f"{param} has {found} items, expected at most {max_inputs} per request", param=param
    )
