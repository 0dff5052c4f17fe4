"""Queries made of documents, for data without queries: the inverse cloze task.

A sentence is taken out of its document and asks for what is left (Lee, Chang and Toutanova, ACL
2019). Such queries are longer than people's and share more words with their answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from .datasets import Dataset, Query

__all__ = ["take_sentences"]

_SEED = 18
_MAX_QUERIES = 2000
_MIN_CHARACTERS = 8  # of a sentence, and of what is left
_END = re.compile(r"(?<=[。！？；!?])\s*|(?<=[.;])\s+|\n+")


def take_sentences(name: str, texts: Sequence[str]) -> Dataset:
    """A data set whose queries are sentences taken out of their documents.

    Parameters
    ----------
    name : str
    texts : sequence of str
        Documents; those of one sentence have no query, but are searched.

    Returns
    -------
    Dataset
        At most 2,000 queries; its first note says what they are.

    Raises
    ------
    ValueError
        No document has two sentences, or there is only one document.

    Examples
    --------
    >>> data = take_sentences("notes", ["gzip compresses. It is fast!", "git undoes commits."])
    >>> data.queries, data.documents[0]
    (['It is fast!'], 'gzip compresses.')
    """
    chance = random.Random(_SEED)
    distinct = list(dict.fromkeys(texts))
    documents = {str(i): text for i, text in enumerate(distinct)}
    places = list(range(len(distinct)))
    chance.shuffle(places)
    queries = []
    for place in places:
        parts = [part.strip() for part in _END.split(distinct[place]) if part and part.strip()]
        long = [i for i, part in enumerate(parts) if len(part) >= _MIN_CHARACTERS]
        if not long:
            continue
        taken = chance.choice(long)
        rest = " ".join(parts[:taken] + parts[taken + 1 :])
        if len(rest) < _MIN_CHARACTERS:
            continue
        queries.append(Query(parts[taken], {str(place): 1}))
        documents[str(place)] = rest
        if len(queries) == _MAX_QUERIES:
            break
    if not queries:
        raise ValueError(
            f"{name}: no queries, and no document has two sentences to make queries of; expected "
            f"JSON lines of query and positive, or longer documents"
        )
    note = (
        f"{len(queries)} pseudo-queries, sentences taken out of the documents: people's queries "
        f"may need more dimensions, or fewer"
    )
    return Dataset.of(name, queries, documents, [note])
