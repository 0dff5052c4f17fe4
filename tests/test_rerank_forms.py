"""Requests for scores in the forms of many servers' clients, and HTTP beside POST.

tests/test_clients.py has the clients themselves.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Reranker
from qwen3_embed.cli import main
from tests.support.make_adapter import make_adapter
from tests.support.rerankers import make_reranker
from tests.support.served import Served

QUERY = "capital?"
DOCUMENTS = ["Gravity is a force.", "Beijing is the capital of China.", "x", "A park in Beijing."]
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def ranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("rerankers") / "ranker")


@pytest.fixture(scope="module")
def server(folder: Path, ranker_folder: Path) -> Iterator[Served]:
    arguments = ["--alias", f"other={folder.name}", "--cors-origin", ORIGIN]
    served = Served("--model", str(folder), "--reranker", str(ranker_folder), *arguments)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def ranker(ranker_folder: Path) -> Iterator[Reranker]:
    with Reranker(ranker_folder) as opened:
        yield opened


def ask(server: Served, path: str, body: Any = None, **headers: str) -> Any:
    status, answer, _ = server.ask(path, body, **headers)
    assert status == 200, answer
    return answer


def scores_of(results: list[dict[str, Any]], name: str = "relevance_score") -> list[float]:
    """In the order of the documents."""
    return [entry[name] for entry in sorted(results, key=lambda entry: entry["index"])]


# Every route with all its required fields; null must be the same as absence for all others.
REQUIRED = {
    "/v1/embeddings": {"input": "a"},
    "/embed": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/tokenize": {"inputs": "a"},
    "/decode": {"ids": [5, 6]},
    "/v1/embed": {"texts": ["a"]},
    "/v2/embed": {"texts": ["a"]},
    "/v1/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/v2/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/score": {"text_1": QUERY, "text_2": DOCUMENTS},
    "/api/embed": {"model": "other", "input": "a"},
    "/api/embeddings": {"model": "other", "prompt": "a"},
    "/api/show": {"model": "other"},
}


def without_times(answer: Any) -> Any:
    drop = {"id", "total_duration"}
    if isinstance(answer, dict):
        return {name: value for name, value in answer.items() if name not in drop}
    return answer


@pytest.mark.parametrize("path", REQUIRED)
def test_null_is_absent(server: Served, path: str) -> None:
    page = ask(server, "/openapi.json", None)
    schema = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = page["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    body = REQUIRED[path]
    nulls = {name: None for name in fields if name not in body}
    assert nulls
    plain = ask(server, path, body)
    assert without_times(ask(server, path, body | nulls)) == without_times(plain)
    status, answer, _ = server.ask(path, body | {"nonsense": None})
    assert status == 400
    assert "nonsense" in json.dumps(answer)


@pytest.mark.parametrize("form", ["documents", "texts"])
def test_null_is_absent_in_both_forms_of_rerank(server: Served, form: str) -> None:
    body = {"query": QUERY, form: DOCUMENTS}
    page = ask(server, "/openapi.json", None)
    name = "RerankRequest" if form == "documents" else "TeiRerankRequest"
    nulls = dict.fromkeys(set(page["components"]["schemas"][name]["properties"]) - set(body))
    found = ask(server, "/rerank", body | nulls)
    assert without_times(found) == without_times(ask(server, "/rerank", body))
    assert isinstance(found, dict) == (form == "documents")


class TestReranking:
    @pytest.mark.parametrize(
        ("path", "has_documents"),
        [("/rerank", True), ("/v1/rerank", True), ("/v2/rerank", False)],
    )
    def test_answers(
        self, server: Served, ranker: Reranker, path: str, has_documents: bool
    ) -> None:
        """Cohere's, Jina's and vLLM's fields are all there."""
        documents = [DOCUMENTS[0], {"text": DOCUMENTS[1], "id": 7}, *DOCUMENTS[2:]]
        body = {"query": QUERY, "documents": documents, "max_tokens_per_doc": None}
        answer = ask(server, path, body | {"max_chunks_per_doc": 10, "model": "ranker"})
        right = ranker.rank(QUERY, DOCUMENTS)
        assert [entry["index"] for entry in answer["results"]] == [e["corpus_id"] for e in right]
        assert [entry["relevance_score"] for entry in answer["results"]] == [
            entry["score"] for entry in right
        ]
        for entry in answer["results"]:
            assert ("document" in entry) == has_documents
            if has_documents:
                assert entry["document"] == {"text": DOCUMENTS[entry["index"]]}
        n_tokens = answer["usage"]["prompt_tokens"]
        assert answer["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        assert n_tokens > sum(len(document) for document in DOCUMENTS) // 5
        assert answer["meta"]["tokens"] == {"input_tokens": n_tokens, "output_tokens": 0}
        assert answer["meta"]["billed_units"] == {"search_units": 1}
        assert answer["meta"]["api_version"]["version"] == ("2" if path == "/v2/rerank" else "1")
        best = ask(server, path, body | {"top_n": 2, "return_documents": not has_documents})
        assert len(best["results"]) == 2
        assert ("document" in best["results"][0]) == (not has_documents)
        assert len(ask(server, path, body | {"top_n": 0})["results"]) == len(documents)

    def test_documents_are_cut(self, server: Served, ranker: Reranker) -> None:
        long = "Beijing is the capital of China. " * 20
        documents = [long, "short"]
        for n_tokens in (1, 5, 17):
            body = {"query": QUERY, "documents": documents, "max_tokens_per_doc": n_tokens}
            found = scores_of(ask(server, "/v2/rerank", body)["results"])
            cut = ranker.tokenizer.first_tokens(long, n_tokens)
            expected = ranker.predict([(QUERY, cut), (QUERY, "short")])
            assert np.array_equal(np.array(found, np.float32), expected)
        body = {"query": long, "documents": ["a"], "max_tokens_per_query": 3}
        found = scores_of(ask(server, "/rerank", body)["results"])
        cut = ranker.tokenizer.first_tokens(long, 3)
        assert np.float32(found[0]) == ranker.predict((cut, "a"))

    def test_limit_of_the_whole_prompt(self, server: Served, ranker: Reranker) -> None:
        long = "Beijing is the capital of China. " * 20
        bare = int(ranker.tokenizer.count([ranker.body_of(QUERY, "")])[0])
        body = {"query": QUERY, "documents": [long], "truncate_prompt_tokens": bare + 9}
        answer = ask(server, "/rerank", body)
        cut = ranker.tokenizer.first_tokens(long, 9)
        assert np.float32(scores_of(answer["results"])[0]) == ranker.predict((QUERY, cut))
        assert answer["usage"]["total_tokens"] <= bare + 9
        left = ask(server, "/rerank", body | {"truncation_side": "left"})
        cut = ranker.tokenizer.last_tokens(long, 9)
        assert np.float32(scores_of(left["results"])[0]) == ranker.predict((QUERY, cut))
        status, answer, _ = server.ask("/rerank", body | {"truncate_prompt_tokens": bare})
        assert status == 422
        assert "none is left for a document" in answer["message"]

    def test_logits(self, server: Served, ranker: Reranker) -> None:
        expected = ranker.predict([(QUERY, text) for text in DOCUMENTS], activation=None)
        for field in ({"raw_scores": True}, {"use_activation": False}):
            body = {"query": QUERY, "documents": DOCUMENTS} | field
            found = scores_of(ask(server, "/v1/rerank", body)["results"])
            assert np.array_equal(np.array(found, np.float32), expected)

    def test_tei_form(self, server: Served, ranker: Reranker) -> None:
        body = {"query": QUERY, "texts": DOCUMENTS, "top_n": 2, "return_text": True}
        answer = ask(server, "/rerank", body)
        right = ranker.rank(QUERY, DOCUMENTS, top_k=2)
        assert answer == [
            {"index": e["corpus_id"], "score": e["score"], "text": DOCUMENTS[e["corpus_id"]]}
            for e in right
        ]
        long = "word " * 5000 + "Beijing"
        body = {"query": QUERY, "texts": [long], "truncate": True, "truncation_direction": "left"}
        score = ask(server, "/rerank", body)[0]["score"]
        bare = int(ranker.tokenizer.count([ranker.body_of(QUERY, "")])[0])
        cut = ranker.tokenizer.last_tokens(long, ranker.max_length - bare)
        assert cut.endswith("Beijing")
        assert np.float32(score) == ranker.predict((QUERY, cut))

    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            ({}, 400, "texts"),
            ({"documents": ["a"], "rank_fields": ["text"]}, 400, "rank_fields is not supported"),
            ({"documents": ["a"], "relevant_spans": {}}, 200, ""),
            ({"documents": ["a"], "relevant_spans": {"max": 1}}, 400, "relevant_spans"),
            ({"documents": [{"title": "a"}]}, 400, "missing required field `text`"),
            ({"documents": ["a"], "top_k": 1}, 400, "unknown field `top_k`"),
            ({"documents": ["a"], "model": "gpt"}, 404, "'gpt' is not the name of a reranker"),
            ({"texts": ["a"], "documents": ["a"]}, 400, "unknown field `texts`"),
        ],
    )
    def test_refused(self, server: Served, body: Any, status: int, words: str) -> None:
        found, answer, _ = server.ask("/rerank", {"query": QUERY} | body)
        assert found == status
        assert words in json.dumps(answer)


class TestScore:
    @pytest.mark.parametrize("path", ["/score", "/v1/score"])
    @pytest.mark.parametrize(
        "names",
        [
            ("text_1", "text_2"),
            ("queries", "documents"),
            ("queries", "items"),
            ("data_1", "data_2"),
        ],
    )
    def test_one_with_many(
        self, server: Served, ranker: Reranker, path: str, names: tuple[str, str]
    ) -> None:
        body = {names[0]: QUERY, names[1]: DOCUMENTS, "priority": 0, "model": "ranker"}
        answer = ask(server, path, body)
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2, 3]
        assert {entry["object"] for entry in answer["data"]} == {"score"}
        found = np.array([entry["score"] for entry in answer["data"]], np.float32)
        assert np.array_equal(found, ranker.predict([(QUERY, text) for text in DOCUMENTS]))
        assert answer["usage"]["completion_tokens"] == 0

    def test_pairs(self, server: Served, ranker: Reranker) -> None:
        queries = ["a", "b", "a", QUERY]
        body = {"text_1": queries, "text_2": DOCUMENTS, "use_activation": False}
        found = [entry["score"] for entry in ask(server, "/score", body)["data"]]
        pairs = list(zip(queries, DOCUMENTS, strict=True))
        expected = ranker.predict(pairs, activation=None)
        assert np.array_equal(np.array(found, np.float32), expected)

    def test_refused(self, server: Served) -> None:
        for body, words in (
            ({"text_1": "a"}, "expected one of: text_1 and text_2"),
            ({"text_1": "a", "documents": ["b"]}, "the texts are in text_1, documents"),
            ({"text_1": ["a", "b"], "text_2": ["c"]}, "as many in both"),
            ({"text_1": "a", "text_2": []}, "text_2 is empty"),
            ({"text_1": "a", "text_2": "word " * 5000}, "maximum context length"),
        ):
            status, answer, _ = server.ask("/score", body)
            assert status == 400
            assert words in answer["error"]["message"]


class TestHttp:
    def test_info(self, server: Served, folder: Path) -> None:
        answer = ask(server, "/info", None)
        assert answer["served_model_name"] == answer["model_id"] == folder.name
        assert answer["model_type"] == {"embedding": {"pooling": "last_token"}}
        kinds = {each["served_model_name"]: each["model_type"] for each in answer["models"]}
        assert list(kinds["ranker"]) == ["reranker"]

    @pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/info", "/metrics"])
    def test_head(self, server: Served, path: str) -> None:
        status, body, headers = server.ask(path, method="HEAD")
        assert (status, body) == (200, b"")
        _, _, by_get = server.ask(path)
        assert headers["content-type"] == by_get["content-type"]
        assert server.ask("/health")[0] == 200

    def test_head_of_what_is_posted(self, server: Served) -> None:
        status, body, headers = server.ask("/v1/embeddings", method="HEAD")
        assert (status, body, headers["allow"]) == (405, b"", "POST")
        assert server.ask("/", method="DELETE")[2]["allow"] == "GET, POST, HEAD"

    def test_compressed_bodies(self, server: Served) -> None:
        content = gzip.compress(json.dumps({"input": "a"}).encode())
        status, answer, _ = server.ask("/v1/embeddings", content, content_encoding="gzip")
        assert status == 415
        assert "content-encoding, expected none" in answer["error"]["message"]
        ask(server, "/v1/embeddings", {"input": "a"}, content_encoding="identity")

    def test_complete_404(self, server: Served, folder: Path) -> None:
        """The name that was asked for, and every name there is."""
        names = [folder.name, folder.name + "-query", "other"]
        _, answer, _ = server.ask("/v1/embeddings", {"input": "a", "model": "gpt"})
        message = answer["error"]["message"]
        assert message.startswith("'gpt' is not the name of an embedding model here; there is: ")
        assert [name for name in names if repr(name) not in message] == []
        assert "'ranker'" not in message
        _, answer, _ = server.ask("/v1/embeddings", {"input": "a", "model": "ranker"})
        assert "(it is of another kind)" in answer["error"]["message"]
        _, answer, _ = server.ask("/v1/models/gpt")
        assert answer["error"]["code"] == "model_not_found"
        assert "'ranker'" in answer["error"]["message"]
        status, answer, _ = server.ask("/v1/chat/completions", {})
        assert status == 404
        for words in ("'/v1/chat/completions'", "/v1/embeddings", "/v2/rerank", "/openapi.json"):
            assert words in answer["error"]["message"]

    def test_404_says_what_is_missing(self, folder: Path) -> None:
        served = Served("--model", str(folder))
        try:
            for path in ("/rerank", "/v2/rerank", "/score"):
                status, answer, _ = served.ask(path, {"query": "a", "documents": ["b"]})
                assert status == 404
                assert "--reranker NAME" in answer["error"]["message"]
        finally:
            served.stop()

    def test_page(self, server: Served, folder: Path) -> None:
        _, raw, headers = server.ask("/")
        page = raw.decode()
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["content-security-policy"]
        for words in (folder.name, "ranker", "other", 'href="/openapi.json"', 'href="/metrics"'):
            assert words in page
        assert f"curl http://127.0.0.1:{server.port}/v1/embeddings" in page
        _, raw, _ = server.ask("/", host="<script>alert(1)</script>")
        assert b"<script>" not in raw

    def test_page_has_every_name(self, folder: Path, tmp_path: Path) -> None:
        adapter = make_adapter(tmp_path / "legal", folder)
        served = Served("--model", str(folder), "--adapter", f"legal={adapter}")
        try:
            page = served.ask("/")[1].decode()
            for entry in ask(served, "/v1/models")["data"]:
                assert f"<td>{entry['id']}</td>" in page
        finally:
            served.stop()


class TestCrossOrigin:
    def test_preflight_needs_no_key(self, folder: Path, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        keys.write_text("a-secret-of-enough-length")
        served = Served(
            "--model", str(folder), "--api-key-file", str(keys), "--cors-origin", ORIGIN
        )
        try:
            asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
            asked["access-control-request-headers"] = "authorization,x-stainless-os"
            status, _, headers = served.ask("/v1/embeddings", method="OPTIONS", **asked)
            assert status == 200
            assert headers["access-control-allow-origin"] == ORIGIN
            assert headers["access-control-allow-headers"] == "authorization,x-stainless-os"
            assert "POST" in headers["access-control-allow-methods"]
            assert served.ask("/v1/embeddings", {"input": "a"}, origin=ORIGIN)[0] == 401
        finally:
            served.stop()

    def test_origins(self, server: Served) -> None:
        _, _, headers = server.ask("/v1/embeddings", {"input": "a"}, origin=ORIGIN)
        assert headers["access-control-allow-origin"] == ORIGIN
        assert headers["vary"] == "origin"
        assert "x-request-id" in headers["access-control-expose-headers"]
        status, _, headers = server.ask("/v1/embeddings", {}, origin=ORIGIN)
        assert (status, headers["access-control-allow-origin"]) == (400, ORIGIN)  # to be readable
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        status, _, headers = server.ask("/v1/embeddings", method="OPTIONS", **asked)
        assert status == 405
        assert "access-control-allow-origin" not in headers
        _, _, headers = server.ask("/v1/models")
        assert "access-control-allow-origin" not in headers

    def test_off_by_default_and_on_for_all(self, folder: Path) -> None:
        asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
        for arguments, status, allowed in (([], 405, None), (["--cors-origin", "*"], 200, "*")):
            served = Served("--model", str(folder), *arguments)
            try:
                found, _, headers = served.ask("/v1/embeddings", method="OPTIONS", **asked)
                assert (found, headers.get("access-control-allow-origin")) == (status, allowed)
            finally:
                served.stop()

    def test_what_is_no_origin(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for wrong in ("app.example", "https://app.example/", "null"):
            assert main(["serve", "--model", str(folder), "--cors-origin", wrong]) == 1
            assert "expected an origin such as" in capsys.readouterr().err
