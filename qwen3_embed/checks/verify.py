"""Compares what a model gives in this engine with published numbers.

There are three sources: model cards and test suites of the official models, whose values are kept
here; a verify.json beside any model's weights; and golden token ids. Every check names its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..embedder import Embedder
from ..errors import ModelFileError
from ..loading.config import read_json
from ..templates import DEFAULT_INSTRUCTION, instruct_prompt

__all__ = [
    "CARD_DOCUMENTS",
    "PLANET_DOCUMENTS",
    "PLANET_QUERY",
    "SAME_ENGINE_ERROR",
    "VALUES_FILE",
    "Check",
    "official_name",
    "record_values",
    "run_checks",
]

VALUES_FILE = "verify.json"
_FORMAT = 1
_N_FIRST = 16

# The relative error e of a vector and its cosine c to the exact vector are related by
# e^2 = 2 (1 - c). Between instruction sets rounding differs: 1 - c stays below 1e-4, e below 0.015.
# Between bf16 and fp32, 1 - c is about 1e-3 and e about 0.045; 16 or 32 dimensions of a vector
# estimate e to within a quarter. A small model rounds less often: --max-error sets its bound.
SAME_ENGINE_ERROR = 0.05
_BF16_ERROR = 0.1
# The cards' own bf16 and fp32 runs are up to 2.6e-3 apart.
_BF16_COSINE = 5e-3


@dataclass(frozen=True, slots=True)
class Check:
    """A number and its expected value.

    Attributes
    ----------
    name : str
    found, expected, tolerance : float
        `ok` if the two numbers differ by at most `tolerance`.
    source : str
        Publisher of the expected number.
    """

    name: str
    found: float
    expected: float
    tolerance: float
    source: str

    @property
    def ok(self) -> bool:
        """True if the number is within the tolerance; False for NaN."""
        return abs(self.found - self.expected) <= self.tolerance


_CARD_QUERIES = ("What is the capital of China?", "Explain gravity")
CARD_DOCUMENTS = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical "
    "objects and is responsible for the movement of planets around the sun.",
)
_CARD_COSINES = {
    "Qwen3-Embedding-0.6B": (
        (0.7645568251609802, 0.14142508804798126),
        (0.13549736142158508, 0.5999549627304077),
    ),
    "Qwen3-Embedding-4B": ((0.7534, 0.1147), (0.0320, 0.6258)),
    "Qwen3-Embedding-8B": (
        (0.7493016123771667, 0.0750647559762001),
        (0.08795969933271408, 0.6318399906158447),
    ),
}

PLANET_QUERY = "Which planet is known as the Red Planet?"
PLANET_DOCUMENTS = (
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
)
_PLANET_COSINES = (0.4838, 0.69335, 0.58793, 0.6647)

# Un-normalised last-token vectors, fp32 on a CPU.
_SNAPSHOT_TEXTS = ("What is Deep Learning?", "Deep Learning is...")
_SNAPSHOT_FIRST = (
    "-1.5195851 -3.0843177 -1.0581057 -6.4716716 -1.6939588 6.247706 -6.0047812 0.33277434 "
    "-7.076037 1.6089259 2.6919277 -6.6759276 -0.3188343 -0.92679334 -5.2509317 6.254659 "
    "-7.547883 5.7074513 1.8492131 -6.660861 -5.4044456 1.0730867 -0.798889 11.321978 "
    "-5.612691 -3.2188258 0.40938726 2.0401466 -2.8391414 -3.008227 -2.2292786 3.1861105",
    "-2.6450086 -0.2636502 -1.0401946 -6.530035 -0.020435907 4.766168 -5.8390155 0.51225257",
)
_SNAPSHOT_NORMS = (96.65715128, 91.92398820)
_SNAPSHOT_COSINE = 0.9028871070

_GOLDEN_IDS = {
    "What is Deep Learning?": (3838, 374, 18183, 20909, 30, 151643),
    "test again": (1944, 1549, 151643),
    "The capital of China is Beijing.": (785, 6722, 315, 5616, 374, 26549, 13, 151643),
    "回家吃饭了吗": (104122, 104636, 105660, 151643),
    "e\u0301 vs \u00e9": (963, 6165, 3958, 151643),
    "": (151643,),
}


def official_name(model: Embedder) -> str | None:
    """The official model named by the model's name or folder, such as "Qwen3-Embedding-0.6B"."""
    name = Path(model.name).name
    return name if name in _CARD_COSINES else None


def run_checks(model: Embedder, *, official: str | None, values: Path | None) -> list[Check]:
    """Runs every check that applies.

    Parameters
    ----------
    model : Embedder
    official : str or None
        Official model whose published values apply.
    values : Path or None
        A file written by `record_values`.

    Returns
    -------
    list of Check
        Empty if nothing is known about the model.

    Raises
    ------
    ModelFileError
        `values` is not such a file.
    ValueError
        No official model of that name.
    """
    checks: list[Check] = []
    if official is not None:
        if official not in _CARD_COSINES:
            raise ValueError(f"{official!r} is unknown, expected one of {', '.join(_CARD_COSINES)}")
        checks += _golden_ids(model)
        checks += _card(model, official)
        if official == "Qwen3-Embedding-0.6B":
            checks += _snapshots(model) + _planets(model)
    if values is not None:
        checks += _recorded(model, values)
    return checks


def _golden_ids(model: Embedder) -> list[Check]:
    source = "Qwen3 tokenizer.json with the end token"
    checks = []
    for text, ids in _GOLDEN_IDS.items():
        found = model.tokenizer.encode([text]).tokens
        wrong = 0 if found.tolist() == list(ids) else 1
        checks.append(Check(f"token ids of {text!r}: wrong", wrong, 0, 0, source))
    return checks


def _card(model: Embedder, official: str) -> list[Check]:
    prompt = instruct_prompt(DEFAULT_INSTRUCTION)
    queries = model.encode(_CARD_QUERIES, prompt=prompt)
    documents = model.encode(CARD_DOCUMENTS)
    cosines = model.similarity(queries, documents)
    return [
        Check(
            f"cos(query {i + 1}, document {j + 1})",
            float(cosines[i, j]),
            expected,
            _BF16_COSINE,
            f"model card of {official}",
        )
        for i, row in enumerate(_CARD_COSINES[official])
        for j, expected in enumerate(row)
    ]


def _snapshots(model: Embedder) -> list[Check]:
    source = "text-embeddings-inference snapshots, fp32"
    rows = model.encode(_SNAPSHOT_TEXTS, normalize=False)
    checks = []
    for text, row, first, norm in zip(
        _SNAPSHOT_TEXTS, rows, _SNAPSHOT_FIRST, _SNAPSHOT_NORMS, strict=True
    ):
        length = float(np.linalg.norm(row))
        error = _relative_error(row, [float(value) for value in first.split()])
        checks += [
            Check(f"error of {text!r}", error, 0, _BF16_ERROR, source),
            Check(f"length of {text!r}", length, norm, 0.02 * norm, source),
        ]
    cosine = float(model.similarity_pairwise(rows[0], rows[1])[0])
    return [*checks, Check("cos of the two", cosine, _SNAPSHOT_COSINE, _BF16_COSINE, source)]


def _planets(model: Embedder) -> list[Check]:
    query = model.encode_query(PLANET_QUERY)
    cosines = model.similarity(query, model.encode_document(PLANET_DOCUMENTS))[0]
    return [
        Check(
            f"cos(Red Planet, {document.split()[0].strip(',')})",
            float(cosine),
            expected,
            0.01 * expected,
            "sentence-transformers tests, bf16",
        )
        for document, cosine, expected in zip(
            PLANET_DOCUMENTS, cosines, _PLANET_COSINES, strict=True
        )
    ]


def _relative_error(found: npt.NDArray[Any], expected: Sequence[float]) -> float:
    right = np.asarray(expected, np.float64)
    if right.ndim != 1 or not right.any():
        raise ValueError("the expected vector is empty or zero")
    return float(np.linalg.norm(found[: len(right)] - right) / np.linalg.norm(right))


_RECORDED_TEXTS = (
    ("What is the capital of China?", "query"),
    ("The capital of China is Beijing.", "document"),
    ("Der schnelle braune Fuchs springt über den faulen Hund. 机器学习 🦊", "document"),
    ("def add(a, b):\n    return a + b\n" * 8, "document"),
)


def record_values(model: Embedder, max_error: float = SAME_ENGINE_ERROR) -> dict[str, Any]:
    """The content of a verify.json: the first values of a few vectors, and their cosines.

    Parameters
    ----------
    model : Embedder
    max_error : float
        Largest error that the same model may have on another instruction set: the norm of the
        difference divided by that of the vector.

    Returns
    -------
    dict
        To be written as JSON, which `run_checks` reads.
    """
    rows = np.stack([model.encode(t, prompt_name=name) for t, name in _RECORDED_TEXTS])
    cosines = model.similarity(rows, rows[0])[:, 0]
    cases = [
        {
            "text": text,
            "prompt_name": prompt_name,
            "n_tokens": model.count_tokens(text, prompt_name=prompt_name),
            "first": [round(float(value), 6) for value in row[:_N_FIRST]],
            "cosine_to_first": round(float(cosine), 6),
        }
        for (text, prompt_name), row, cosine in zip(_RECORDED_TEXTS, rows, cosines, strict=True)
    ]
    return {
        "format": _FORMAT,
        "fingerprint": model.fingerprint,
        "max_error": max_error,
        "cases": cases,
    }


def _recorded(model: Embedder, path: Path) -> list[Check]:
    content = read_json(path)
    checks: list[Check] = []
    try:
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, expected {_FORMAT}")
        max_error = float(content["max_error"])
        rows: list[npt.NDArray[np.float32]] = []
        for i, case in enumerate(content["cases"]):
            text, name = str(case["text"]), str(case["prompt_name"])
            rows.append(model.encode(text, prompt_name=name))
            n_tokens = model.count_tokens(text, prompt_name=name)
            error = _relative_error(rows[i], case["first"])
            cosine = float(model.similarity_pairwise(rows[i], rows[0])[0])
            checks += [
                Check(f"tokens of text {i + 1}", float(n_tokens), case["n_tokens"], 0, path.name),
                Check(f"error of text {i + 1}", error, 0, max_error, path.name),
                Check(
                    f"cos(text {i + 1}, text 1)",
                    cosine,
                    case["cosine_to_first"],
                    _BF16_COSINE,
                    path.name,
                ),
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: not a file of recorded values ({error!r}); write it again with "
            f"`qwen3-embed verify --write`"
        ) from error
    if not checks:
        raise ModelFileError(f"{path} holds no cases, expected at least one")
    return checks
