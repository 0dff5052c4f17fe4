"""The prompts that the models were trained with: str to str, nothing else.

The official template is ``Instruct: {instruction}\\nQuery:{text}``, with no space after
``Query:``. Documents carry none. A template is put together by concatenation only, so braces
and percent signs in a user's text mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "DEFAULT_INSTRUCTION",
    "INSTRUCTIONS",
    "RERANKER_PREFIX",
    "RERANKER_SUFFIX",
    "instruct_prompt",
    "reranker_body",
    "resolve_prompt",
]

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

# The rerankers' model cards, byte for byte; the body stands between them.
RERANKER_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
RERANKER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

# Wordings marked MTEB are those of the evaluation that the model's authors published
# (QwenLM/Qwen3-Embedding, evaluation/task_prompts.json), typing errors included: the models saw
# them so.
INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
    {
        # The default of the model cards.
        "web_search": DEFAULT_INSTRUCTION,
        # Written for this package.
        "legal": "Represent this legal clause for similarity search in contract review",
        "medical": "Encode this clinical note for patient record retrieval",
        "finance": "Generate embedding for earnings report comparison",
        "technical_documentation": "Convert API documentation sentence for developer search",
        "faq": "Given a question, retrieve the frequently asked question that has the same answer",
        "classification": "Classify the given text by its topic",
        # MTEB wordings under a name for the task.
        "code": "Given a question about code problem, retrieval code that can solve user's problem",
        "academic": (
            "Given a scientific paper title, retrieve paper abstracts that are cited by the "
            "given paper"
        ),
        "sts": "Retrieve semantically similar text",
        "clustering": "Identify the topic or theme of the given news articles",
        "bitext": "Retrieve parallel sentences",
        # MTEB wordings under the name of the MTEB task.
        "MSMARCO": DEFAULT_INSTRUCTION,
        "MMarcoRetrieval": DEFAULT_INSTRUCTION,
        "NQ": "Given a question, retrieve Wikipedia passages that answer the question",
        "RuBQRetrieval": "Given a question, retrieve Wikipedia passages that answer the question",
        "NFCorpus": "Given a question, retrieve relevant documents that best answer the question",
        "SciFact": (
            "Given a scientific claim, retrieve documents that support or refute the claim"
        ),
        "SCIDOCS": (
            "Given a scientific paper title, retrieve paper abstracts that are cited by the "
            "given paper"
        ),
        "FiQA2018": (
            "Given a financial question, retrieve user replies that best answer the question"
        ),
        "ArguAna": "Given a claim, find documents that refute the claim",
        "TRECCOVID": "Given a query on COVID-19, retrieve documents that answer the query",
        "Touche2020Retrieval.v3": (
            "Given a question, retrieve detailed and persuasive arguments that answer the question"
        ),
        "T2Retrieval": (
            "Given a Chinese search query, retrieve web passages that answer the question"
        ),
        "DuRetrieval": (
            "Given a Chinese search query, retrieve web passages that answer the question"
        ),
        "Banking77Classification": ("Given a online banking query, find the corresponding intents"),
        "EmotionClassification": (
            "Classify the emotion expressed in the given Twitter message into one of the six "
            "emotions: anger, fear, joy, love, sadness, and surprise"
        ),
        "TwentyNewsgroupsClustering": ("Identify the topic or theme of the given news articles"),
        "STS12": "Retrieve semantically similar text",
        "STS13": "Retrieve semantically similar text",
        "STS14": "Retrieve semantically similar text",
        "STS15": "Retrieve semantically similar text",
        "STS16": "Retrieve semantically similar text",
        "STS17": "Retrieve semantically similar text",
        "STSBenchmark": "Retrieve semantically similar text",
        "SICK-R": "Retrieve semantically similar text",
        "BIOSSES": "Retrieve semantically similar text",
        "Tatoeba": "Retrieve parallel sentences",
        "BUCC.v2": "Retrieve parallel sentences",
        "AppsRetrieval": (
            "Given a question about code problem, retrieval code that can solve user's problem"
        ),
        "BelebeleRetrieval": "Retrieval the relevant passage for the given query",
        "MLQARetrieval": "Retrieval the relevant passage for the given query",
    }
)
"""Instructions by name, read-only; `prompt_name` takes these names.

``web_search`` is the model cards' default. Names of MTEB tasks, and ``code``, ``academic``,
``sts``, ``clustering`` and ``bitext``, carry the wording of the authors' published evaluation.
The others are this package's own.
"""


def instruct_prompt(instruction: str) -> str:
    """The text that stands before a query with this instruction.

    Parameters
    ----------
    instruction : str
        One sentence on the task, in English even for texts in other languages.

    Returns
    -------
    str

    Examples
    --------
    >>> instruct_prompt("Retrieve parallel sentences") + "Guten Tag"
    'Instruct: Retrieve parallel sentences\\nQuery:Guten Tag'
    """
    return "Instruct: " + instruction + "\nQuery:"


def reranker_body(instruction: str, query: str, document: str) -> str:
    """The text that a reranker judges, without the fixed prefix and suffix.

    Parameters
    ----------
    instruction, query, document : str

    Returns
    -------
    str

    Examples
    --------
    >>> reranker_body("Find answers", "How far?", "Three miles.")
    '<Instruct>: Find answers\\n<Query>: How far?\\n<Document>: Three miles.'
    """
    return "<Instruct>: " + instruction + "\n<Query>: " + query + "\n<Document>: " + document


def resolve_prompt(
    own_prompts: Mapping[str, str],
    fallback: str,
    *,
    instruction: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
) -> str:
    """The literal prefix that the texts of a call get.

    Parameters
    ----------
    own_prompts : mapping of str to str
        The model's own prompts by name (config_sentence_transformers.json).
    fallback : str
        The prefix when none of the three arguments is given.
    instruction, prompt, prompt_name : str, optional
        An instruction for the official template; a literal prefix; the name of one of the
        model's own prompts or of one of `INSTRUCTIONS`, the model's own first. At most one.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        More than one of the three, or one that isn't a str.
    ValueError
        No prompt of that name.

    Examples
    --------
    >>> resolve_prompt({"query": "Q: "}, "", prompt_name="query")
    'Q: '
    >>> resolve_prompt({}, "", prompt_name="sts")
    'Instruct: Retrieve semantically similar text\\nQuery:'
    """
    choices = {"instruction": instruction, "prompt": prompt, "prompt_name": prompt_name}
    given = [name for name, value in choices.items() if value is not None]
    if not given:
        return fallback
    if len(given) > 1:
        raise TypeError(f"{' and '.join(given)} are given at once, expected one of them")
    value = choices[given[0]]
    if not isinstance(value, str):
        raise TypeError(f"{given[0]} is {type(value).__name__}, expected str")
    if given[0] == "instruction":
        return instruct_prompt(value)
    if given[0] == "prompt":
        return value
    if value in own_prompts:
        return own_prompts[value]
    if value in INSTRUCTIONS:
        return instruct_prompt(INSTRUCTIONS[value])
    own = ", ".join(repr(name) for name in own_prompts) or "none"
    raise ValueError(
        f"prompt_name={value!r} is unknown; the model's own: {own}; "
        f"others: the names in qwen3_embed.INSTRUCTIONS"
    )
