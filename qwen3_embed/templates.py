"""Prompts of the models: str to str, nothing else.

The official template of the embedding models is ``Instruct: {instruction}\\nQuery:{text}``,
with no space after ``Query:``; documents have no prompt. Prompts are built by concatenation
alone, so braces and percent signs in a user's text have no meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

__all__ = [
    "DEFAULT_INSTRUCTION",
    "INSTRUCTIONS",
    "QWEN_PROMPT",
    "RERANKER_CHAT_TEMPLATE",
    "RERANKER_PREFIX",
    "RERANKER_SUFFIX",
    "PairPrompt",
    "Slot",
    "instruct_prompt",
    "reranker_body",
    "resolve_prompt",
]

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

# From the rerankers' model cards, byte for byte; the body stands between the two.
RERANKER_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
RERANKER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

# The chat template of the official repositories since 2026, which renders the same prompt. Jinja
# drops the last newline.
RERANKER_CHAT_TEMPLATE = (
    '{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content")'
    f' | first | default("{DEFAULT_INSTRUCTION}") -%}}\n'
    '{%- set query_text = messages | selectattr("role", "eq", "query") | map(attribute="content")'
    " | first -%}\n"
    '{%- set document_text = messages | selectattr("role", "eq", "document")'
    ' | map(attribute="content") | first -%}\n'
    f"{RERANKER_PREFIX}<Instruct>: {{{{ instruction }}}}\n<Query>: {{{{ query_text }}}}\n"
    f"<Document>: {{{{ document_text }}}}{RERANKER_SUFFIX}\n"
)

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


Slot = Literal["instruction", "query", "document", ""]
"""A place in a prompt for a text of the caller; "" for none."""


@dataclass(frozen=True, slots=True)
class PairPrompt:
    """The prompt of a reranker around a query and a document.

    Attributes
    ----------
    before, after : str
        Text around every pair, which is tokenised apart and never cut.
    default_body : tuple of (str, Slot)
        Between the two: literal texts, each followed by the caller's text for the slot. For
        calls without an instruction.
    body : tuple of (str, Slot), or None
        For calls with an instruction; None where the prompt has no place for one.
    strips : bool
        White space at the ends of the caller's texts is removed.
    """

    before: str
    after: str
    default_body: tuple[tuple[str, Slot], ...]
    body: tuple[tuple[str, Slot], ...] | None
    strips: bool = False

    @classmethod
    def of_qwen(cls, instruction: str = DEFAULT_INSTRUCTION) -> PairPrompt:
        """The prompt of the official rerankers' model cards, with this default instruction."""
        head = f"<Instruct>: {instruction}\n<Query>: "
        return cls(
            RERANKER_PREFIX,
            RERANKER_SUFFIX,
            ((head, "query"), ("\n<Document>: ", "document")),
            (
                ("<Instruct>: ", "instruction"),
                ("\n<Query>: ", "query"),
                ("\n<Document>: ", "document"),
            ),
        )

    @property
    def rest(self) -> str:
        """The end of every body, which a document that is cut keeps."""
        literal, slot = self.default_body[-1]
        return "" if slot else literal

    def body_of(self, query: str, document: str, instruction: str | None = None) -> str:
        """The text between `before` and `after`.

        Raises
        ------
        ValueError
            An instruction for a prompt without a place for one.

        Examples
        --------
        >>> PairPrompt.of_qwen("Find answers").body_of("How far?", "Three miles.")
        '<Instruct>: Find answers\\n<Query>: How far?\\n<Document>: Three miles.'
        """
        pieces = self.default_body if instruction is None else self.body
        if pieces is None:
            raise ValueError(
                f"instruction={instruction!r}, but this model's chat template has no place for an "
                f"instruction: leave it out"
            )
        texts = {"instruction": instruction or "", "query": query, "document": document, "": ""}
        if self.strips:
            texts = {slot: text.strip() for slot, text in texts.items()}
        return "".join([literal + texts[slot] for literal, slot in pieces])


QWEN_PROMPT = PairPrompt.of_qwen()


def instruct_prompt(instruction: str) -> str:
    """The prompt of a query with this instruction.

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
    """The official rerankers' text of a pair, without the fixed prefix and suffix.

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
    return QWEN_PROMPT.body_of(query, document, instruction)


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
    near = get_close_matches(value, [*own_prompts, *INSTRUCTIONS], 1)
    guess = f": did you mean {near[0]!r}?" if near else ""
    own = ", ".join(repr(name) for name in own_prompts) or "none"
    raise ValueError(
        f"prompt_name={value!r} is unknown{guess}; the model's own: {own}; "
        f"others: the names in qwen3_embed.INSTRUCTIONS"
    )
