"""Request bodies as structs: the fields that each route knows, those of its many clients included.

Every optional field takes null as absent. A field that no client is known to send is refused, since
it is a typing error. Fields that are read as `Raw` are skipped without making objects of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field

from .wire import OutputDtype

__all__ = [
    "CohereEmbedRequest",
    "DecodeRequest",
    "Document",
    "EmbedRequest",
    "EmbeddingRequest",
    "OllamaEmbedRequest",
    "OllamaEmbeddingsRequest",
    "OllamaShowRequest",
    "RerankRequest",
    "ScoreRequest",
    "SimilarityRequest",
    "TeiRerankRequest",
    "TokenizeRequest",
]

_MAX_NAME = 256
_MAX_INSTRUCTION = 8192

Name = Annotated[str, Meta(max_length=_MAX_NAME)]
Instruction = Annotated[str, Meta(max_length=_MAX_INSTRUCTION)]
Dimensions = Annotated[int, Meta(ge=1, le=1 << 20)]
Limit = Annotated[int, Meta(ge=0, le=1 << 20)]  # 0: none
PromptTokens = Annotated[int, Meta(ge=-1, le=1 << 20)]  # -1: the model's own limit
Side = Literal["left", "right", "Left", "Right"]
Truncate = bool | Literal["NONE", "START", "END"]
Embedding = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class _Request(Struct, forbid_unknown_fields=True):
    pass


class _ClientFields(_Request, kw_only=True):
    """Fields of OpenAI's, vLLM's and Cohere's clients that have no effect here."""

    user: Name | None = None
    request_id: Name | None = None
    priority: int | None = None


class _PromptLimits(_ClientFields):
    """vLLM's fields for a limit of its own for each request."""

    truncate_prompt_tokens: PromptTokens | None = None
    truncation_side: Side | None = None
    add_special_tokens: bool | None = None


class EmbeddingRequest(_PromptLimits, kw_only=True):
    """POST /v1/embeddings; `input` is read by `decode_inputs`."""

    input: Raw
    model: Name | None = None
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None
    instruction: Instruction | None = None
    input_type: (
        Literal["query", "document", "passage", "search_query", "search_document"] | None
    ) = None
    prompt_name: Name | None = None
    truncate: Truncate | None = None
    # vLLM
    normalize: bool | None = None
    use_activation: bool | None = None
    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None
    # Voyage
    output_dtype: OutputDtype | None = None
    output_dimension: Dimensions | None = None
    truncation: bool | None = None
    # Infinity, as LiteLLM has it
    modality: Literal["text"] | None = None
    # Jina; encoding_type is what LlamaIndex calls embedding_type
    task: (
        Literal[
            "retrieval.query",
            "retrieval.passage",
            "text-matching",
            "classification",
            "separation",
        ]
        | None
    ) = None
    embedding_type: Literal["float", "base64", "binary", "ubinary"] | None = None
    encoding_type: Literal["float", "base64", "binary", "ubinary"] | None = None
    normalized: bool | None = None
    late_chunking: bool | None = None


class Document(Struct):
    """Clients may send a document as an object; its other fields are not read."""

    text: str


class RerankRequest(_PromptLimits, kw_only=True):
    """POST /v1/rerank, /v2/rerank, and /rerank as vLLM, Infinity and Jina have it."""

    query: str
    documents: list[str | Document]
    model: Name | None = None
    top_n: Limit | None = None
    return_documents: bool | None = None
    instruction: Instruction | None = None
    truncate: bool | None = None
    max_tokens_per_doc: Limit | None = None
    max_tokens_per_query: Limit | None = None
    max_chunks_per_doc: int | None = None
    use_activation: bool | None = None
    raw_scores: bool | None = None
    rank_fields: Raw = field(default_factory=Raw)
    relevant_spans: Raw = field(default_factory=Raw)


class ScoreRequest(_PromptLimits, kw_only=True):
    """vLLM: POST /score, with the two sides under one of its four pairs of names."""

    model: Name | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    instruction: Instruction | None = None
    use_activation: bool | None = None
    max_tokens_per_query: Limit | None = None
    max_tokens_per_doc: Limit | None = None


class EmbedParameters(_Request, kw_only=True):
    """TEI's options for vectors; Hugging Face's clients may put them into `parameters`."""

    truncate: bool | None = None
    truncation_direction: Side | None = None
    prompt_name: Name | None = None
    normalize: bool | None = None
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None


class EmbedRequest(EmbedParameters, kw_only=True):
    """TEI: POST /embed."""

    inputs: Raw
    parameters: EmbedParameters | None = None


class SimilarityInputs(_Request, kw_only=True):
    """One text, and the texts to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(_Request, kw_only=True):
    """TEI's options for similarities."""

    truncate: bool | None = None
    truncation_direction: Side | None = None
    prompt_name: Name | None = None


class SimilarityRequest(_Request, kw_only=True):
    """TEI: POST /similarity."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TeiRerankRequest(_Request, kw_only=True):
    """TEI: POST /rerank."""

    query: str
    texts: list[str]
    truncate: bool | None = None
    truncation_direction: Side | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    top_n: Limit | None = None


class TokenizeRequest(_Request, kw_only=True):
    """TEI: POST /tokenize."""

    inputs: Raw
    add_special_tokens: bool | None = None
    prompt_name: Name | None = None


class DecodeRequest(_Request, kw_only=True):
    """TEI: POST /decode."""

    ids: Raw
    skip_special_tokens: bool | None = None


class CohereContent(Struct):
    """A part of one of Cohere's inputs."""

    type: Literal["text"]
    text: str


class CohereInput(_Request, kw_only=True):
    """One of Cohere's inputs, which are made of parts."""

    content: list[CohereContent]


class CohereEmbedRequest(_ClientFields, kw_only=True):
    """Cohere: POST /v1/embed and /v2/embed."""

    model: Name | None = None
    texts: list[str] | None = None
    inputs: list[CohereInput] | None = None
    images: Raw = field(default_factory=Raw)
    input_type: (
        Literal["search_query", "search_document", "classification", "clustering"] | None
    ) = None
    embedding_types: list[Embedding] | None = None
    output_dimension: Dimensions | None = None
    truncate: Truncate | None = None
    max_tokens: Limit | None = None


class OllamaEmbedRequest(_Request, kw_only=True):
    """Ollama: POST /api/embed."""

    model: Name
    input: Raw
    truncate: bool | None = None
    dimensions: Dimensions | None = None
    options: Raw = field(default_factory=Raw)
    keep_alive: str | float | None = None


class OllamaEmbeddingsRequest(_Request, kw_only=True):
    """Ollama: POST /api/embeddings, which takes one text."""

    model: Name
    prompt: str | None = None
    options: Raw = field(default_factory=Raw)
    keep_alive: str | float | None = None


class OllamaShowRequest(_Request, kw_only=True):
    """Ollama: POST /api/show; its older clients say `name`."""

    model: Name | None = None
    name: Name | None = None
    verbose: bool | None = None
