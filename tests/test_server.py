"""The server: OpenAI's and TEI's shapes, bounds before work, keys, hostile clients, the drain."""

from __future__ import annotations

import base64
import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.conftest import TEXTS, ModelMaker

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder, Quantizer, Reranker, TruncationWarning
from qwen3_embed.cli import main
from tests.support.rerankers import make_reranker
from tests.support.served import Served

KEY = "a-secret-of-enough-length"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    arguments = ["--max-body-mb", "1", "--max-inputs", "64", "--alias", "other=" + folder.name]
    served = Served("--model", str(folder), *arguments)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def locked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# ours\n{KEY}\n\nanother-key-of-length\n")
    served = Served("--model", str(folder), "--api-key-file", str(path))
    yield served
    served.stop()


def vectors_of(answer: dict[str, Any]) -> Any:
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    rows = []
    for entry in answer["data"]:
        value = entry["embedding"]
        if isinstance(value, str):
            value = np.frombuffer(base64.b64decode(value), "<f4")
        rows.append(value)
    return np.array(rows, np.float32)


class TestEmbeddings:
    def test_right_vectors_in_both_formats(
        self, server: Served, folder: Path, model: Embedder
    ) -> None:
        for encoding_format in ("float", "base64"):
            body = {"input": TEXTS, "model": folder.name, "encoding_format": encoding_format}
            status, answer, headers = server.ask("/v1/embeddings", body)
            assert status == 200
            assert np.array_equal(vectors_of(answer), model.encode(TEXTS))
            assert answer["object"] == "list"
            assert answer["model"] == folder.name
            n_tokens = int(np.sum(model.count_tokens(TEXTS)))
            assert answer["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
            assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])

    @pytest.mark.parametrize("encoding_format", ["float", "base64"])
    @pytest.mark.parametrize(
        ("output_dtype", "dtype"),
        [
            ("float", "<f4"),
            ("float16", "<f2"),
            ("int8", "i1"),
            ("uint8", "u1"),
            ("binary", "i1"),
            ("ubinary", "u1"),
        ],
    )
    def test_output_dtypes(
        self,
        server: Served,
        folder: Path,
        model: Embedder,
        output_dtype: Any,
        dtype: str,
        encoding_format: str,
    ) -> None:
        body = {"input": TEXTS, "model": folder.name, "dimensions": 32}
        body |= {"output_dtype": output_dtype, "encoding_format": encoding_format}
        status, answer, _ = server.ask("/v1/embeddings", body)
        assert status == 200
        found = [entry["embedding"] for entry in answer["data"]]
        if encoding_format == "base64":
            found = [np.frombuffer(base64.b64decode(value), dtype) for value in found]
        precision = "float32" if output_dtype == "float" else output_dtype
        expected = model.encode(TEXTS, dim=32, precision=precision)
        np.testing.assert_array_equal(np.array(found, dtype), expected)

    def test_fitted_scale(self, folder: Path, model: Embedder, tmp_path: Path) -> None:
        """It makes the codes, /info prints it, and other dimensions are refused."""
        quantizer = Quantizer.fit(model.encode(TEXTS, dim=32))
        quantizer.save(tmp_path / "scale.npz")
        served = Served("--model", str(folder), "--quantizer", str(tmp_path / "scale.npz"))
        try:
            body = {"input": TEXTS, "model": folder.name, "output_dtype": "int8"}
            status, answer, _ = served.ask("/v1/embeddings", body | {"dimensions": 32})
            assert status == 200
            expected = quantizer.quantize(model.encode(TEXTS, dim=32), "int8")
            found = [entry["embedding"] for entry in answer["data"]]
            np.testing.assert_array_equal(np.array(found, np.int8), expected)
            info = served.ask("/info")[1]
            assert info["int8"] == {"scale": quantizer.scale, "dim": 32}
            status, answer, _ = served.ask("/v1/embeddings", body)
            assert status == 400
            assert "fitted for 32 dimensions" in answer["error"]["message"]
        finally:
            served.stop()

    @pytest.mark.parametrize(
        ("extra", "keywords"),
        [
            ({}, {}),
            ({"dimensions": 64}, {"dim": 64}),
            ({"instruction": "Find it"}, {"instruction": "Find it"}),
            ({"input_type": "query"}, {"prompt_name": "query"}),
            ({"input_type": "document"}, {}),
            ({"prompt_name": "legal"}, {"prompt_name": "legal"}),
            ({"model": "NAME-query"}, {"prompt_name": "query"}),
            ({"model": "NAME-query", "input_type": "document"}, {}),
            ({"model": "other"}, {}),
            ({"model": "other-query"}, {"prompt_name": "query"}),
            ({"user": "me"}, {}),
        ],
    )
    def test_options(
        self,
        server: Served,
        folder: Path,
        model: Embedder,
        extra: dict[str, Any],
        keywords: dict[str, Any],
    ) -> None:
        body = {"input": "重力 is", "model": folder.name} | extra
        body["model"] = body["model"].replace("NAME", folder.name)
        status, answer, _ = server.ask("/v1/embeddings", body)
        assert status == 200
        assert np.array_equal(vectors_of(answer)[0], model.encode("重力 is", **keywords))

    def test_token_ids(self, server: Served, folder: Path, model: Embedder) -> None:
        batch = model.tokenizer.encode(TEXTS)
        ids = [
            batch.tokens[start:stop].tolist()
            for start, stop in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
        ]
        status, answer, _ = server.ask("/v1/embeddings", {"input": ids, "model": folder.name})
        assert status == 200
        assert np.array_equal(vectors_of(answer), model.encode(TEXTS))
        status, answer, _ = server.ask("/v1/embeddings", {"input": ids[0], "model": folder.name})
        assert np.array_equal(vectors_of(answer)[0], model.encode(TEXTS[0]))
        for foreign in ([[5, 6, 7]], [[]], [5, 6]):
            body = {"input": foreign, "model": folder.name}
            status, answer, _ = server.ask("/v1/embeddings", body)
            assert status == 400
            assert "check_embedding_ctx_length=False" in answer["error"]["message"]
        outside = [[1 << 30, *ids[1]]]
        status, answer, _ = server.ask("/v1/embeddings", {"input": outside, "model": folder.name})
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        for asked in (
            {"instruction": "Find it"},
            {"input_type": "query"},
            {"model": f"{folder.name}-query"},
        ):
            body = {"input": ids, "model": folder.name} | asked
            status, answer, _ = server.ask("/v1/embeddings", body)
            assert status == 400
            assert "take no instruction" in answer["error"]["message"]

    def test_long_texts(self, server: Served, folder: Path, model: Embedder) -> None:
        text = "word " * 4000
        body: dict[str, Any] = {"input": ["a", text], "model": folder.name}
        status, answer, _ = server.ask("/v1/embeddings", body)
        assert status == 400
        assert answer["error"]["code"] == "context_length_exceeded"
        assert "input 1 has" in answer["error"]["message"]
        status, answer, _ = server.ask("/v1/embeddings", body | {"truncate": True})
        assert status == 200
        with pytest.warns(TruncationWarning):
            assert np.array_equal(vectors_of(answer)[1], model.encode(text))
        status, answer, _ = server.ask(
            "/v1/embeddings", {"input": "x" * 99_999} | {"model": "other"}
        )
        assert status == 400
        assert "more than 32768 tokens" in answer["error"]["message"]

    def test_models(self, server: Served, folder: Path) -> None:
        _, answer, _ = server.ask("/v1/models")
        names = [entry["id"] for entry in answer["data"]]
        assert names == [folder.name, folder.name + "-query", "other"]
        for entry in answer["data"]:
            assert server.ask("/v1/models/" + entry["id"])[:2] == (200, entry)
        assert server.ask("/v1/models/none")[0] == 404


NAN = b'{"input": NaN, "model": "other"}'
DEEP = b'{"input": ' + b"[" * 100_000


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"not JSON", 400),
            (b"[]", 400),
            (b"\xff\xfe", 400),
            (NAN, 400),
            (DEEP, 400),
            (b'{"model": ' + b'{"a":' * 50_000, 400),
            ({"model": "other"}, 400),
            ({"input": [], "model": "other"}, 400),
            ({"input": None, "model": "other"}, 400),
            ({"input": {"a": 1}, "model": "other"}, 400),
            ({"input": 5, "model": "other"}, 400),
            ({"input": ["a", 5], "model": "other"}, 400),
            ({"input": [5, "a"], "model": "other"}, 400),
            ({"input": [[5], "a"], "model": "other"}, 400),
            ({"input": [[1.5]], "model": "other"}, 400),
            ({"input": [[-5]], "model": "other"}, 400),
            ({"input": [[1 << 70]], "model": "other"}, 400),
            (b'{"input": "\\ud800", "model": "other"}', 400),
            ({"input": "a", "model": "other", "unknown": 1}, 400),
            ({"input": "a", "model": "other", "dimensions": 0}, 400),
            ({"input": "a", "model": "other", "dimensions": 129}, 400),
            ({"input": "a", "model": "other", "dimensions": "64"}, 400),
            ({"input": "a", "model": "other", "encoding_format": "hex"}, 400),
            ({"input": "a", "model": "other", "prompt_name": "../../etc/passwd"}, 400),
            ({"input": "a", "model": "other", "instruction": "a", "input_type": "query"}, 400),
            ({"input": "a", "model": "other", "instruction": "x" * 9000}, 400),
            ({"input": "a", "model": "../" + "other"}, 404),
            ({"input": "a", "model": "-query"}, 404),
            ({"input": ["a"] * 65, "model": "other"}, 422),
            ({"input": [[1]] * 65, "model": "other"}, 422),
            (b'{"input": [' + b"[]," * 200_000 + b'[]], "model": "other"}', 422),
            (b" " * (1 << 20) + b"x", 413),
        ],
    )
    def test_status_and_shape(self, server: Served, body: Any, status: int) -> None:
        found, answer, _ = server.ask("/v1/embeddings", body)
        assert found == status
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}

    def test_paths_and_methods(self, server: Served) -> None:
        for path in ("/x", "/v1/../etc/passwd", "/v1/embeddings/", "//", "/%2e%2e/", "/v1/rerank"):
            assert server.ask(path, {"input": "a"})[0] == 404
        assert server.ask("/v1/embeddings")[0] == 405
        assert server.ask("/health", {})[0] == 405
        status, _, headers = server.ask("/v1/embeddings", method="DELETE")
        assert (status, headers["allow"]) == (405, "POST")

    def test_chunked_body_without_a_length(self, server: Served) -> None:
        """The bound holds for what comes, not for what was declared."""
        connection = server.connect()
        parts = (b" " * 65536 for _ in range(100))
        with suppress(OSError):  # the server had heard enough
            connection.request("POST", "/embed", parts, {}, encode_chunked=True)
        assert connection.getresponse().status == 413

    def test_huge_declared_body(self, server: Served) -> None:
        before = server.resident_mb()
        connection = server.connect()
        connection.putrequest("POST", "/embed")
        connection.putheader("content-length", str(1 << 30))
        connection.endheaders()
        assert connection.getresponse().status == 413
        assert server.resident_mb() < before + 50

    def test_endless_header_and_rubbish(self, server: Served) -> None:
        for first in (
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000,
            b"\x16\x03\x01" * 1000,
            b"\r\n",
        ):
            with (
                socket.create_connection(("127.0.0.1", server.port), timeout=30) as client,
                suppress(OSError),
            ):
                client.sendall(first)
                for _ in range(100):
                    client.sendall(b"x: y\r\n" * 1000)
        assert server.ask("/health")[0] == 200

    def test_slow_clients(self, folder: Path) -> None:
        served = Served("--model", str(folder), "--client-seconds", "0.5")
        try:
            for sent in (b"", b"GET /health HTTP/1.1\r\nhost: x\r\n"):
                with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
                    client.sendall(sent)
                    with suppress(ConnectionResetError):
                        assert client.recv(99) == b""  # closed, not waited for
            connection = served.connect()
            connection.putrequest("POST", "/embed")
            connection.putheader("content-length", "100")
            connection.endheaders()
            connection.send(b'{"inputs"')
            assert connection.getresponse().status == 408
        finally:
            served.stop()

    @pytest.mark.parametrize("max_connections", ["1024", "4000"])
    def test_many_idle_connections(
        self, folder: Path, model: Embedder, max_connections: str
    ) -> None:
        """They take bounded memory, and keep nobody out, whether they fit or not."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 5_000:
            pytest.skip("fewer open files are allowed than this needs")
        resource.setrlimit(resource.RLIMIT_NOFILE, (5_000, hard))
        served = Served("--model", str(folder), "--max-connections", max_connections)
        clients = []
        try:
            served.ask("/embed", {"inputs": "a"})
            before = served.resident_mb()
            for i in range(3_000):
                clients.append(socket.create_connection(("127.0.0.1", served.port), timeout=30))
                if i % 1000 == 999:
                    status, answer, _ = served.ask("/embed", {"inputs": "a"})
                    assert status == 200
                    assert np.array_equal(np.array(answer[0], np.float32), model.encode("a"))
            assert served.resident_mb() < before + 60
            for client in clients:
                client.close()
            assert served.ask("/health")[0] == 200
        finally:
            for client in clients:
                client.close()
            served.stop()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_no_place_is_left(self, models: ModelMaker) -> None:
        """Requests at work are never closed for a newcomer."""
        served = Served("--model", str(models("small")), "--threads", "1", "--max-connections", "2")
        try:
            content = json.dumps({"inputs": [f"{i} " + "word " * 200 for i in range(6)]})
            working = [served.connect() for _ in range(2)]
            for connection in working:
                connection.request("POST", "/embed", content)
            time.sleep(0.3)
            with pytest.raises(OSError):  # noqa: PT011
                served.ask("/health")
            for connection in working:
                response = connection.getresponse()
                assert response.status == 200
                assert len(json.loads(response.read())) == 6
            assert served.ask("/health")[0] == 200  # in the place of one that idles now
        finally:
            served.stop()


class TestTei:
    def test_embed(self, server: Served, model: Embedder) -> None:
        for path in ("/embed", "/"):
            _, answer, _ = server.ask(path, {"inputs": TEXTS})
            assert np.array_equal(np.array(answer, np.float32), model.encode(TEXTS))
        body = {"inputs": "a", "normalize": False, "dimensions": 64, "prompt_name": "query"}
        _, answer, _ = server.ask("/embed", body)
        expected = model.encode("a", dim=64, prompt_name="query", normalize=False)
        assert np.array_equal(np.array(answer[0], np.float32), expected)

    def test_token_ids(self, server: Served, model: Embedder) -> None:
        body = {"inputs": model.tokenizer.encode([TEXTS[0]]).tokens.tolist()}
        _, answer, _ = server.ask("/embed", body | {"prompt_name": "document"})
        assert np.array_equal(np.array(answer[0], np.float32), model.encode(TEXTS[0]))
        status, answer, _ = server.ask("/embed", body | {"prompt_name": "query"})
        assert status == 400
        assert "take no prompt" in answer["error"]

    def test_errors_in_its_shape(self, server: Served) -> None:
        status, answer, _ = server.ask("/embed", {"inputs": []})
        assert status == 400
        assert answer == {
            "error": "inputs is empty, expected at least one text",
            "error_type": "Validation",
        }

    def test_tokenize(self, server: Served, model: Embedder) -> None:
        text = "a 重"
        _, answer, _ = server.ask("/tokenize", {"inputs": text})
        assert [token["id"] for token in answer[0]] == model.tokenizer.encode(
            [text]
        ).tokens.tolist()
        assert answer[0][-1]["special"]
        assert (answer[0][0]["text"], answer[0][0]["start"], answer[0][0]["stop"]) == ("a", 0, 1)
        _, bare, _ = server.ask("/tokenize", {"inputs": [text], "add_special_tokens": False})
        assert bare[0] == answer[0][:-1]

    def test_info(self, server: Served, folder: Path, model: Embedder) -> None:
        _, answer, _ = server.ask("/info")
        assert answer["model_id"] == folder.name
        assert answer["max_input_length"] == 4096
        assert answer["fingerprint"] == model.fingerprint


class TestRerank:
    DOCUMENTS: ClassVar[list[str]] = ["Gravity is a force.", "Beijing.", "x", "Beijing."]

    def test_both_shapes(self, folder: Path, tmp_path: Path) -> None:
        made = make_reranker(tmp_path / "ranker")
        served = Served("--model", str(folder), "--reranker", str(made))
        try:
            with Reranker(made) as ranker:
                right = ranker.rank("capital?", self.DOCUMENTS, instruction="Find it")
                plain = ranker.rank("capital?", self.DOCUMENTS)
            documents = [self.DOCUMENTS[0], {"text": self.DOCUMENTS[1], "id": 7}, "x", "Beijing."]
            body = {"query": "capital?", "documents": documents, "instruction": "Find it"}
            body |= {"return_documents": True, "top_n": 3, "model": "ranker"}
            status, answer, headers = served.ask("/v1/rerank", body)
            assert status == 200
            assert answer["id"] == headers["x-request-id"]
            assert answer["results"] == [
                {
                    "index": each["corpus_id"],
                    "relevance_score": each["score"],
                    "document": {"text": self.DOCUMENTS[each["corpus_id"]]},
                }
                for each in right[:3]
            ]
            _, answer, _ = served.ask("/rerank", {"query": "capital?", "texts": self.DOCUMENTS})
            assert answer == [{"index": e["corpus_id"], "score": e["score"]} for e in plain]
            for wrong, status in (
                ({"documents": []}, 400),
                ({"documents": [1]}, 400),
                ({"documents": ["a"] * 3000}, 422),
                ({"documents": ["a"], "max_tokens_per_doc": -5}, 400),
                ({"documents": ["a"], "model": folder.name}, 404),
                ({"documents": ["word " * 200_000], "truncate": False}, 422),
            ):
                assert served.ask("/v1/rerank", {"query": "q", **wrong})[0] == status
            long = "word " * 4500
            assert served.ask("/v1/rerank", {"query": "q", "documents": [long]})[0] == 200
            for path, name in (("/v1/rerank", "documents"), ("/rerank", "texts")):
                body = {"query": long, name: ["a", "b"], "truncate": True}
                status, answer, _ = served.ask(path, body)
                assert status == 422
                assert "none is left for a document" in json.dumps(answer)
            assert served.ask("/v1/embeddings", {"input": "a", "model": "ranker"})[0] == 404
        finally:
            served.stop()


class TestKeys:
    def test_every_route_but_health(self, locked: Served) -> None:
        paths = ["/v1/embeddings", "/v1/models", "/metrics", "/embed", "/info", "/openapi.json"]
        wrong = [
            "",
            KEY,
            f"Basic {KEY}",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            "Bearer",
            "Bearer ",
        ]
        for path in [*paths, "/nothing"]:
            for value in wrong:
                status, answer, headers = locked.ask(path, authorization=value)
                assert status == 401
                assert headers["www-authenticate"] == "Bearer"
                assert KEY not in json.dumps(answer)
                assert ("not one of this server's" in json.dumps(answer)) == bool(value)
        for key in (KEY, "another-key-of-length"):
            assert locked.ask("/v1/models", authorization=f"Bearer {key}")[0] == 200
            assert locked.ask("/v1/models", authorization=f"bearer {key}")[0] == 200
        assert locked.ask("/health")[0] == 200
        assert locked.ask("/health", host="/v1/models")[0] == 200
        assert locked.ask("/v1/models", host="localhost/health?")[0] == 401

    def test_command_line(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main(["serve", "--model", str(folder), "--host", "0.0.0.0"])
        assert "--api-key-file" in capsys.readouterr().err
        path = tmp_path / "keys"
        for content, message in (("# none\n", "contains no key"), ("short\n", "shorter than 16")):
            path.write_text(content)
            assert main(["serve", "--model", str(folder), "--api-key-file", str(path)]) == 1
            assert message in capsys.readouterr().err
