"""The official prompts, byte for byte."""

from __future__ import annotations

import pytest

from qwen3_embed import INSTRUCTIONS
from qwen3_embed.templates import DEFAULT_INSTRUCTION, instruct_prompt, resolve_prompt

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"


def test_official_query_prompt() -> None:
    """As in the model cards and config_sentence_transformers.json: no space after "Query:"."""
    official = (
        b"Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        b"Query:"
    )
    assert instruct_prompt(DEFAULT_INSTRUCTION).encode() == official
    assert DEFAULT_INSTRUCTION == WEB_SEARCH


def test_template_is_concatenation() -> None:
    wild = "{0} %s {task} \\n {{}}"
    assert instruct_prompt(wild) == "Instruct: " + wild + "\nQuery:"


def test_instructions_are_read_only() -> None:
    with pytest.raises(TypeError):
        INSTRUCTIONS["legal"] = "x"  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "wording"),
    [
        ("web_search", WEB_SEARCH),
        ("MSMARCO", WEB_SEARCH),
        ("legal", "Represent this legal clause for similarity search in contract review"),
        ("medical", "Encode this clinical note for patient record retrieval"),
        ("finance", "Generate embedding for earnings report comparison"),
        ("technical_documentation", "Convert API documentation sentence for developer search"),
        ("sts", "Retrieve semantically similar text"),
        ("STS17", "Retrieve semantically similar text"),
        ("NQ", "Given a question, retrieve Wikipedia passages that answer the question"),
        ("ArguAna", "Given a claim, find documents that refute the claim"),
        # The misspellings are the authors' own.
        ("Banking77Classification", "Given a online banking query, find the corresponding intents"),
        (
            "AppsRetrieval",
            "Given a question about code problem, retrieval code that can solve user's problem",
        ),
        ("BUCC.v2", "Retrieve parallel sentences"),
        (
            "EmotionClassification",
            "Classify the emotion expressed in the given Twitter message into one of the six "
            "emotions: anger, fear, joy, love, sadness, and surprise",
        ),
    ],
)
def test_wordings(name: str, wording: str) -> None:
    assert INSTRUCTIONS[name] == wording


def test_every_name_of_the_interface_is_there() -> None:
    names = "web_search medical legal finance code academic faq sts classification clustering"
    assert set(names.split()) <= set(INSTRUCTIONS)
    for wording in INSTRUCTIONS.values():
        assert wording == wording.strip()
        assert "\n" not in wording


OWN = {"query": "Q: ", "legal": "own legal: ", "empty": ""}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "fallback"),
        ({"instruction": "Find it"}, "Instruct: Find it\nQuery:"),
        ({"instruction": ""}, "Instruct: \nQuery:"),
        ({"prompt": "literal "}, "literal "),
        ({"prompt": ""}, ""),
        ({"prompt_name": "query"}, "Q: "),
        ({"prompt_name": "empty"}, ""),
        ({"prompt_name": "legal"}, "own legal: "),  # the model's own name comes first
        ({"prompt_name": "sts"}, "Instruct: Retrieve semantically similar text\nQuery:"),
    ],
)
def test_resolve_prompt(given: dict[str, str], expected: str) -> None:
    assert resolve_prompt(OWN, "fallback", **given) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a", "prompt_name": "query"},
        {"prompt": "a", "instruction": "b"},
        {"instruction": "a", "prompt_name": "query"},
        {"instruction": "a", "prompt_name": "query", "prompt": ""},
    ],
)
def test_two_at_once_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="at once") as caught:
        resolve_prompt(OWN, "", **given)
    for name in given:
        assert name in str(caught.value)


def test_wrong_type_and_unknown_name() -> None:
    with pytest.raises(TypeError, match="instruction is bytes, expected str"):
        resolve_prompt(OWN, "", instruction=b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'leagl' is unknown: did you mean 'legal'\?; the model"):
        resolve_prompt(OWN, "", prompt_name="leagl")
    with pytest.raises(ValueError, match="'nope' is unknown; the model's own: 'query', 'legal'"):
        resolve_prompt(OWN, "", prompt_name="nope")
