"""Requests for vectors in the forms of many servers' clients, field by field.

tests/test_clients.py has the clients themselves.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TEXTS

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder, TruncationWarning
from tests.support.served import Served


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    served = Served("--model", str(folder), "--alias", f"other={folder.name}")
    yield served
    served.stop()


def ask(server: Served, path: str, body: Any = None) -> Any:
    status, answer, _ = server.ask(path, body)
    assert status == 200, answer
    return answer


def vectors_of(answer: Any) -> Any:
    return np.array([entry["embedding"] for entry in answer["data"]], np.float32)


class TestEmbeddings:
    @pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
    def test_model_is_optional(self, server: Served, folder: Path, path: str) -> None:
        answer = ask(server, path, {"input": "a"})
        assert answer["model"] == folder.name
        assert answer == ask(server, path, {"input": "a", "model": folder.name})

    @pytest.mark.parametrize(
        ("body", "keywords"),
        [
            ({"input_type": "search_query"}, {"prompt_name": "query"}),
            ({"input_type": "passage", "model": "other-query"}, {}),
            ({"task": "retrieval.query"}, {"prompt_name": "query"}),
            ({"task": "text-matching"}, {}),
            ({"normalize": False}, {"normalize": False}),
            ({"use_activation": False}, {"normalize": False}),
            ({"output_dimension": 32, "modality": "text"}, {"dim": 32}),
            ({"add_special_tokens": True, "priority": 3, "request_id": "mine"}, {}),
            ({"truncate": "END", "late_chunking": False, "embed_dtype": "float32"}, {}),
        ],
    )
    def test_fields_of_other_servers(
        self, server: Served, model: Embedder, body: dict[str, Any], keywords: dict[str, Any]
    ) -> None:
        answer = ask(server, "/v1/embeddings", {"input": "重力 is"} | body)
        assert np.array_equal(vectors_of(answer)[0], model.encode("重力 is", **keywords))

    @pytest.mark.parametrize("field", ["embedding_type", "encoding_type"])
    def test_types_of_jina(self, server: Served, model: Embedder, field: str) -> None:
        for precision in ("binary", "ubinary"):
            answer = ask(server, "/v1/embeddings", {"input": TEXTS, field: precision})
            found = [entry["embedding"] for entry in answer["data"]]
            assert np.array_equal(found, model.encode(TEXTS, precision=precision))
        answer = ask(server, "/v1/embeddings", {"input": "a", field: "base64"})
        raw = base64.b64decode(answer["data"][0]["embedding"])
        assert np.array_equal(np.frombuffer(raw, "<f4"), model.encode("a"))

    def test_limits_of_the_request(self, server: Served, folder: Path) -> None:
        """As if the model had been opened with that limit, or with the text's own last tokens."""
        text = "The capital of China is 北京 \U0001f98a\U0001f98a, unbelievably."
        for n_tokens in (2, 7, 19):
            body = {"input": [text, "a"], "truncate_prompt_tokens": n_tokens}
            answer = ask(server, "/v1/embeddings", body)
            with Embedder(folder, max_length=n_tokens) as short:
                with pytest.warns(TruncationWarning):
                    assert np.array_equal(vectors_of(answer), short.encode([text, "a"]))
                ids = short.tokenizer.encode([text]).tokens
                assert answer["usage"]["prompt_tokens"] == len(ids) + 2
            answer = ask(server, "/v1/embeddings", body | {"truncation_side": "left"})
            with Embedder(folder) as whole:
                ids = whole.tokenizer.encode([text]).tokens[-n_tokens:]
                found = whole.encode_tokens(ids, np.array([0, len(ids)], np.int32))
            assert np.array_equal(vectors_of(answer)[0], found[0])
            ids = whole.tokenizer.encode([text]).tokens.tolist()
            body = {"input": ids, "truncate_prompt_tokens": n_tokens, "truncation_side": "left"}
            assert np.array_equal(vectors_of(ask(server, "/v1/embeddings", body))[0], found[0])
        whole_limit = ask(server, "/v1/embeddings", {"input": text, "truncate_prompt_tokens": -1})
        assert whole_limit == ask(server, "/v1/embeddings", {"input": text})

    def test_the_prompt_outlives_a_cut(self, server: Served, model: Embedder) -> None:
        """A query that loses its beginning keeps its instruction."""
        text = "one two three four five six seven eight nine ten " * 500
        body = {"input": text, "input_type": "query", "truncate": "START"}
        answer = ask(server, "/v1/embeddings", body)
        assert answer["usage"]["prompt_tokens"] == model.max_length
        own = model.tokenizer.with_max_length(10**6).encode([text]).tokens.tolist()
        prefix = model.tokenizer.encode([model.prefix_of("query")]).tokens.tolist()[:-1]
        ids = np.array([*prefix, *own[len(prefix) - model.max_length :]], np.int32)
        expected = model.encode_tokens(ids, np.array([0, len(ids)], np.int32))
        assert np.array_equal(vectors_of(answer), expected)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"add_special_tokens": False}, "add_special_tokens is false, expected true"),
            ({"late_chunking": True}, "late_chunking is true, expected false"),
            ({"truncate_prompt_tokens": 0}, "expected 1..4096, or -1"),
            ({"truncate_prompt_tokens": 5000}, "expected 1..4096, or -1"),
            ({"truncate_prompt_tokens": 1, "truncation_side": "left"}, "one of the text"),
            ({"task": "retrieval.query", "input_type": "query"}, "are given at once"),
            ({"truncate": "MIDDLE"}, "Invalid enum value"),
            ({"dimension": 64}, "unknown field `dimension`"),
            ({"output_dtype": "int4"}, "Invalid enum value"),
        ],
    )
    def test_refused(self, server: Served, body: dict[str, Any], words: str) -> None:
        status, answer, _ = server.ask("/v1/embeddings", {"input": "a b c d"} | body)
        assert status == 400
        assert words in answer["error"]["message"]

    def test_too_many_tokens(self, server: Served) -> None:
        """400 in the words that LiteLLM looks for; 422 on TEI's routes."""
        text = "word " * 4500
        status, answer, _ = server.ask("/v1/embeddings", {"input": text})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "this model's maximum context length is 4096 tokens" in answer["error"]["message"]
        status, answer, _ = server.ask("/embed", {"inputs": text})
        assert (status, answer["error_type"]) == (422, "Validation")
        foreign = {"input": [5] * 5000, "truncate_prompt_tokens": 100}
        status, answer, _ = server.ask("/v1/embeddings", foreign)
        assert (status, answer["error"]["code"]) == (400, "foreign_token_ids")
        body = {"texts": [text], "truncate": "NONE", "max_tokens": 50}
        status, answer, _ = server.ask("/v2/embed", body)
        assert status == 422
        assert "maximum context length is 50 tokens" in answer["message"]


class TestTei:
    def test_similarity(self, server: Served, model: Embedder) -> None:
        body: dict[str, Any] = {"inputs": {"source_sentence": "a", "sentences": TEXTS}}
        for path in ("/similarity", "/"):
            found = ask(server, path, body)
            expected = model.similarity(model.encode(["a"]), model.encode(TEXTS))[0]
            assert np.array_equal(np.array(found, np.float32), expected)
        body["parameters"] = {"prompt_name": "query", "truncate": True}
        rows = model.encode(["a", *TEXTS], prompt_name="query")
        expected = model.similarity(rows[:1], rows[1:])[0]
        assert np.array_equal(np.array(ask(server, "/similarity", body), np.float32), expected)

    def test_decode(self, server: Served, model: Embedder) -> None:
        batch = model.tokenizer.encode(TEXTS)
        ids = [
            batch.tokens[start:stop].tolist()
            for start, stop in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
        ]
        assert ask(server, "/decode", {"ids": ids}) == TEXTS
        assert ask(server, "/decode", {"ids": ids[0]}) == TEXTS[:1]
        whole = ask(server, "/decode", {"ids": ids[0], "skip_special_tokens": False})
        assert whole == [TEXTS[0] + "<|endoftext|>"]
        for wrong, words in (([1 << 30], "not in the vocabulary"), ("a", "expected to be token")):
            status, answer, _ = server.ask("/decode", {"ids": wrong})
            assert status == 400
            assert words in answer["error"]

    def test_left_truncation(self, server: Served, model: Embedder) -> None:
        text = "word " * 5000 + "and its end"
        body = {"inputs": text, "truncate": True, "truncation_direction": "left"}
        found = np.array(ask(server, "/embed", body), np.float32)
        ids = model.tokenizer.with_max_length(10**6).encode([text]).tokens[-model.max_length :]
        expected = model.encode_tokens(ids, np.array([0, len(ids)], np.int32))
        assert np.array_equal(found, expected)
        assert not np.array_equal(
            found, ask(server, "/embed", body | {"truncation_direction": None})
        )

    def test_parameters(self, server: Served, model: Embedder) -> None:
        options = {"normalize": False, "dimensions": 64, "prompt_name": "query"}
        expected = model.encode("a", dim=64, prompt_name="query", normalize=False)
        for body in (options, {"parameters": options}):
            found = ask(server, "/embed", {"inputs": "a"} | body)
            assert np.array_equal(np.array(found[0], np.float32), expected)
        found = ask(server, "/embed", {"inputs": "a", "encoding_format": "base64"})
        assert np.array_equal(np.frombuffer(base64.b64decode(found[0]), "<f4"), model.encode("a"))

    @pytest.mark.parametrize("path", ["/embed", "/similarity"])
    def test_headers(self, server: Served, path: str) -> None:
        body: dict[str, Any] = {
            "/embed": {"inputs": ["ab", "c"]},
            "/similarity": {"inputs": {"source_sentence": "ab", "sentences": ["c"]}},
        }[path]
        _, _, headers = server.ask(path, body)
        assert headers["x-compute-type"] == "cpu"
        assert headers["x-compute-characters"] == "3"
        assert int(headers["x-compute-tokens"]) >= 4
        times = [int(headers[f"x-{name}-time"]) for name in ("tokenization", "inference", "total")]
        assert 0 <= times[0] + times[1] <= times[2] + 1 < 60_000  # each is rounded


class TestCohereEmbed:
    @pytest.mark.parametrize(
        ("input_type", "keywords"),
        [
            ("search_query", {"prompt_name": "query"}),
            ("search_document", {}),
            ("clustering", {}),
            (None, {}),
        ],
    )
    def test_types(
        self, server: Served, model: Embedder, input_type: str | None, keywords: Any
    ) -> None:
        types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
        body = {"texts": TEXTS, "input_type": input_type, "embedding_types": types}
        for path in ("/v1/embed", "/v2/embed"):
            answer = ask(server, path, body | {"output_dimension": 64, "model": "other"})
            found = answer["embeddings"]
            assert list(found) == types
            for kind in types[1:5]:
                expected = model.encode(TEXTS, dim=64, precision=kind, **keywords)
                assert np.array_equal(found[kind], expected)
            expected = model.encode(TEXTS, dim=64, **keywords)
            assert np.array_equal(np.array(found["float"], np.float32), expected)
            rows = [np.frombuffer(base64.b64decode(value), "<f4") for value in found["base64"]]
            assert np.array_equal(rows, expected)
            assert answer["response_type"] == "embeddings_by_type"
            assert answer["texts"] == TEXTS
            assert answer["meta"]["billed_units"]["input_tokens"] > len(TEXTS)

    def test_forms_without_types(self, server: Served, model: Embedder) -> None:
        answer = ask(server, "/v1/embed", {"texts": TEXTS})
        assert answer["response_type"] == "embeddings_floats"
        assert np.array_equal(np.array(answer["embeddings"], np.float32), model.encode(TEXTS))
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        answer = ask(server, "/v2/embed", {"inputs": [{"content": parts}]})
        found = np.array(answer["embeddings"]["float"], np.float32)
        assert np.array_equal(found, model.encode(["a\nb"]))
        answer = ask(server, "/v2/embed", {"texts": ["a"], "model": "other-query"})
        found = np.array(answer["embeddings"]["float"], np.float32)
        assert np.array_equal(found[0], model.encode_query("a"))

    def test_truncate(self, server: Served, model: Embedder, folder: Path) -> None:
        text = "word " * 4500
        with pytest.warns(TruncationWarning):
            expected = model.encode([text])
        for body in ({}, {"truncate": "END"}):
            answer = ask(server, "/v2/embed", {"texts": [text]} | body)
            assert np.array_equal(np.array(answer["embeddings"]["float"], np.float32), expected)
        assert server.ask("/v2/embed", {"texts": [text], "truncate": "NONE"})[0] == 422
        answer = ask(server, "/v2/embed", {"texts": ["The capital of China"], "max_tokens": 3})
        with Embedder(folder, max_length=3) as short, pytest.warns(TruncationWarning):
            expected = short.encode(["The capital of China"])
        assert np.array_equal(np.array(answer["embeddings"]["float"], np.float32), expected)

    def test_refused(self, server: Served) -> None:
        for body, words in (
            ({}, "expected either texts or inputs"),
            ({"texts": ["a"], "inputs": []}, "expected either texts or inputs"),
            ({"texts": ["a"], "images": ["data:"]}, "images are not supported"),
            ({"inputs": [{"content": [{"type": "image_url", "text": ""}]}]}, "Invalid enum value"),
            ({"texts": []}, "texts is empty"),
            ({"texts": ["a"], "embedding_types": ["int4"]}, "Invalid enum value"),
        ):
            status, answer, _ = server.ask("/v2/embed", body)
            assert status == 400
            assert words in answer["message"]
            assert words in answer["error"]["message"]


class TestOllama:
    def test_embed(self, server: Served, folder: Path, model: Embedder) -> None:
        options = {"num_ctx": 2048, "temperature": None, "stop": None}
        for name in (folder.name, folder.name + ":latest", "other"):
            body = {"model": name, "input": TEXTS, "options": options, "keep_alive": "5m"}
            answer = ask(server, "/api/embed", body)
            assert np.array_equal(np.array(answer["embeddings"], np.float32), model.encode(TEXTS))
            assert answer["model"] == name
            assert answer["prompt_eval_count"] == int(model.count_tokens(TEXTS).sum())
            assert answer["total_duration"] > 0
        body = {"model": "other-query", "input": "a", "dimensions": 32, "keep_alive": -1}
        found = ask(server, "/api/embed", body)["embeddings"]
        assert np.array_equal(np.array(found[0], np.float32), model.encode_query("a", dim=32))
        answer = ask(server, "/api/embeddings", {"model": "other", "prompt": "a"})
        assert np.array_equal(np.array(answer["embedding"], np.float32), model.encode("a"))

    def test_long_texts_are_cut_unless_told_otherwise(self, server: Served) -> None:
        body = {"model": "other", "input": "word " * 4500}
        assert ask(server, "/api/embed", body)["prompt_eval_count"] == 4096
        status, answer, _ = server.ask("/api/embed", body | {"truncate": False})
        assert status == 400
        assert "maximum context length is 4096" in answer["error"]

    def test_models(self, server: Served, folder: Path, model: Embedder) -> None:
        names = [each["name"] for each in ask(server, "/api/tags", None)["models"]]
        assert names == [folder.name, folder.name + "-query", "other"]
        for name in names:
            answer = ask(server, "/api/show", {"model": name})
            assert answer["capabilities"] == ["embedding"]
            assert answer["model_info"]["qwen3.embedding_length"] == model.dim
        assert re.fullmatch(r"\d+\.\d+\.\d+", ask(server, "/api/version", None)["version"])
        status, answer, _ = server.ask("/api/embed", {"model": "llama3", "input": "a"})
        assert status == 404
        assert "'llama3'" in answer["error"]
