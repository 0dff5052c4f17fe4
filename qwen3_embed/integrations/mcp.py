"""MCP, the Model Context Protocol: a memory, and search in folders, as tools of an agent.

`qwen3-embed mcp` runs this server over standard input and output. What comes in is not trusted:
arguments are bounded, and files outside the folders named at the start can't be reached.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from ..embedder import Embedder
from ..retrieval.corpus_files import CorpusFile, find_files
from ..retrieval.corpus_index import CorpusIndex
from ..stores.corpus_vectors import CorpusVectors
from ..stores.memory import Memory
from ..version import __version__

__all__ = ["make_server"]

_MAX_CHARACTERS = 4000
_MAX_IDS = 1000
_MAX_PATH = 4096

Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)]
Ids = Annotated[list[Annotated[int, Field(ge=1, lt=1 << 63)]], Field(max_length=_MAX_IDS)]
TopK = Annotated[int, Field(ge=1, le=50)]

_INSTRUCTIONS = """\
Facts stay between conversations. Before you remember a fact that may have changed, recall it, and \
pass the ids of the facts that are no longer true as `replaces`. Write each fact so that it can be \
understood alone: with names and dates, not with "he" and "yesterday"."""


class Remembered(BaseModel):
    """The result of `remember`."""

    id: int


class Forgotten(BaseModel):
    """The result of `forget`."""

    n_forgotten: int


class RecalledFact(BaseModel):
    """A result of `recall`."""

    id: int
    text: str
    time: str
    replaced_by: int | None


class FoundPassage(BaseModel):
    """A result of `search_folder`."""

    file: str
    line: int
    last_line: int
    heading: str
    text: str
    score: float


def make_server(
    model: Embedder,
    memory: Memory,
    folders: Sequence[str] = (),
    store: CorpusVectors | None = None,
) -> MCPServer[Any]:
    """A server with the tools remember, recall and forget, and search_folder if there are folders.

    Parameters
    ----------
    model : Embedder
    memory : Memory
    folders : sequence of str
        `search_folder` reads what `find_files` finds in them, without symbolic links.
    store : CorpusVectors, optional
        Vectors of the folders' files.

    Returns
    -------
    MCPServer
        Of the `mcp` SDK.

    Examples
    --------
    >>> model = Embedder("mini")                                           # doctest: +SKIP
    >>> make_server(model, Memory("memory.sqlite", model)).run()           # doctest: +SKIP
    """
    # Requests have private texts in them: the SDK logs them at INFO.
    server: MCPServer[Any] = MCPServer(
        "qwen3-embed", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    tools: list[Callable[..., Any]] = [*_memory_tools(memory)]
    if folders:
        tools.append(_folder_tool(model, folders, store))
    for tool in tools:
        server.add_tool(tool)
    return server


def _memory_tools(memory: Memory) -> Iterator[Callable[..., Any]]:
    lock = threading.Lock()  # the SDK calls tools on several threads

    def remember(fact: Text, replaces: Ids = []) -> Remembered:  # noqa: B006
        """Keep a fact for later conversations. `replaces`: ids of facts that are no longer true."""
        with lock, _told():
            return Remembered(id=memory.remember(fact, replaces))

    def recall(
        query: Text,
        top_k: TopK = 5,
        since: datetime | None = None,
        with_replaced: bool = False,
    ) -> list[RecalledFact]:
        """The facts that answer a question, best first, each with the time it was remembered.

        `since`: leave out older facts. `with_replaced`: with facts that are no longer true.
        """
        with lock, _told():
            facts = memory.recall(query, top_k, since=since, with_replaced=with_replaced)
        return [
            RecalledFact(
                id=fact.id,
                text=fact.text,
                time=fact.time.isoformat(timespec="seconds"),
                replaced_by=fact.replaced_by,
            )
            for fact in facts
        ]

    def forget(ids: Ids) -> Forgotten:
        """Delete facts for good, with the facts that they replaced."""
        with lock, _told():
            return Forgotten(n_forgotten=memory.forget(ids))

    yield from (remember, recall, forget)


def _folder_tool(
    model: Embedder, folders: Sequence[str], store: CorpusVectors | None
) -> Callable[..., Any]:
    roots = [os.path.realpath(folder) for folder in folders]
    lock = threading.Lock()

    def search_folder(
        query: Text,
        folder: Annotated[str, Field(max_length=_MAX_PATH)] | None = None,
        top_k: TopK = 5,
    ) -> list[FoundPassage]:
        with lock, _told():
            row = model.encode_query(query)
            found = []
            for root, files in _allowed(roots, folder):
                index = CorpusIndex(model, root, files, store=store)
                found += index.nearest(row, top_k)
        found.sort(key=lambda hit: -hit.score)
        return [
            FoundPassage(
                file=hit.passage.path,
                line=hit.passage.line,
                last_line=hit.passage.last_line,
                heading=hit.passage.heading,
                text=hit.passage.text,
                score=round(hit.score, 4),
            )
            for hit in found[:top_k]
        ]

    search_folder.__doc__ = (
        "The passages of text and code files that answer a question, best first. `folder`: search "
        f"below this folder only, or in this file; it is in one of {', '.join(roots)}."
    )
    return search_folder


def _allowed(roots: list[str], folder: str | None) -> list[tuple[str, list[CorpusFile]]]:
    """Each root with its files at or below `folder`, which may be relative to a root."""
    allowed = []
    for root in roots:
        try:
            files = find_files(root, follows_symlinks=False)
        except (OSError, ValueError):
            continue  # gone, or without a file
        if folder is not None:
            # The root is listed, not `folder`: so what is hidden or ignored stays so.
            chosen = os.path.realpath(os.path.join(root, folder))
            below = os.path.join(chosen, "")
            files = [f for f in files if f.path == chosen or f.path.startswith(below)]
        if files:
            allowed.append((root, files))
    if not allowed:
        place = "no folder" if folder is None else f"{folder!r}"
        raise ToolError(f"{place} has files to search; allowed are {', '.join(roots)}")
    return allowed


@contextmanager
def _told() -> Iterator[None]:
    """Errors that the agent can do something about, in words; the SDK withholds all others."""
    try:
        yield
    except ValueError as error:
        raise ToolError(str(error)) from error
    except sqlite3.Error as error:
        raise ToolError(f"the memory can't be read or written: {error}") from error
