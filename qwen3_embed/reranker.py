"""class Reranker(Model): scores of how well documents answer a query.

A call takes the path of `Embedder.encode`: a pair is put into the model's prompt, the engine
returns the pooled row of the last token, and the head turns it into one logit. The prefix that
the documents of a query share is computed once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, Unpack, cast

import numpy as np
import numpy.typing as npt

from .adapters.weights import Weights
from .encoding.options import CrossEncoderOptions, Request, Tensors, kind_of_tensors, to_tensor
from .encoding.pipeline import Pipeline
from .encoding.progress import progress
from .encoding.texts import Texts, list_texts
from .encoding.truncation import LengthReport
from .errors import ModelFileError
from .loading.config import Kind
from .loading.head import logits_of, read_head
from .loading.tokenizer import Surroundings
from .model import Model
from .templates import INSTRUCTIONS, QWEN_PROMPT, PairPrompt

__all__ = ["Activation", "Pairs", "Reranker"]

Pairs = Iterable[Sequence[str]]
"""Any iterable of (query, document)."""

Activation = Literal["sigmoid"] | None

_SLAB_PAIRS = 1024  # pooled rows held at a time

# Pairs on which the prompt of a model is checked against its tokenizer.
_SAMPLES = (("a", "b"), ("", ""), ("What? ", " yes\n"), ("重力", "It's 1.5 🦊"))


class Reranker(Model):
    """A Qwen3 reranker, ready to score pairs of a query and a document.

    Any number of threads may share one. It pickles as its arguments (without the token).

    Parameters
    ----------
    model : str or path-like
        A folder, an official short name ("Qwen3-Reranker-0.6B"), or "owner/name" on the hub;
        also a conversion to Qwen3ForSequenceClassification, or a CrossEncoder that
        sentence-transformers saved. A chat template for pairs in the folder is used instead of
        the official prompt.
    special_tokens_in_text : bool
        False, the default: text that looks like a control token (``<|im_end|>``) stays text, so
        that a document can't close its own field. True: it becomes one, as in `transformers`.
    **others
        As in `Embedder`.

    Raises
    ------
    ModelNotFoundError
        No such model, a missing or unreadable file, or no network.
    ModelFileError
        A damaged file, a prompt that can't be used, or a model without logits for yes and no:
        an embedding model.
    DeviceError
        The device isn't there.
    ValueError
        An argument out of range.

    Examples
    --------
    >>> with Reranker("Qwen3-Reranker-0.6B") as ranker:                    # doctest: +SKIP
    ...     ranker.rank("capital of China?", ["Gravity is a force.", "Beijing is the capital."])
    [{'corpus_id': 1, 'score': 0.99...}, {'corpus_id': 0, 'score': 0.00...}]
    """

    num_labels: ClassVar[int] = 1  # scores per pair, for sentence-transformers' evaluators
    _KIND: ClassVar[Kind] = "reranker"

    def __init__(
        self, model: str | os.PathLike[str], *, special_tokens_in_text: bool = False, **others: Any
    ) -> None:
        if others.get("cache") is not None:
            raise TypeError("a Reranker takes no cache=: it keeps vectors, not scores")
        if others.get("projection") is not None:
            raise TypeError("a Reranker takes no projection=: it maps vectors, not scores")
        super().__init__(model, special_tokens_in_text=special_tokens_in_text, **others)

    def predict(
        self,
        pairs: Pairs | Sequence[str],
        *,
        instruction: str | None = None,
        activation: Activation = "sigmoid",
        show_progress_bar: bool | None = None,
        on_long: Literal["warn", "error"] = "warn",
        batch_size: int | None = None,
        **others: Unpack[CrossEncoderOptions],
    ) -> Any:
        """Scores of pairs.

        Parameters
        ----------
        pairs : iterable of (str, str), or one such pair
            Queries and documents.
        instruction : str, optional
            What makes a document right for a query; by default the model's own, which for the
            official ones is that of web search. Refused where the model's chat template has no
            place for it.
        activation : {"sigmoid", None}
            None: the logit of yes minus that of no, of which the sigmoid is the probability.
        show_progress_bar : bool, optional
            On standard error; by default where the logger "qwen3_embed" is at level INFO.
        on_long : {"warn", "error"}
            A pair over `max_length` loses the end of its document, with one warning per call; or
            is an error.
        batch_size : int, optional
            Accepted as in sentence-transformers; pairs are packed by tokens.
        **others
            Of sentence-transformers: convert_to_tensor (a tensor is returned), prompt_name (one
            of `INSTRUCTIONS`); the others with their default values only.

        Returns
        -------
        ndarray
            (n,) float32, in [0, 1] with the sigmoid; one float32 for a single pair.

        Raises
        ------
        TypeError
            `pairs[i]` isn't two str.
        ValueError
            A text that isn't Unicode, an argument out of range, or a closed Reranker.
        InputTooLongError
            A pair over `max_length` with on_long="error".
        NonFiniteError
            A score came out with NaN or infinity; `index` says which.

        Warns
        -----
        TruncationWarning
            How many pairs were cut, and the longest.

        Examples
        --------
        >>> ranker.predict([("capital of China?", "Beijing.")])            # doctest: +SKIP
        array([0.99...], dtype=float32)
        """
        if _is_pair(pairs):
            single, items = True, [cast("tuple[str, str]", pairs)]
        else:
            single, items = False, _list_pairs(pairs)
        instruction, tensors = _resolve(instruction, activation, others)
        logits = self._score(items, instruction, show_progress_bar, on_long)
        scores = logits if activation is None else sigmoid(logits)
        if tensors:
            found = to_tensor(scores)
            return found[0] if single else found if tensors == "one" else list(found)
        return np.float32(scores[0]) if single else scores

    def rank(
        self,
        query: str,
        documents: Texts,
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        instruction: str | None = None,
        activation: Activation = "sigmoid",
        show_progress_bar: bool | None = None,
        on_long: Literal["warn", "error"] = "warn",
        batch_size: int | None = None,
        **others: Unpack[CrossEncoderOptions],
    ) -> list[dict[str, Any]]:
        """The documents of a query, best first.

        Parameters
        ----------
        query : str
        documents : iterable of str
        top_k : int, optional
            How many to return; by default all.
        return_documents : bool
            Whether each has its text.
        instruction, activation, show_progress_bar, on_long, batch_size, **others
            As in `predict`.

        Returns
        -------
        list of dict
            {"corpus_id": number of the document, "score": float(, "text": str)}, as in
            sentence-transformers. Ordered by logits, which still differ where the sigmoid is 1 in
            float32; equal logits in the documents' order.

        Raises
        ------
        TypeError, ValueError, InputTooLongError, NonFiniteError
            As in `predict`.

        Examples
        --------
        >>> ranker.rank("capital of China?", ["Gravity.", "Beijing."], top_k=1)  # doctest: +SKIP
        [{'corpus_id': 1, 'score': 0.99...}]
        """
        if not isinstance(query, str):
            raise TypeError(f"query is {type(query).__name__}, expected str")
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise ValueError(f"top_k={top_k!r}, expected a positive int or None")
        texts = list_texts(documents, "documents")
        pairs = [(query, text) for text in texts]
        instruction, _ = _resolve(instruction, activation, others)
        logits = self._score(pairs, instruction, show_progress_bar, on_long)
        scores = logits if activation is None else sigmoid(logits)
        ranked: list[dict[str, Any]] = []
        for i in best_first(logits)[:top_k]:
            entry: dict[str, Any] = {"corpus_id": i, "score": float(scores[i])}
            ranked.append(entry | {"text": texts[i]} if return_documents else entry)
        return ranked

    def logits_of(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of the rows of `submit_tokens(..., normalize=False)`, for servers.

        Parameters
        ----------
        rows : ndarray
            (n, dim) float32: of pairs that were tokenised as `body_of` gives them.

        Returns
        -------
        ndarray
            (n,) float32, as `predict` with activation=None.
        """
        head = self._weights.head
        assert head is not None
        return logits_of(rows, head)

    def body_of(self, query: str, document: str, *, instruction: str | None = None) -> str:
        """The text of a pair between the tokens that the tokenizer puts around every one.

        Raises
        ------
        ValueError
            An instruction for a model whose chat template has no place for one.

        Examples
        --------
        >>> ranker.body_of("capital?", "Beijing.", instruction="Find it")  # doctest: +SKIP
        '<Instruct>: Find it\\n<Query>: capital?\\n<Document>: Beijing.'
        """
        return self._prompt.body_of(query, document, instruction)

    @property
    def _prompt(self) -> PairPrompt:
        return self._files.settings.pair_prompt

    def _around(self) -> Surroundings:
        prompt = self._prompt
        samples = tuple(prompt.body_of(*pair) for pair in _SAMPLES)
        return Surroundings(prompt.before, prompt.after, prompt.rest, samples)

    def _head(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        return read_head(self._files, tensors, self._answers())

    def _answers(self) -> tuple[int, ...]:
        """The ids of the tokens for yes and for no, or of the one token that is scored."""
        if self._files.settings.answers is not None:
            return self._files.settings.answers
        ids = [self._tokenizer.id_of(word) for word in ("yes", "no")]
        if ids[0] is None or ids[1] is None:
            raise ModelFileError(
                f"{self._files.tokenizer} has no token 'yes' or none 'no', expected both: a "
                f"reranker answers with one of them"
            )
        return ids[0], ids[1]

    def _others_in_fingerprint(self, weights: Weights) -> list[str]:
        prompt: Any = self._prompt
        if prompt == QWEN_PROMPT:
            body = prompt.body_of("{query}", "{document}", "{instruction}")
            prompt = prompt.before + prompt.after + body
        assert weights.head is not None
        head = hashlib.sha256(weights.head.astype("<f8").tobytes()).hexdigest()
        return [*super()._others_in_fingerprint(weights), f"prompt={prompt!r}", f"head {head}"]

    def _score(
        self,
        pairs: list[tuple[str, str]],
        instruction: str | None,
        show_progress_bar: bool | None,
        on_long: str,
    ) -> npt.NDArray[np.float32]:
        """(n,) logits; to be called by a public method, whose caller gets the warning."""
        if instruction is not None and not isinstance(instruction, str):
            raise TypeError(f"instruction is {type(instruction).__name__}, expected str")
        weights = self._weights
        assert weights.head is not None
        request = Request.of({"normalize": False}, self.dim, stacklevel=3, adapter=weights.number)
        report = LengthReport(self._max_length, on_long, "pairs")
        logits = np.empty(len(pairs), np.float32)
        rows = self._engines.rows(min(len(pairs), _SLAB_PAIRS), self.dim)
        with progress(show_progress_bar, len(pairs)) as on_done:
            pipeline = Pipeline(self._engines, self._tokenizer, request, report, on_done)
            try:
                for start in range(0, len(pairs), _SLAB_PAIRS):
                    slab = pairs[start : start + _SLAB_PAIRS]
                    bodies = [self._prompt.body_of(*pair, instruction) for pair in slab]
                    pipeline.feed(bodies, rows[: len(slab)], start)
                    pipeline.finish()
                    logits[start : start + len(slab)] = logits_of(rows[: len(slab)], weights.head)
            finally:
                pipeline.cancel()
        report.warn(stacklevel=3)
        return logits


def best_first(logits: npt.NDArray[np.float32]) -> list[int]:
    """Numbers of the documents, the best first; equal logits in the documents' order."""
    order: list[int] = np.argsort(-logits, kind="stable").tolist()
    return order


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,) float32: the probabilities of yes."""
    # Beyond 80 the sigmoid is 0 or 1 in float32, and exp stays finite.
    bounded = np.clip(logits.astype(np.float64), -80, 80)
    result: npt.NDArray[np.float32] = (1.0 / (1.0 + np.exp(-bounded))).astype(np.float32)
    return result


def _resolve(
    instruction: str | None, activation: Activation, others: CrossEncoderOptions
) -> tuple[str | None, Tensors]:
    """The instruction of a call, and the kind of tensors that it returns."""
    if activation not in ("sigmoid", None):
        raise ValueError(f"activation={activation!r}, expected 'sigmoid' or None")
    for name in others:
        if name not in CrossEncoderOptions.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
    if others.get("prompt") is not None:
        raise TypeError("prompt is not supported: pass instruction=, which the model's prompt has")
    prompt_name = others.get("prompt_name")
    if prompt_name is not None:
        if instruction is not None:
            raise TypeError("instruction and prompt_name are given at once, expected one of them")
        if prompt_name not in INSTRUCTIONS:
            near = get_close_matches(prompt_name, INSTRUCTIONS, 1)
            guess = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"prompt_name={prompt_name!r} is unknown{guess}, expected one of the names in "
                f"qwen3_embed.INSTRUCTIONS"
            )
        instruction = INSTRUCTIONS[prompt_name]
    return instruction, kind_of_tensors(cast("dict[str, Any]", others))


def _is_pair(pairs: Any) -> bool:
    return (
        isinstance(pairs, (tuple, list))
        and len(pairs) == 2
        and all(isinstance(text, str) for text in pairs)
    )


def _list_pairs(pairs: Pairs) -> list[tuple[str, str]]:
    if isinstance(pairs, (str, bytes, Mapping)) or not hasattr(pairs, "__iter__"):
        raise TypeError(
            f"pairs is {type(pairs).__name__}, expected an iterable of (query, document)"
        )
    checked = []
    for i, pair in enumerate(pairs):
        # A dict would be scored by its keys, and a set has no first.
        is_ordered = hasattr(pair, "__len__") and not isinstance(pair, (str, bytes, Mapping, Set))
        if not is_ordered or len(pair) != 2:
            raise TypeError(f"pairs[{i}] is {type(pair).__name__}, expected (query, document)")
        query, document = pair
        for j, text in enumerate((query, document)):
            if not isinstance(text, str):
                raise TypeError(f"pairs[{i}][{j}] is {type(text).__name__}, expected str")
        checked.append((query, document))
    return checked
