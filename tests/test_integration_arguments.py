"""Arguments of the integrations: other projects' names, and mistakes that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import Embedder, Reranker
from tests.conftest import TEXTS
from tests.support.rerankers import make_reranker


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reranker]:
    with Reranker(make_reranker(tmp_path_factory.mktemp("reranker"))) as opened:
        yield opened


class TestLangchain:
    @pytest.fixture
    def langchain(self) -> Any:
        pytest.importorskip("langchain_core")
        from qwen3_embed.integrations import langchain

        return langchain

    def test_as_hugging_face_embeddings(
        self, langchain: Any, model: Embedder, folder: Path
    ) -> None:
        """The arguments of LangChain's own class for sentence-transformers."""
        client = langchain.Qwen3Embeddings(
            model_name=str(folder),
            model_kwargs={"device": "cpu", "trust_remote_code": False},
            cache_folder=None,
            encode_kwargs={"normalize_embeddings": True, "batch_size": 8, "truncate_dim": 64},
            show_progress=False,
            multi_process=False,
        )
        assert np.array_equal(
            np.float32(client.embed_documents(TEXTS)), model.encode(TEXTS, dim=64)
        )
        assert np.array_equal(np.float32(client.embed_query("a")), model.encode_query("a", dim=64))
        client = langchain.Qwen3Embeddings(
            model, encode_kwargs={"dim": 32}, query_encode_kwargs={"prompt_name": "legal"}
        )
        expected = model.encode("a", prompt_name="legal")
        assert np.array_equal(np.float32(client.embed_query("a")), expected)
        assert len(client.embed_documents(["a"])[0]) == 32
        client = langchain.Qwen3Embeddings(model, instruction="Find it", encode_kwargs={"dim": 32})
        assert np.array_equal(
            np.float32(client.embed_query("a")), model.encode("a", instruction="Find it", dim=32)
        )

    def test_show_progress(
        self, langchain: Any, model: Embedder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        langchain.Qwen3Embeddings(model, show_progress=True).embed_documents(TEXTS)
        assert "5/5" in capsys.readouterr().err
        langchain.Qwen3Embeddings(model).embed_documents(TEXTS)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"model": "mini", "model_name": "mini"}, "model and model_name are given at once"),
            ({"settings": {}, "model_kwargs": {}}, "settings and model_kwargs are given at once"),
            ({"model_kwargs": {"trust_remote_code": True}}, "no code from a model's folder"),
            ({"multi_process": True}, "one call uses every core"),
            ({"encode_kwargs": {"normalise": True}}, "did you mean 'normalize'?"),
            ({"dim": 8, "encode_kwargs": {"dim": 9}}, "dim is given twice"),
            ({"modelname": "mini"}, "unexpected keyword argument 'modelname'"),
        ],
    )
    def test_refused(self, langchain: Any, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(TypeError, match=words.replace("?", r"\?")):
            langchain.Qwen3Embeddings(**arguments)


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [
        ("langchain_core", "langchain", "Qwen3Embeddings"),
        ("langchain_core", "langchain", "Qwen3Rerank"),
        ("llama_index.core", "llama_index", "Qwen3Embedding"),
        ("llama_index.core", "llama_index", "Qwen3Rerank"),
        ("haystack", "haystack", "Qwen3TextEmbedder"),
        ("haystack", "haystack", "Qwen3Ranker"),
        ("sentence_transformers", "sentence_transformers", "Qwen3Module"),
        ("sklearn", "sklearn", "Qwen3Vectorizer"),
        ("mteb", "mteb", "Qwen3BiEncoder"),
        ("mteb", "mteb", "Qwen3CrossEncoder"),
    ],
)
def test_settings_of_an_open_model(
    package: str, module: str, name: str, model: Embedder, ranker: Reranker
) -> None:
    """They would be without effect: refused, not ignored."""
    pytest.importorskip(package)
    kind = getattr(import_module(f"qwen3_embed.integrations.{module}"), name)
    given = ranker if "rank" in name.lower() or "Cross" in name else model

    def use() -> None:
        made = kind(model=given, settings={"device": "cpu"})
        made.fit(["a"])  # where scikit-learn wants arguments to be looked at

    with pytest.raises(TypeError, match=r"are given \(device\) for a \w+ that is already open"):
        use()


class TestOneTextIsNotMany:
    """A str is not an iterable of texts of one letter each, nor a list one text."""

    def test_sklearn(self, model: Embedder) -> None:
        pytest.importorskip("sklearn")
        from qwen3_embed.integrations.sklearn import Qwen3Vectorizer

        with pytest.raises(TypeError, match=r"^texts is str, expected an iterable of str$"):
            Qwen3Vectorizer(model).transform("abc")

    def test_langchain(self, model: Embedder) -> None:
        pytest.importorskip("langchain_core")
        from qwen3_embed.integrations.langchain import Qwen3Embeddings

        with pytest.raises(TypeError, match=r"texts is str.*for one text: embed_query"):
            Qwen3Embeddings(model).embed_documents("abc")
        with pytest.raises(TypeError, match=r"text is list, expected str"):
            Qwen3Embeddings(model).embed_query(["abc"])

    def test_llama_index(self, model: Embedder) -> None:
        pytest.importorskip("llama_index.core")
        from qwen3_embed.integrations.llama_index import Qwen3Embedding

        embedding = Qwen3Embedding(model)
        with pytest.raises(TypeError, match=r"texts is str.*for one text: get_text_embedding"):
            embedding.get_text_embedding_batch("abc")
        with pytest.raises(TypeError, match=r"query is list, expected str"):
            embedding.get_query_embedding(["abc"])
        with pytest.raises(TypeError, match=r"texts\[0\] is list, expected str"):
            embedding.get_text_embedding(["abc"])

    def test_haystack(self, model: Embedder, ranker: Reranker) -> None:
        pytest.importorskip("haystack")
        from qwen3_embed.integrations import haystack

        with pytest.raises(TypeError, match=r"text is list.*for documents: Qwen3Document"):
            haystack.Qwen3TextEmbedder(model).run(["abc"])
        for wrong, where in (("abc", "documents"), (["abc"], r"documents\[0\]")):
            for call in (
                haystack.Qwen3DocumentEmbedder(model).run,
                lambda documents: haystack.Qwen3Ranker(ranker).run("q", documents),
            ):
                with pytest.raises(TypeError, match=f"^{where} is str, expected Document"):
                    call(wrong)

    def test_chroma(self, model: Embedder, folder: Path) -> None:
        pytest.importorskip("chromadb")
        from qwen3_embed.integrations.chroma import Qwen3EmbeddingFunction

        function = Qwen3EmbeddingFunction(str(folder))
        for call in (function.__call__, function.embed_query):
            with pytest.raises(TypeError, match=r"^input is str, expected an iterable of str$"):
                call("abc")
