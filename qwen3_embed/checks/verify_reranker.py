"""Compares a reranker's scores in this engine with published ones.

This is verify.py for rerankers: golden token ids of the prompt, then differences of logits.
"""

from __future__ import annotations

from ..reranker import Reranker
from ..templates import DEFAULT_INSTRUCTION, reranker_body
from .verify import CARD_DOCUMENTS, PLANET_DOCUMENTS, PLANET_QUERY, Check

__all__ = ["OFFICIAL_RERANKERS", "run_reranker_checks"]

_CARD_QUERY = "What is the capital of China?"
_CARD_LOGITS = {
    "Qwen3-Reranker-0.6B": (7.625, -11.375),
    "Qwen3-Reranker-4B": (6.4375, -14.375),
    "Qwen3-Reranker-8B": (5.0625, -14.25),
}
OFFICIAL_RERANKERS = tuple(_CARD_LOGITS)
# sentence-transformers' tests of Qwen3-Reranker-0.6B, fp32.
_PLANET_LOGITS = (-3.109297752380371, 7.120389938354492, -0.3787546157836914, 3.541637420654297)
# The cards print bf16 logits, whose step is up to 0.125.
_LOGIT_TOLERANCE = 0.25

_GOLDEN_LENGTHS = (85, 108)
_GOLDEN_END = (151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271)


def run_reranker_checks(ranker: Reranker, official: str) -> list[Check]:
    """Runs every check that applies to the official reranker of this name.

    Parameters
    ----------
    ranker : Reranker
    official : str
        One of `OFFICIAL_RERANKERS`.

    Returns
    -------
    list of Check

    Raises
    ------
    ValueError
        No official reranker of that name.
    """
    if official not in _CARD_LOGITS:
        raise ValueError(
            f"{official!r} is unknown, expected one of {', '.join(OFFICIAL_RERANKERS)}"
        )
    source = "Qwen3 tokenizer.json with the model card's prompt"
    bodies = [reranker_body(DEFAULT_INSTRUCTION, _CARD_QUERY, d) for d in CARD_DOCUMENTS]
    batch = ranker.tokenizer.encode(bodies)
    checks = [
        Check(f"tokens of prompt {i + 1}", float(length), expected, 0, source)
        for i, (length, expected) in enumerate(zip(batch.lengths, _GOLDEN_LENGTHS, strict=True))
    ]
    wrong = 0 if tuple(batch.tokens[-len(_GOLDEN_END) :].tolist()) == _GOLDEN_END else 1
    checks.append(Check("token ids of the prompt's end: wrong", wrong, 0, 0, source))
    pairs = [(_CARD_QUERY, document) for document in CARD_DOCUMENTS]
    expected_logits = list(_CARD_LOGITS[official])
    sources = [f"model card of {official}"] * 2
    if official == "Qwen3-Reranker-0.6B":
        pairs += [(PLANET_QUERY, document) for document in PLANET_DOCUMENTS]
        expected_logits += _PLANET_LOGITS
        sources += ["sentence-transformers tests, fp32"] * 4
    logits = [ranker.predict(pair, activation=None) for pair in pairs]
    return checks + [
        Check(f"logit of {document[:24]!r}...", float(logit), expected, _LOGIT_TOLERANCE, source)
        for (_, document), logit, expected, source in zip(
            pairs, logits, expected_logits, sources, strict=True
        )
    ]
