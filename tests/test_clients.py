"""The server as the clients of other projects find it, their defaults untouched where possible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TEXTS

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder
from tests.support.served import Served

KEY = "a-secret-of-enough-length"


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(KEY)
    alias = f"text-embedding-ada-002={folder.name}"
    arguments = ["--max-body-mb", "1", "--max-queue", "64", "--alias", alias]
    served = Served("--model", str(folder), "--api-key-file", str(path), *arguments)
    yield served
    served.stop()


@pytest.fixture
def openai_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's tokenizer without a network: llama-index brings its file along."""
    llama_index = pytest.importorskip("llama_index.core")
    pytest.importorskip("tiktoken")
    folder = Path(llama_index.__file__).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))


class TestOpenai:
    @pytest.fixture
    def client(self, server: Served) -> Any:
        openai = pytest.importorskip("openai")
        return openai.OpenAI(base_url=server.url + "/v1", api_key=KEY)

    def test_vectors(self, client: Any, folder: Path, model: Embedder) -> None:
        """The client asks for base64 by itself and decodes it."""
        found = client.embeddings.create(input=TEXTS, model=folder.name)
        assert np.array_equal([each.embedding for each in found.data], model.encode(TEXTS))
        assert found.usage.total_tokens == int(np.sum(model.count_tokens(TEXTS)))
        found = client.embeddings.create(
            input="a",
            model=folder.name,
            dimensions=64,
            encoding_format="float",
            extra_body={"instruction": "Find it"},
        )
        expected = model.encode("a", dim=64, instruction="Find it")
        assert np.array_equal(np.array(found.data[0].embedding, np.float32), expected)
        assert next(each.id for each in client.models.list()) == folder.name

    def test_batch_of_2048(self, client: Any, folder: Path, model: Embedder) -> None:
        texts = [f"{i}" for i in range(2048)]
        found = client.embeddings.create(input=texts, model=folder.name, dimensions=32)
        assert np.array_equal([each.embedding for each in found.data], model.encode(texts, dim=32))

    def test_errors_are_its_own_types(self, client: Any, server: Served, folder: Path) -> None:
        import openai

        create = client.embeddings.create
        with pytest.raises(openai.NotFoundError) as caught:
            create(input="a", model="gpt")
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            create(input="a", model=folder.name, dimensions=9999)
        assert caught.value.param == "dimensions"
        with pytest.raises(openai.UnprocessableEntityError):
            create(input=["a"] * 2049, model=folder.name)
        with pytest.raises(openai.APIStatusError) as caught:
            create(input="x" * (1 << 20), model=folder.name)
        assert caught.value.status_code == 413
        stranger = openai.OpenAI(base_url=server.url + "/v1", api_key="wrong")
        with pytest.raises(openai.AuthenticationError):
            stranger.embeddings.create(input="a", model=folder.name)

    def test_queue_full_is_a_rate_limit(self, client: Any, server: Served, folder: Path) -> None:
        import openai

        clients = []
        for _ in range(64):  # whose bodies never come
            connection = server.connect()
            connection.putrequest("POST", "/embed")
            connection.putheader("authorization", f"Bearer {KEY}")
            connection.putheader("content-length", "10")
            connection.endheaders()
            clients.append(connection)
        for _ in range(200):  # until all of them have been noticed
            if server.ask("/info", authorization=f"Bearer {KEY}")[0] == 429:
                break
        with pytest.raises(openai.RateLimitError):
            client.with_options(max_retries=0).embeddings.create(input="a", model=folder.name)
        for connection in clients:
            connection.close()
        # Its own retries, after the Retry-After it was given, get through.
        assert client.embeddings.create(input="a", model=folder.name).data

    def test_async(self, server: Served, folder: Path, model: Embedder) -> None:
        import asyncio

        openai = pytest.importorskip("openai")

        async def all_of_them() -> list[Any]:
            client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY)
            async with client:
                asked = [client.embeddings.create(input=t, model=folder.name) for t in TEXTS]
                return await asyncio.gather(*asked)

        found = [each.data[0].embedding for each in asyncio.run(all_of_them())]
        assert np.array_equal(found, model.encode(TEXTS))


class TestLangchain:
    def test_texts(self, server: Served, folder: Path, model: Embedder) -> None:
        langchain_openai = pytest.importorskip("langchain_openai")
        client = langchain_openai.OpenAIEmbeddings(
            base_url=server.url + "/v1",
            api_key=KEY,
            model=folder.name,
            check_embedding_ctx_length=False,
        )
        found = np.array(client.embed_documents(TEXTS), np.float32)
        assert np.array_equal(found, model.encode(TEXTS))
        query = langchain_openai.OpenAIEmbeddings(
            base_url=server.url + "/v1",
            api_key=KEY,
            model=folder.name + "-query",
            check_embedding_ctx_length=False,
        )
        found = np.array(query.embed_query("a"), np.float32)
        assert np.array_equal(found, model.encode_query("a"))

    def test_foreign_token_ids_are_refused(
        self, server: Served, folder: Path, openai_ids: None
    ) -> None:
        """With its defaults it sends ids of OpenAI's tokenizer: no right vector could come back."""
        langchain_openai = pytest.importorskip("langchain_openai")
        openai = pytest.importorskip("openai")
        client = langchain_openai.OpenAIEmbeddings(
            base_url=server.url + "/v1", api_key=KEY, model=folder.name
        )
        with pytest.raises(openai.BadRequestError, match="--token-ids cl100k_base") as caught:
            client.embed_documents(["a text"])
        assert "check_embedding_ctx_length=False" in str(caught.value)
        assert caught.value.code == "foreign_token_ids"

    def test_defaults_untouched(self, folder: Path, model: Embedder, openai_ids: None) -> None:
        langchain_openai = pytest.importorskip("langchain_openai")
        tiktoken = pytest.importorskip("tiktoken")
        texts = [*TEXTS, "\U0001f600 \u65e5\u672c\u8a9e <|endoftext|> ok"]
        served = Served("--model", str(folder), "--token-ids", "cl100k_base")
        try:

            def client_of(name: str, **arguments: Any) -> Any:
                return langchain_openai.OpenAIEmbeddings(
                    base_url=served.url + "/v1", api_key="none", model=name, **arguments
                )

            found = client_of(folder.name).embed_documents(texts)
            assert np.array_equal(np.array(found, np.float32), model.encode(texts))
            found = client_of(folder.name + "-query").embed_query("a")
            assert np.array_equal(np.array(found, np.float32), model.encode_query("a"))
            # Cut into runs of five ids, some in the middle of a character, and averaged there.
            text = "\u9f98\U0001f9a9\u9f96\U0001faa9 and \u9f98\U0001f9a9" * 3
            found = client_of(folder.name, embedding_ctx_length=5).embed_documents([text])
            encoding = tiktoken.get_encoding("cl100k_base")
            ids = encoding.encode(text)
            runs = [ids[i : i + 5] for i in range(0, len(ids), 5)]
            parts = [encoding.decode_bytes(run).decode("utf-8", "ignore") for run in runs]
            assert "".join(parts) != text
            average = np.average(model.encode(parts), axis=0, weights=[len(run) for run in runs])
            expected = average / np.linalg.norm(average)
            # Two ways to add up a few float32: their last bits differ.
            np.testing.assert_allclose(found[0], expected, atol=1e-6)
            for wrong in ([[100_300]], [[5, 2**31 - 1]]):
                status, answer, _ = served.ask(
                    "/v1/embeddings", {"input": wrong, "model": folder.name}
                )
                assert (status, answer["error"]["code"]) == (400, "foreign_token_ids")
            # A byte that begins no character, in the middle of a text.
            middle = [64, encoding.encode_single_token(b"\xff"), *encoding.encode("bcde")]
            status, answer, _ = served.ask(
                "/v1/embeddings", {"input": [middle], "model": folder.name}
            )
            assert (status, answer["error"]["code"]) == (400, "foreign_token_ids")
        finally:
            served.stop()


class TestHub:
    def test_inference_client(self, server: Served, model: Embedder) -> None:
        """huggingface_hub's client speaks to TEI at its root."""
        hub = pytest.importorskip("huggingface_hub")
        client = hub.InferenceClient(base_url=server.url, token=KEY)
        found = np.array(client.feature_extraction(TEXTS), np.float32)
        assert np.array_equal(found, model.encode(TEXTS))


class TestSchema:
    def test_fuzz(self, server: Served) -> None:
        """schemathesis on our own page: no 500, no status that the page doesn't list."""
        schemathesis = pytest.importorskip("schemathesis")
        from hypothesis import HealthCheck, given, settings

        headers = {"Authorization": f"Bearer {KEY}"}
        schema = schemathesis.openapi.from_url(server.url + "/openapi.json", headers=headers)
        statuses: list[int] = []

        def fuzz(operation: Any, mode: Any) -> None:
            documented = {int(status) for status in operation.definition.raw["responses"]}

            @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                statuses.append(case.call(headers=headers).status_code)
                assert statuses[-1] in (documented | {405}) - {500}

            ask()

        for found in schema.get_all_operations():
            fuzz(found.ok(), schemathesis.GenerationMode.POSITIVE)
            if found.ok().method == "post":
                fuzz(found.ok(), schemathesis.GenerationMode.NEGATIVE)
        assert {200, 400} <= set(statuses)
        assert server.ask("/health")[0] == 200
