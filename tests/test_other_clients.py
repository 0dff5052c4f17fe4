"""Other projects' clients: their lines in docs/server.md, run as they stand there, and more calls.

Each runs in a process, and an environment, of its own.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder, Reranker
from tests.support.client_environments import run_with
from tests.support.rerankers import make_reranker
from tests.support.served import Served

TEXTS = ["Beijing is a city.", "Gravity is a force.", "x"]
QUERY = "capital?"
RANKER = "Qwen3-Reranker-0.6B"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "server.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
PRELUDE = f"""
import json
TEXTS, QUERY, RANKER = {TEXTS!r}, {QUERY!r}, {RANKER!r}
found = {{}}
def error_of(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "code", None)]
"""


@pytest.fixture(scope="module")
def ranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("rerankers") / RANKER)


@pytest.fixture(scope="module")
def server(ranker_folder: Path) -> Iterator[Served]:
    served = Served("--model", "mini", "--reranker", str(ranker_folder))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def mini() -> Iterator[Embedder]:
    with Embedder("mini") as opened:
        yield opened


@pytest.fixture(scope="module")
def scores(ranker_folder: Path) -> Any:
    with Reranker(ranker_folder) as ranker:
        return ranker.predict([(QUERY, text) for text in TEXTS])


def results_of(server: Served, module: str, code: str) -> dict[str, Any]:
    """The dict `found` that a program fills, with `base` as the server's address."""
    head = f"{PRELUDE}base = {server.url!r}\n"
    tail = "\nprint('found:' + json.dumps(found, default=lambda value: value.tolist()))"
    printed = run_with(module, head + textwrap.dedent(code) + tail)
    line = next(line for line in printed.splitlines() if line.startswith("found:"))
    content: dict[str, Any] = json.loads(line.removeprefix("found:"))
    return content


def assert_all_equal(found: dict[str, Any], expected: Any) -> None:
    assert found
    for name, value in found.items():
        assert np.array_equal(np.array(value, np.float32), expected), name


def module_of(block: str) -> str:
    """The client that a block imports, the last of its modules."""
    return re.findall(r"^(?:import|from) (\S+)", block, re.MULTILINE)[-1]


@pytest.mark.parametrize("block", BLOCKS, ids=module_of)
def test_lines_of_the_page(server: Served, mini: Embedder, ranker_folder: Path, block: str) -> None:
    assert "localhost:8000" in block
    code = block.replace("http://localhost:8000", server.url)
    code += """
names = {"documents", "query", "order"} & globals().keys()
found = {name: globals()[name] for name in names}
"""
    found = results_of(server, module_of(block), code)
    assert found
    with Reranker(ranker_folder) as ranker:
        order = [each["corpus_id"] for each in ranker.rank(QUERY, TEXTS[:2])]
    expected = {"documents": mini.encode(TEXTS[:2]), "query": mini.encode_query(QUERY)}
    expected["order"] = np.array(order)
    for name, value in found.items():
        assert np.array_equal(np.array(value, expected[name].dtype), expected[name])


def test_litellm(server: Served, mini: Embedder, scores: Any) -> None:
    found = results_of(
        server,
        "litellm",
        """
        import litellm
        litellm.suppress_debug_info = True
        vectors, ranked, errors = {}, {}, {}
        for name, where in (
            ("openai", base + "/v1"), ("hosted_vllm", base + "/v1"), ("infinity", base),
            ("ollama", base),
        ):
            answer = litellm.embedding(f"{name}/mini", TEXTS, api_base=where, api_key="none")
            vectors[name] = [each["embedding"] for each in answer.data]
        answer = litellm.embedding(
            "openai/mini", TEXTS, api_base=base + "/v1", api_key="none", encoding_format=None
        )
        vectors["null"] = [each["embedding"] for each in answer.data]
        for name in ("cohere", "hosted_vllm", "infinity", "jina_ai", "huggingface"):
            answer = litellm.rerank(
                f"{name}/{RANKER}", QUERY, TEXTS, api_base=base, api_key="none", top_n=3,
                return_documents=name != "infinity",  # hosted_vllm and it contradict
            )
            by_index = sorted(answer.results, key=lambda each: each["index"])
            ranked[name] = [each["relevance_score"] for each in by_index]
        long = "word " * 40_000
        for name in ("openai", "hosted_vllm"):
            errors[name] = error_of(lambda: litellm.embedding(
                f"{name}/mini", [long], api_base=base + "/v1", api_key="none"))
        found |= {"vectors": vectors, "ranked": ranked, "errors": errors}
        """,
    )
    assert_all_equal(found["vectors"], mini.encode(TEXTS))
    assert_all_equal(found["ranked"], scores)
    for name, (kind, message, _) in found["errors"].items():
        assert kind == "ContextWindowExceededError", (name, message)


def test_cohere(server: Served, mini: Embedder, scores: Any) -> None:
    """Both generations of its interface, and the errors that it tells apart."""
    found = results_of(server, "cohere", COHERE)
    check_cohere(found, mini, scores)


def test_cohere_5_and_6(server: Served, mini: Embedder, scores: Any) -> None:
    """In the environments whose other packages need these versions."""
    for module in ("llama_index.postprocessor.cohere_rerank", "langchain_cohere"):
        check_cohere(results_of(server, module, COHERE), mini, scores)


COHERE = """
import cohere
v1, v2 = cohere.Client("none", base_url=base), cohere.ClientV2("none", base_url=base)
types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
answer = v2.embed(
    model="mini", texts=TEXTS, input_type="search_query", embedding_types=types,
    output_dimension=64,
)
names = {"float": "float_"}
found["types"] = {kind: getattr(answer.embeddings, names.get(kind, kind)) for kind in types}
found["v1 floats"] = v1.embed(
    model="mini", texts=TEXTS, input_type="search_document", truncate="END"
).embeddings
found["v1 types"] = v1.embed(
    model="mini", texts=TEXTS, input_type="search_document", embedding_types=["float"]
).embeddings.float_
ranked = {}
for name, answer in (
    ("v1", v1.rerank(model=RANKER, query=QUERY, documents=TEXTS, max_chunks_per_doc=10)),
    ("v1 objects", v1.rerank(query=QUERY, documents=[{"text": text} for text in TEXTS])),
    ("v2", v2.rerank(model=RANKER, query=QUERY, documents=TEXTS, max_tokens_per_doc=4096)),
):
    by_index = sorted(answer.results, key=lambda each: each.index)
    ranked[name] = [each.relevance_score for each in by_index]
found["ranked"] = ranked
found["units"] = answer.meta.billed_units.search_units
found["unknown"] = error_of(lambda: v2.rerank(model="gpt", query=QUERY, documents=TEXTS))
found["wrong"] = error_of(lambda: v2.rerank(model=RANKER, query=QUERY, documents=[]))
"""


def check_cohere(found: dict[str, Any], mini: Embedder, scores: Any) -> None:
    kinds = found["types"]
    for kind in ("int8", "uint8", "binary", "ubinary"):
        assert np.array_equal(kinds[kind], mini.encode_query(TEXTS, dim=64, precision=kind))
    vectors = np.array(kinds["float"], np.float32)
    assert np.array_equal(vectors, mini.encode_query(TEXTS, dim=64))
    assert len(kinds["base64"]) == len(TEXTS)
    for name in ("v1 floats", "v1 types"):
        assert np.array_equal(np.array(found[name], np.float32), mini.encode(TEXTS))
    assert_all_equal(found["ranked"], scores)
    assert found["units"] == 1
    assert found["unknown"][0] == "NotFoundError"
    assert "'gpt' is not the name of a reranker" in found["unknown"][1]
    assert found["wrong"][0] == "BadRequestError"


def test_ollama(server: Served, mini: Embedder) -> None:
    found = results_of(
        server,
        "ollama",
        """
        import ollama
        client = ollama.Client(host=base)
        found["one"] = [client.embeddings(model="mini", prompt=text).embedding for text in TEXTS]
        options = ollama.Options(num_ctx=2048)
        found["many"] = client.embed(model="mini", input=TEXTS, options=options).embeddings
        found["names"] = [each.model for each in client.list().models]
        found["shown"] = client.show("mini").capabilities
        found["unknown"] = error_of(lambda: client.embed(model="llama3", input="a"))
        """,
    )
    assert_all_equal({name: found[name] for name in ("one", "many")}, mini.encode(TEXTS))
    assert found["names"] == ["mini", "mini-query"]
    assert found["shown"] == ["embedding"]
    assert found["unknown"][0] == "ResponseError"
    assert "'llama3' is not the name of an embedding model" in found["unknown"][1]


def test_inference_client(server: Served, mini: Embedder) -> None:
    found = results_of(
        server,
        "huggingface_hub",
        """
        from huggingface_hub import InferenceClient
        client = InferenceClient(base_url=base)
        long = "word " * 40_000 + " Beijing"
        found["left"] = client.feature_extraction(
            long, truncate=True, truncation_direction="left", dimensions=64, normalize=True
        )
        found["similar"] = client.sentence_similarity(QUERY, TEXTS)
        similarity = InferenceClient(base_url=base + "/similarity")
        found["there"] = similarity.sentence_similarity(QUERY, TEXTS)
        found["long"] = error_of(lambda: client.feature_extraction(long))
        """,
    )
    ids = mini.tokenizer.with_max_length(10**6).encode(["word " * 40_000 + " Beijing"]).tokens
    ids = ids[-mini.max_length :]
    left = mini.encode_tokens(ids, np.array([0, len(ids)], np.int32), dim=64)
    assert np.array_equal(np.array(found["left"], np.float32), left)
    expected = mini.similarity(mini.encode([QUERY]), mini.encode(TEXTS))[0]
    assert_all_equal({name: found[name] for name in ("similar", "there")}, expected)
    assert "422" in found["long"][1]


def test_openai_too_long(server: Served) -> None:
    found = results_of(
        server,
        "openai",
        """
        import openai
        client = openai.OpenAI(base_url=base + "/v1", api_key="none")
        long = "word " * 40_000
        found["long"] = error_of(lambda: client.embeddings.create(model="mini", input=long))
        """,
    )
    assert found["long"][0] == "BadRequestError"
    assert found["long"][2] == "context_length_exceeded"


def test_llama_index(server: Served, mini: Embedder, scores: Any) -> None:
    found = results_of(
        server,
        "llama_index.embeddings.text_embeddings_inference",
        """
        from llama_index.core.schema import NodeWithScore, TextNode
        from llama_index.embeddings.ollama import OllamaEmbedding
        from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
        from llama_index.postprocessor.jinaai_rerank import JinaRerank
        tei = TextEmbeddingsInference(base_url=base, model_name="mini")
        ollama = OllamaEmbedding(model_name="mini", base_url=base)
        found["vectors"] = {
            "tei": tei.get_text_embedding_batch(TEXTS),
            "ollama": ollama.get_text_embedding_batch(TEXTS),
        }
        ranker = JinaRerank(model=RANKER, base_url=base, api_key="none", top_n=3)
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
        ranked = ranker.postprocess_nodes(nodes, query_str=QUERY)
        by_index = sorted(ranked, key=lambda each: TEXTS.index(each.node.text))
        found["ranked"] = {"jina": [each.score for each in by_index]}
        """,
    )
    assert_all_equal(found["vectors"], mini.encode(TEXTS))
    assert_all_equal(found["ranked"], scores)


def test_haystack(server: Served, mini: Embedder) -> None:
    found = results_of(
        server,
        "haystack",
        """
        from haystack import Document
        from haystack.components.embedders import OpenAIDocumentEmbedder
        from haystack.utils import Secret
        embedder = OpenAIDocumentEmbedder(
            model="mini", api_base_url=base + "/v1", api_key=Secret.from_token("none")
        )
        done = embedder.run([Document(content=text) for text in TEXTS])
        found["documents"] = [each.embedding for each in done["documents"]]
        """,
    )
    assert_all_equal(found, mini.encode(TEXTS))


def test_chroma(server: Served, mini: Embedder) -> None:
    found = results_of(
        server,
        "chromadb",
        """
        from chromadb.utils import embedding_functions as functions
        found["tei"] = functions.HuggingFaceEmbeddingServer(url=base + "/embed")(TEXTS)
        found = {name: [row.tolist() for row in rows] for name, rows in found.items()}
        """,
    )
    assert_all_equal(found, mini.encode(TEXTS))
