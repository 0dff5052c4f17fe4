"""Each integration with the real package of its project, where that is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from qwen3_embed import Embedder, Reranker
from tests.conftest import TEXTS
from tests.support.rerankers import make_reranker

CORPUS = ["Gravity pulls.", "Beijing is a capital.", "ISO 9001 audit", "重力加速度", "x y"]


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

    def test_its_standard_suites(self, langchain: Any, folder: Path) -> None:
        """langchain-tests' own tests, unit and integration, sync and async."""
        pytest.importorskip("langchain_tests")
        from langchain_tests.integration_tests import EmbeddingsIntegrationTests
        from langchain_tests.unit_tests import EmbeddingsUnitTests

        def members(self: Any) -> Any:
            return langchain.Qwen3Embeddings

        n_run = 0
        for base in (EmbeddingsUnitTests, EmbeddingsIntegrationTests):
            suite = type(
                base.__name__,
                (base,),
                {
                    "embeddings_class": property(members),
                    "embedding_model_params": property(lambda self: {"model": str(folder)}),
                },
            )()
            made = langchain.Qwen3Embeddings(str(folder))
            for name in dir(base):
                if not name.startswith("test_") or name == "test_init_from_env":
                    continue
                test = getattr(suite, name)
                names = test.__code__.co_varnames[1 : test.__code__.co_argcount]
                result = test(**dict.fromkeys(names, made))
                if asyncio.iscoroutine(result):
                    asyncio.run(result)
                n_run += 1
        assert n_run >= 5

    def test_vectors(self, langchain: Any, model: Embedder) -> None:
        embeddings = langchain.Qwen3Embeddings(model, dim=64, instruction="Find it")
        assert np.array_equal(
            np.array(embeddings.embed_documents(TEXTS), np.float32), model.encode(TEXTS, dim=64)
        )
        query = model.encode("a", dim=64, instruction="Find it")
        assert np.array_equal(np.array(embeddings.embed_query("a"), np.float32), query)
        found = asyncio.run(embeddings.aembed_documents(["a"]))
        assert np.array_equal(np.array(found, np.float32), model.encode(["a"], dim=64))

    def test_vector_store(self, langchain: Any, model: Embedder) -> None:
        from langchain_core.vectorstores import InMemoryVectorStore

        store = InMemoryVectorStore.from_texts(CORPUS, langchain.Qwen3Embeddings(model))
        found = store.similarity_search(CORPUS[2], k=len(CORPUS))
        scores = model.encode_document(CORPUS) @ model.encode_query(CORPUS[2])
        expected = [CORPUS[i] for i in np.argsort(-scores, kind="stable")]
        assert [document.page_content for document in found] == expected

    def test_compressor(self, langchain: Any, ranker: Reranker) -> None:
        from langchain_core.documents import Document

        documents = [Document(text, metadata={"n": i}) for i, text in enumerate(CORPUS)]
        compressor = langchain.Qwen3Rerank(model=ranker, top_n=2, instruction="Find it")
        expected = ranker.rank("capital?", CORPUS, top_k=2, instruction="Find it")
        for found in (
            compressor.compress_documents(documents, "capital?"),
            asyncio.run(compressor.acompress_documents(documents, "capital?")),
        ):
            assert [each.metadata["n"] for each in found] == [e["corpus_id"] for e in expected]
            assert found[0].metadata["relevance_score"] == expected[0]["score"]
        assert documents[0].metadata == {"n": 0}


class TestLlamaIndex:
    def test_index_and_reranker(self, model: Embedder, ranker: Reranker) -> None:
        pytest.importorskip("llama_index.core")
        from llama_index.core import VectorStoreIndex
        from llama_index.core.schema import TextNode

        from qwen3_embed.integrations.llama_index import Qwen3Embedding, Qwen3Rerank

        embedding = Qwen3Embedding(model, dim=64)
        found = np.array(embedding.get_text_embedding_batch(TEXTS), np.float32)
        assert np.array_equal(found, model.encode_document(TEXTS, dim=64))
        query = np.array(embedding.get_query_embedding("a"), np.float32)
        assert np.array_equal(query, model.encode_query("a", dim=64))
        found = np.array(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), np.float32)
        assert np.array_equal(found, model.encode_document(TEXTS, dim=64))
        index = VectorStoreIndex([TextNode(text=text) for text in CORPUS], embed_model=embedding)
        nodes = index.as_retriever(similarity_top_k=len(CORPUS)).retrieve("capital?")
        scores = model.encode_document(CORPUS, dim=64) @ model.encode_query("capital?", dim=64)
        expected = [CORPUS[i] for i in np.argsort(-scores, kind="stable")]
        assert [node.node.get_content() for node in nodes] == expected
        reranked = Qwen3Rerank(ranker, top_n=3).postprocess_nodes(nodes, query_str="capital?")
        best = ranker.rank("capital?", expected, top_k=3)
        assert [node.score for node in reranked] == [entry["score"] for entry in best]
        with pytest.raises(ValueError, match="needs the query"):
            Qwen3Rerank(ranker).postprocess_nodes(nodes)


class TestSentenceTransformers:
    def test_tokenizer(self) -> None:
        """As KeyBERT, BERTopic and others find it; its ids are the engine's."""
        pytest.importorskip("sentence_transformers")
        from qwen3_embed.integrations.sentence_transformers import sentence_transformer

        wrapped = sentence_transformer("mini")
        with Embedder("mini") as mini:
            for text in TEXTS:
                ids = wrapped.tokenizer(text)["input_ids"]
                assert ids == mini.tokenizer.encode([text]).tokens.tolist()

    def test_as_its_users_call_it(self, model: Embedder) -> None:
        pytest.importorskip("sentence_transformers")
        from sentence_transformers import util

        from qwen3_embed.integrations.sentence_transformers import sentence_transformer

        theirs = sentence_transformer(model, dim=64)
        assert np.array_equal(theirs.encode(TEXTS), model.encode(TEXTS, dim=64))
        found = theirs.encode_query("a")
        assert np.array_equal(found, model.encode_query("a", dim=64))
        found = theirs.encode(["a", "b"], prompt="Find it")
        assert np.array_equal(found, model.encode(["a", "b"], prompt="Find it", dim=64))
        assert theirs.get_embedding_dimension() == 64
        pairs = util.paraphrase_mining(theirs, [*CORPUS, CORPUS[0]], show_progress_bar=False)
        assert pairs[0][0] == pytest.approx(1.0)
        assert {pairs[0][1], pairs[0][2]} == {0, len(CORPUS)}

    def test_evaluator(self, model: Embedder) -> None:
        pytest.importorskip("sentence_transformers")
        from sentence_transformers.sentence_transformer.evaluation import (
            InformationRetrievalEvaluator,
        )

        from qwen3_embed.integrations.sentence_transformers import sentence_transformer

        corpus = {str(i): text for i, text in enumerate(CORPUS)}
        evaluator = InformationRetrievalEvaluator(
            {"q": CORPUS[2]}, corpus, {"q": {"2"}}, show_progress_bar=False
        )
        assert evaluator(sentence_transformer(model))["cosine_accuracy@10"] == 1.0


class TestSklearn:
    def test_pipeline(self, model: Embedder, folder: Path) -> None:
        pytest.importorskip("sklearn")
        from sklearn.base import clone
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score
        from sklearn.pipeline import make_pipeline

        from qwen3_embed.integrations.sklearn import Qwen3Vectorizer

        vectorizer = Qwen3Vectorizer(str(folder), dim=64)
        assert np.array_equal(vectorizer.fit_transform(TEXTS), model.encode(TEXTS, dim=64))
        assert clone(Qwen3Vectorizer(model)).model is model
        assert vectorizer.get_feature_names_out()[63] == "qwen3_63"
        texts = [f"{'cats purr' if i % 2 else 'engines roar'} {i}" for i in range(40)]
        labels = [i % 2 for i in range(40)]
        pipeline = make_pipeline(Qwen3Vectorizer(model), LogisticRegression(C=100))
        assert cross_val_score(pipeline, texts, labels, cv=4).mean() > 0.9
        assert "Qwen3Vectorizer" in repr(pipeline)


class TestChroma:
    def test_collection(self, model: Embedder, folder: Path, tmp_path: Path) -> None:
        chromadb = pytest.importorskip("chromadb")
        from qwen3_embed.integrations.chroma import Qwen3EmbeddingFunction

        function = Qwen3EmbeddingFunction(str(folder), dim=64)
        client = chromadb.PersistentClient(str(tmp_path / "chroma"))
        collection = client.create_collection("texts", embedding_function=function)
        collection.add(ids=[str(i) for i in range(len(CORPUS))], documents=CORPUS)
        again = client.get_collection("texts")  # the function comes back from its stored settings
        scores = model.encode_document(CORPUS, dim=64) @ model.encode_query("capital?", dim=64)
        expected = [str(i) for i in np.argsort(-scores, kind="stable")]
        for found in (collection, again):
            hits = found.query(query_texts=["capital?"], n_results=len(CORPUS))
            assert hits["ids"][0] == expected
        assert Qwen3EmbeddingFunction.build_from_config(function.get_config()).get_config() == {
            "model": str(folder),
            "dim": 64,
            "instruction": None,
            "settings": None,
        }


class TestMteb:
    QUERIES: ClassVar[dict[str, str]] = {"q1": "ISO 9001 audit", "q2": "capital"}

    @pytest.fixture
    def task(self) -> Any:
        """A retrieval task made here: no download."""
        mteb = pytest.importorskip("mteb")
        from datasets import Dataset
        from mteb.abstasks.retrieval import AbsTaskRetrieval
        from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

        queries, relevant = self.QUERIES, {"q1": {"2": 1}, "q2": {"1": 1}}
        everything = {query: [str(i) for i in range(len(CORPUS))] for query in queries}

        class LocalRetrieval(AbsTaskRetrieval):
            metadata = mteb.TaskMetadata(
                name="LocalRetrieval",
                description="Made for a test.",
                dataset={"path": "local/none", "revision": "1"},
                type="Retrieval",
                eval_splits=["test"],
                eval_langs=["eng-Latn"],
                main_score="ndcg_at_10",
                prompt={"query": "Find it"},
            )

            def load_data(self, *args: Any, **others: Any) -> None:
                corpus = [{"id": str(i), "title": "", "text": t} for i, t in enumerate(CORPUS)]
                asked = [{"id": key, "text": text} for key, text in queries.items()]
                split = RetrievalSplitData(
                    corpus=Dataset.from_list(corpus),
                    queries=Dataset.from_list(asked),
                    relevant_docs=relevant,
                    top_ranked=everything,  # what a cross-encoder orders
                )
                self.dataset = {"default": {"test": split}}
                self.data_loaded = True

        return LocalRetrieval()

    def evaluated(self, task: Any, adapted: Any, folder: Path) -> float:
        import mteb

        cache = mteb.ResultCache(str(folder))
        found = mteb.evaluate(adapted, task, cache=cache, show_progress_bar=False)
        return float(found.task_results[0].get_score())

    def expected(self, scores_of: Callable[[str], Any]) -> float:
        """ndcg@10 worked out by hand: one document is right for each query."""
        gains = []
        for query, right in (("ISO 9001 audit", 2), ("capital", 1)):
            scores = scores_of(query)
            gains.append(1 / np.log2(2 + np.sum(scores > scores[right])))
        return float(np.mean(gains))

    def test_encoder(self, task: Any, model: Embedder, tmp_path: Path) -> None:
        from qwen3_embed.integrations.mteb import Qwen3BiEncoder

        documents = model.encode_document(CORPUS)
        expected = self.expected(lambda q: documents @ model.encode(q, instruction="Find it"))
        found = self.evaluated(task, Qwen3BiEncoder(model), tmp_path)
        assert found == pytest.approx(expected, abs=1e-5)  # mteb rounds to five places

    def test_cross_encoder(self, task: Any, ranker: Reranker, tmp_path: Path) -> None:
        from mteb.models import CrossEncoderProtocol

        from qwen3_embed.integrations.mteb import Qwen3CrossEncoder

        adapted = Qwen3CrossEncoder(ranker)
        assert isinstance(adapted, CrossEncoderProtocol)
        found = self.evaluated(task, adapted, tmp_path)
        expected = self.expected(
            lambda q: ranker.predict([(q, text) for text in CORPUS], instruction="Find it")
        )
        assert found == pytest.approx(expected, abs=1e-5)


class TestHaystack:
    @pytest.fixture
    def haystack(self) -> Any:
        return pytest.importorskip("haystack")

    def test_pipelines(self, haystack: Any, folder: Path, model: Embedder) -> None:
        """Indexing and search as Haystack's own tutorials do, through a saved pipeline."""
        from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
        from haystack.components.writers import DocumentWriter
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        from qwen3_embed.integrations.haystack import Qwen3DocumentEmbedder, Qwen3TextEmbedder

        store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
        indexing = haystack.Pipeline()
        indexing.add_component("embedder", Qwen3DocumentEmbedder(str(folder), dim=64))
        indexing.add_component("writer", DocumentWriter(store))
        indexing.connect("embedder.documents", "writer.documents")
        indexing.run({"embedder": {"documents": [haystack.Document(content=t) for t in CORPUS]}})
        embedder = haystack.Pipeline()
        embedder.add_component("embedder", Qwen3TextEmbedder(str(folder), dim=64))
        search = haystack.Pipeline.loads(embedder.dumps(), allowed_modules=["qwen3_embed.*"])
        search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=len(CORPUS)))
        search.connect("embedder.embedding", "retriever.query_embedding")
        found = search.run({"embedder": {"text": "capital?"}})["retriever"]["documents"]
        scores = model.encode_document(CORPUS, dim=64) @ model.encode_query("capital?", dim=64)
        expected = [CORPUS[i] for i in np.argsort(-scores, kind="stable")]
        assert [document.content for document in found] == expected

    def test_vectors(self, haystack: Any, model: Embedder) -> None:
        from qwen3_embed.integrations.haystack import Qwen3DocumentEmbedder, Qwen3TextEmbedder

        documents = [haystack.Document(content="a", meta={"title": "B", "year": 7, "none": None})]
        embedder = Qwen3DocumentEmbedder(model, meta_fields_to_embed=["title", "none", "year"])
        for found in (embedder.run(documents), asyncio.run(embedder.run_async(documents))):
            row = np.array(found["documents"][0].embedding, np.float32)
            assert np.array_equal(row, model.encode_document("B\n7\na"))
        assert documents[0].embedding is None
        queries = Qwen3TextEmbedder(model, instruction="Find it")
        for found in (queries.run("a"), asyncio.run(queries.run_async("a"))):
            row = np.array(found["embedding"], np.float32)
            assert np.array_equal(row, model.encode("a", instruction="Find it"))

    def test_ranker(self, haystack: Any, ranker: Reranker) -> None:
        from qwen3_embed.integrations.haystack import Qwen3Ranker

        documents = [haystack.Document(content=text) for text in CORPUS]
        component = Qwen3Ranker(ranker, top_k=2, instruction="Find it")
        expected = ranker.rank("capital?", CORPUS, instruction="Find it")
        for n, found in (
            (2, component.run("capital?", documents)),
            (3, asyncio.run(component.run_async("capital?", documents, top_k=3))),
        ):
            pairs = [(document.content, document.score) for document in found["documents"]]
            assert pairs == [(CORPUS[e["corpus_id"]], e["score"]) for e in expected[:n]]
        assert component.run("capital?", []) == {"documents": []}
        assert documents[0].score is None


class TestVectorStores:
    def expected(self, model: Embedder) -> list[int]:
        scores = model.encode_document(CORPUS) @ model.encode_query("capital?")
        return [int(i) for i in np.argsort(-scores, kind="stable")]

    def test_faiss(self, model: Embedder) -> None:
        faiss = pytest.importorskip("faiss")
        index = faiss.IndexFlatIP(model.dim)
        index.add(model.encode_document(CORPUS))
        _, found = index.search(model.encode_query(["capital?"]), len(CORPUS))
        assert found[0].tolist() == self.expected(model)

    def test_usearch(self, model: Embedder) -> None:
        index_module = pytest.importorskip("usearch.index")
        index = index_module.Index(ndim=model.dim, metric="ip", dtype="f32")
        index.add(np.arange(len(CORPUS)), model.encode_document(CORPUS))
        found = index.search(model.encode_query("capital?"), len(CORPUS), exact=True)
        assert [int(key) for key in found.keys] == self.expected(model)

    def test_hnswlib(self, model: Embedder) -> None:
        hnswlib = pytest.importorskip("hnswlib")
        index = hnswlib.Index(space="ip", dim=model.dim)
        index.init_index(max_elements=len(CORPUS))
        index.add_items(model.encode_document(CORPUS), np.arange(len(CORPUS)))
        found, _ = index.knn_query(model.encode_query(["capital?"]), len(CORPUS))
        assert found[0].tolist() == self.expected(model)

    def test_lancedb(self, model: Embedder, tmp_path: Path) -> None:
        lancedb = pytest.importorskip("lancedb")
        database = lancedb.connect(str(tmp_path / "lance"))
        rows = [{"id": i, "vector": row} for i, row in enumerate(model.encode_document(CORPUS))]
        table = database.create_table("texts", rows)
        search = table.search(model.encode_query("capital?")).distance_type("dot")
        found = search.limit(len(CORPUS)).to_list()
        assert [row["id"] for row in found] == self.expected(model)

    def test_qdrant(self, model: Embedder) -> None:
        qdrant = pytest.importorskip("qdrant_client")
        from qdrant_client import models as settings

        client = qdrant.QdrantClient(":memory:")
        parameters = settings.VectorParams(size=model.dim, distance=settings.Distance.COSINE)
        client.create_collection("texts", vectors_config=parameters)
        client.upload_collection("texts", vectors=model.encode_document(CORPUS), ids=range(5))
        found = client.query_points("texts", query=model.encode_query("capital?"), limit=5)
        assert [point.id for point in found.points] == self.expected(model)

    def test_milvus_lite(self, model: Embedder, tmp_path: Path) -> None:
        pymilvus = pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
        client = pymilvus.MilvusClient(str(tmp_path / "milvus.db"))
        client.create_collection("texts", dimension=model.dim, metric_type="IP")
        rows = [{"id": i, "vector": row} for i, row in enumerate(model.encode_document(CORPUS))]
        client.insert("texts", rows)
        found = client.search("texts", data=[model.encode_query("capital?")], limit=5)
        assert [hit["id"] for hit in found[0]] == self.expected(model)
        client.close()
