"""Names of sentence-transformers on a bare model: its evaluators, mining utilities and BEIR."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import (
    INSTRUCTIONS,
    Embedder,
    Quantizer,
    Reranker,
    TruncationWarning,
    VectorCache,
)
from tests.support.rerankers import make_reranker

QUERIES = {"1": "capital of China", "2": "what pulls things down"}
CORPUS = {"a": "Beijing is the capital.", "b": "Gravity is a force.", "c": "Eggs boil."}
RELEVANT = {"1": {"a"}, "2": {"b"}}


@pytest.fixture
def mini() -> Iterator[Embedder]:
    with Embedder("mini", device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reranker]:
    with Reranker(make_reranker(tmp_path_factory.mktemp("ranker") / "m"), device="cpu") as opened:
        yield opened


class TestWithoutTheirPackage:
    def test_max_seq_length(self, mini: Embedder) -> None:
        text = "word " * 50
        fingerprint = mini.fingerprint
        mini.max_seq_length = 8
        assert mini.max_length == mini.max_seq_length == 8
        with pytest.warns(TruncationWarning):
            cut = mini.encode(text)
        with Embedder("mini", device="cpu", max_length=8) as other:
            with pytest.warns(TruncationWarning):
                assert np.array_equal(cut, other.encode(text))
            assert mini.fingerprint == other.fingerprint != fingerprint
        assert pickle.loads(pickle.dumps(mini)).max_length == 8
        mini.max_length = 100
        assert not np.array_equal(mini.encode(text), cut)
        for wrong in (0, 10**6, "8", True):
            with pytest.raises(ValueError, match=r"expected 1\.\."):
                mini.max_length = wrong  # type: ignore[assignment]

    @pytest.mark.parametrize("name", ["max_seq_len", "maxlength", "dtype_", "foo"])
    def test_unknown_attributes(self, mini: Embedder, ranker: Reranker, name: str) -> None:
        for model in (mini, ranker):
            with pytest.raises(AttributeError, match=name):
                setattr(model, name, 1)
        with pytest.raises(AttributeError):
            mini.dim = 3  # type: ignore[misc]

    def test_unknown_attributes_of_other_objects(self, tmp_path: Path) -> None:
        quantizer = Quantizer.fit(np.eye(8, dtype=np.float32))
        for thing in (quantizer, VectorCache(tmp_path / "cache.sqlite")):
            with pytest.raises(AttributeError, match="foo"):
                setattr(thing, "foo", 1)  # noqa: B010 - what a user would write, and mypy refuse

    def test_a_guess(self, mini: Embedder) -> None:
        with pytest.raises(AttributeError, match="did you mean 'max_seq_length'"):
            mini.max_seq_len = 128

    def test_subclasses_have_their_own(self) -> None:
        class Mine(Embedder):
            def __init__(self) -> None:
                super().__init__("mini", device="cpu")
                self.mine = 1

        with Mine() as model:
            assert model.mine == 1

    def test_names(self, mini: Embedder) -> None:
        assert mini.get_sentence_embedding_dimension() == mini.get_embedding_dimension() == 256
        assert mini.similarity_fn_name == "cosine"
        assert "query" in mini.prompts
        found = mini.tokenize(["Hello", "a longer text"])
        assert found["input_ids"].shape == found["attention_mask"].shape
        counts = mini.count_tokens(["Hello", "a longer text"])
        assert found["attention_mask"].sum(axis=1).tolist() == np.asarray(counts).tolist()
        with pytest.raises(AttributeError, match="pass device="):
            mini.to("cuda")

    def test_defaults_of_encode(self, mini: Embedder) -> None:
        defaults: dict[str, Any] = {
            "prompt_name": None,
            "prompt": None,
            "batch_size": 32,
            "show_progress_bar": None,
            "output_value": "sentence_embedding",
            "precision": None,
            "convert_to_numpy": True,
            "convert_to_tensor": False,
            "device": None,
            "truncate_dim": None,
            "pool": None,
            "chunk_size": None,
        }
        assert np.array_equal(mini.encode(["a"], **defaults), mini.encode(["a"]))

    def test_every_default_of_theirs(self, mini: Embedder, ranker: Reranker) -> None:
        """Spelling out any default of the installed version changes nothing."""
        theirs = pytest.importorskip("sentence_transformers")
        sentences, pairs = theirs.SentenceTransformer, theirs.CrossEncoder

        def defaults_of(function: Any) -> dict[str, Any]:
            found = inspect.signature(function).parameters.values()
            return {each.name: each.default for each in found if each.default is not each.empty}

        for name in ("encode", "encode_query", "encode_document"):
            defaults = defaults_of(getattr(sentences, name)) | {"normalize_embeddings": True}
            assert len(defaults) >= 12
            ours = getattr(mini, name)
            assert np.array_equal(ours(["a"], **defaults), ours(["a"]))
        found = ranker.predict([("a", "b")], **defaults_of(pairs.predict))
        assert np.array_equal(found, ranker.predict([("a", "b")]))
        assert ranker.rank("a", ["b"], **defaults_of(pairs.rank)) == ranker.rank("a", ["b"])
        for kind, opened in ((sentences, mini), (pairs, ranker)):
            defaults = defaults_of(kind.__init__)
            defaults.pop("model_name_or_path", None)
            assert len(defaults) >= 15
            with type(opened)(str(opened.folder), **defaults) as again:
                assert again.max_length == opened.max_length
        with pytest.raises(TypeError, match="pass instruction="):
            ranker.predict([("a", "b")], prompt="Find it")

    def test_defaults_of_predict(self, ranker: Reranker) -> None:
        defaults: dict[str, Any] = {
            "prompt_name": None,
            "batch_size": 32,
            "show_progress_bar": None,
            "activation_fn": None,
            "apply_softmax": False,
            "convert_to_numpy": True,
            "convert_to_tensor": False,
            "device": None,
            "pool": None,
            "chunk_size": None,
        }
        pairs = [("a", "b"), ("a", "c")]
        assert np.array_equal(ranker.predict(pairs, **defaults), ranker.predict(pairs))
        assert ranker.rank("a", ["b", "c"], **defaults) == ranker.rank("a", ["b", "c"])
        named = ranker.predict(pairs, prompt_name="legal")
        assert np.array_equal(named, ranker.predict(pairs, instruction=INSTRUCTIONS["legal"]))
        for wrong in ({"apply_softmax": True}, {"device": "cpu"}, {"foo": 1}):
            with pytest.raises(TypeError):
                ranker.predict(pairs, **wrong)
        with pytest.raises(ValueError, match="prompt_name='x' is unknown"):
            ranker.predict(pairs, prompt_name="x")

    def test_constructor(self, tmp_path: Path) -> None:
        nothing: dict[str, Any] = {
            "trust_remote_code": False,
            "truncate_dim": None,
            "prompts": None,
            "model_kwargs": {},
            "backend": "torch",
            "cache_folder": str(tmp_path),
        }
        with Embedder("mini", device="cpu", **nothing) as model:
            assert model.dim == 256
        for name, value, advice in (
            ("trust_remote_code", True, "leave it out"),
            ("truncate_dim", 64, "dim="),
            ("prompts", {"a": "b"}, "prompt="),
            ("model_kwargs", {"dtype": "float16"}, "dtype="),
            ("backend", "onnx", "one backend"),
        ):
            with pytest.raises(TypeError, match=advice):
                Embedder("mini", **{name: value})
        with pytest.raises(TypeError, match="unexpected keyword argument 'nothreads'"):
            Embedder("mini", nothreads=1)


class TestTensors:
    def test_encode_and_similarity(self, mini: Embedder) -> None:
        torch = pytest.importorskip("torch")
        rows = mini.encode(["a", "b"])
        found: Any = mini.encode(["a", "b"], convert_to_tensor=True)
        assert torch.equal(found, torch.from_numpy(rows))
        assert mini.encode("a", convert_to_tensor=True).shape == (256,)
        as_list: Any = mini.encode(["a", "b"], convert_to_numpy=False)
        assert torch.equal(torch.stack(as_list), found)
        assert isinstance(mini.similarity(found, rows), torch.Tensor)
        assert isinstance(mini.similarity_pairwise(found, found), torch.Tensor)

    def test_predict(self, ranker: Reranker) -> None:
        torch = pytest.importorskip("torch")
        found = ranker.predict([("a", "b")], convert_to_tensor=True)
        assert torch.equal(found, torch.from_numpy(ranker.predict([("a", "b")])))


class TestTheirCode:
    @pytest.fixture(autouse=True)
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("sentence_transformers")
        monkeypatch.chdir(tmp_path)

    def test_embedding_evaluators(self, mini: Embedder) -> None:
        from sentence_transformers.sentence_transformer import evaluation as e

        sample = {"query": QUERIES["1"], "positive": [CORPUS["a"]], "negative": [CORPUS["c"]]}
        evaluators = [
            e.InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT),
            e.EmbeddingSimilarityEvaluator(["a", "b"], ["a", "c"], [1.0, 0.2]),
            e.BinaryClassificationEvaluator(["a", "b"], ["a", "c"], [1, 0]),
            e.TripletEvaluator([QUERIES["1"]], [CORPUS["a"]], [CORPUS["c"]]),
            e.RerankingEvaluator([sample]),
            e.ParaphraseMiningEvaluator({"1": "a b", "2": "a b", "3": "c"}, [["1", "2"]]),
            e.TranslationEvaluator(["a", "b"], ["a", "b"]),
            e.MSEEvaluator(["a"], ["a"], teacher_model=mini),
        ]
        for evaluator in evaluators:
            metrics = evaluator(mini)
            assert all(np.isfinite(value) for value in metrics.values())
            assert metrics.items() <= mini.model_card_data.metrics.items()
        assert evaluators[0](mini)["cosine_mrr@10"] == 1.0

    def test_cross_encoder_evaluators(self, ranker: Reranker) -> None:
        from sentence_transformers.cross_encoder import evaluation as e

        pairs = [["a", "b"], ["a", "c"], ["d", "e"]]
        sample = {"query": QUERIES["1"], "positive": [CORPUS["a"]], "negative": [CORPUS["c"]]}
        for evaluator in (
            e.CrossEncoderClassificationEvaluator(pairs, [1, 0, 1]),
            e.CrossEncoderCorrelationEvaluator(pairs, [1.0, 0.2, 0.5]),
            e.CrossEncoderRerankingEvaluator([sample]),
        ):
            assert all(np.isfinite(value) for value in evaluator(ranker).values())

    def test_mining(self, mini: Embedder, ranker: Reranker) -> None:
        from sentence_transformers import util

        mined = util.paraphrase_mining(mini, ["a b", "a b", "c"])
        assert mined[0][1:] == [0, 1]
        assert len(
            util.community_detection(mini.encode(["a", "a"], convert_to_tensor=True), 0.9, 1)
        )
        datasets = pytest.importorskip("datasets")
        pairs = {"query": list(QUERIES.values()), "answer": [CORPUS["a"], CORPUS["b"]]}
        for cross_encoder in (None, ranker):
            found = util.mine_hard_negatives(
                datasets.Dataset.from_dict(pairs),
                mini,
                corpus=list(CORPUS.values()),
                cross_encoder=cross_encoder,
                num_negatives=1,
                verbose=False,
                use_faiss=False,
            )
            assert len(found) == 2

    def test_beir(self, mini: Embedder) -> None:
        pytest.importorskip("beir")
        from beir.retrieval.models import SentenceBERT
        from beir.retrieval.search.dense import DenseRetrievalExactSearch

        wrapper = SentenceBERT()
        wrapper.q_model = wrapper.doc_model = mini
        search = DenseRetrievalExactSearch(wrapper, batch_size=2)
        corpus = {name: {"title": "", "text": text} for name, text in CORPUS.items()}
        results = search.search(corpus, QUERIES, top_k=2, score_function="cos_sim")
        assert max(results["1"], key=results["1"].get) == "a"
