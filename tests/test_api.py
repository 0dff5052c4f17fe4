"""class Embedder as a user types it: results, prompts, the names of sentence-transformers."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qwen3_embed
from qwen3_embed import Embedder, Quantizer
from qwen3_embed.templates import instruct_prompt
from tests.conftest import HIDDEN, TEXTS


class TestResults:
    def test_shape_dtype_and_norm(self, model: Embedder, rows: Any) -> None:
        assert rows.shape == (len(TEXTS), HIDDEN)
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        # Rounding to float32 moves a norm of HIDDEN squares by at most about sqrt(HIDDEN) ulp.
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)

    def test_one_text_is_one_vector(self, model: Embedder, rows: Any) -> None:
        for i, text in enumerate(TEXTS):
            vector = model.encode(text)
            assert vector.shape == (HIDDEN,)
            assert np.array_equal(vector, rows[i])

    def test_no_texts(self, model: Embedder) -> None:
        for dim in (None, 64):
            empty = model.encode([], dim=dim)
            assert empty.shape == (0, dim or HIDDEN)
            assert empty.dtype == np.float32
        assert model.count_tokens([]).shape == (0,)
        assert list(model.encode_iter([])) == []

    def test_dim_is_cut_then_normalised(self, model: Embedder) -> None:
        raw = model.encode(TEXTS, normalize=False)
        cut = model.encode(TEXTS, dim=48)
        expected = raw[:, :48] / np.linalg.norm(raw[:, :48], axis=1, keepdims=True)
        np.testing.assert_allclose(cut, expected, atol=1e-6)
        assert cut.flags.c_contiguous
        assert np.array_equal(model.encode(TEXTS, dim=48, normalize=False), raw[:, :48])
        assert np.array_equal(model.encode(TEXTS, dim=np.int64(48)), cut)

    @pytest.mark.parametrize("dim", [0, -1, HIDDEN + 1, True])
    def test_dim_out_of_range(self, model: Embedder, dim: int) -> None:
        with pytest.raises(ValueError, match=rf"dim={dim}, expected 1\.\.{HIDDEN}"):
            model.encode("x", dim=dim)

    def test_dim_of_another_type(self, model: Embedder) -> None:
        for dim in ("64", 64.0):
            with pytest.raises(TypeError, match="expected int"):
                model.encode("x", dim=dim)  # type: ignore[arg-type]

    def test_small_dim_warns_at_the_callers_line(self, model: Embedder) -> None:
        calls = [
            lambda: model.encode("x", dim=31),
            lambda: model.encode_query("x", dim=31),
            lambda: model.encode_document("x", truncate_dim=31),
            lambda: list(model.encode_iter(["x"], dim=31)),
            lambda: model.encode_tokens(np.array([1], "i4"), np.array([0, 1], "i4"), 31),
        ]
        for call in calls:
            with pytest.warns(UserWarning, match="dim=31 is below 32") as caught:
                call()
            assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.encode("x", dim=32)

    def test_rows_outlive_the_model(self, folder: Path) -> None:
        with Embedder(folder) as other:
            before = other.encode(TEXTS)
            copy = before.copy()
        del other
        gc.collect()
        assert np.array_equal(before, copy)

    def test_order_and_chunks_change_nothing(self, folder: Path, model: Embedder) -> None:
        """600 texts in many chunks and jobs: each row is that of its text alone."""
        texts = [f"text number {i} " + "and more " * (i % 17) for i in range(600)]
        with Embedder(folder, batch_tokens=512) as small_batches:
            together = small_batches.encode(texts)
            assert np.array_equal(small_batches.encode(texts[::-1]), together[::-1])
        for i in range(0, 600, 59):
            assert np.array_equal(together[i], model.encode(texts[i]))

    def test_out(self, model: Embedder, rows: Any) -> None:
        out = np.full((len(TEXTS), HIDDEN), np.nan, np.float32)
        assert model.encode(TEXTS, out=out) is out
        assert np.array_equal(out, rows)
        one = np.empty(64, np.float32)
        assert model.encode(TEXTS[0], dim=64, out=one) is one
        assert np.array_equal(one, model.encode(TEXTS[0], dim=64))
        part = np.zeros((10, HIDDEN), np.float32)
        model.encode(TEXTS, out=part[2:7])
        assert np.array_equal(part[2:7], rows)
        assert not part[:2].any()
        assert not part[7:].any()

    @pytest.mark.parametrize(
        ("out", "error", "words"),
        [
            (np.empty((2, HIDDEN), np.float64), TypeError, "dtype float64"),
            (np.empty((3, HIDDEN), np.float32), ValueError, "expected \\(2, 128\\)"),
            (np.empty((HIDDEN, 2), np.float32).T, ValueError, "C-contiguous"),
            (np.empty((2, 2 * HIDDEN), np.float32)[:, ::2], ValueError, "C-contiguous"),
            ([[0.0] * HIDDEN] * 2, TypeError, "out is list"),
            (np.frombuffer(bytes(8 * HIDDEN), np.float32).reshape(2, -1), ValueError, "writable"),
        ],
    )
    def test_out_refused(self, model: Embedder, out: Any, error: Any, words: str) -> None:
        with pytest.raises(error, match=words):
            model.encode(["a", "b"], out=out)

    def test_precision(self, model: Embedder, rows: Any) -> None:
        half = model.encode(TEXTS, precision="float16")
        assert half.dtype == np.float16
        assert np.array_equal(half, rows.astype(np.float16))
        for precision in ("binary", "ubinary"):
            bits = model.encode(TEXTS, precision=precision)
            assert bits.shape == (len(TEXTS), HIDDEN // 8)
        quantizer = Quantizer.fit(rows)
        for precision in ("int8", "uint8"):
            found = model.encode(TEXTS, precision=precision, quantizer=quantizer)
            assert np.array_equal(found, quantizer.quantize(rows, precision))
            default = model.quantizer()
            found = model.encode(TEXTS, precision=precision)
            assert np.array_equal(found, default.quantize(rows, precision))
            with pytest.raises(TypeError, match="normalize=False needs quantizer="):
                model.encode(TEXTS, precision=precision, normalize=False)
            with pytest.raises(TypeError, match="quantizer is str, expected a Quantizer"):
                model.encode(TEXTS, precision=precision, quantizer="q")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="has dim=128, and this call has dim=64"):
                model.encode(TEXTS, dim=64, precision=precision, quantizer=quantizer)
        assert model.encode("x", precision="int8", quantizer=quantizer).shape == (HIDDEN,)
        assert model.encode("x", precision="binary", quantizer=quantizer).shape == (HIDDEN // 8,)
        for precision in ("float32", "float16"):
            with pytest.raises(TypeError, match=f"precision is '{precision}', expected"):
                model.encode(TEXTS, precision=precision, quantizer=quantizer)
        with pytest.raises(ValueError, match="precision='int4'"):
            model.encode(TEXTS, precision="int4")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="out= needs precision='float32', found 'float16'"):
            model.encode("x", precision="float16", out=np.empty(HIDDEN, np.float32))


class TestPrompts:
    def test_document_is_the_default(self, model: Embedder, rows: Any) -> None:
        assert np.array_equal(model.encode_document(TEXTS), rows)
        assert np.array_equal(model.encode(TEXTS, prompt=""), rows)

    def test_instruction_is_a_prefix(self, model: Embedder) -> None:
        expected = model.encode(["Instruct: Find it\nQuery:" + text for text in TEXTS])
        assert np.array_equal(model.encode(TEXTS, instruction="Find it"), expected)
        assert np.array_equal(model.encode_document(TEXTS, instruction="Find it"), expected)
        assert np.array_equal(model.encode_query(TEXTS, instruction="Find it"), expected)
        assert model.count_tokens(TEXTS[0], instruction="Find it") == model.count_tokens(
            "Instruct: Find it\nQuery:" + TEXTS[0]
        )

    def test_query_uses_the_official_prompt(self, model: Embedder) -> None:
        prompt = (
            "Instruct: Given a web search query, retrieve relevant passages that answer the query"
            "\nQuery:"
        )
        expected = model.encode([prompt + text for text in TEXTS])
        assert np.array_equal(model.encode_query(TEXTS), expected)
        assert np.array_equal(model.encode(TEXTS, prompt_name="query"), expected)
        assert np.array_equal(model.encode(TEXTS, prompt_name="web_search"), expected)
        assert (
            model.prompts["query"]
            == prompt
            == instruct_prompt(qwen3_embed.INSTRUCTIONS["web_search"])
        )

    def test_two_at_once(self, model: Embedder) -> None:
        for call in (model.encode, model.encode_query, model.count_tokens):
            with pytest.raises(TypeError, match="prompt and prompt_name are given at once"):
                call("x", prompt="a", prompt_name="query")
        with pytest.raises(ValueError, match="'nope' is unknown"):
            model.encode("x", prompt_name="nope")


class TestSentenceTransformersNames:
    def test_understood(self, model: Embedder, rows: Any) -> None:
        assert np.array_equal(
            model.encode(
                TEXTS,
                batch_size=8,
                convert_to_numpy=True,
                convert_to_tensor=False,
                show_progress_bar=False,
                truncate_dim=None,
            ),
            rows,
        )
        assert np.array_equal(model.encode(TEXTS, truncate_dim=64), model.encode(TEXTS, dim=64))
        assert np.array_equal(
            model.encode(TEXTS, normalize_embeddings=False), model.encode(TEXTS, normalize=False)
        )
        assert np.array_equal(
            model.encode_query("q", normalize_embeddings=True), model.encode_query("q")
        )

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"dim": 64, "truncate_dim": 64}, "dim and truncate_dim are given at once"),
            ({"normalize": True, "normalize_embeddings": True}, "normalize and normalize_embedd"),
            ({"normalize": False, "normalize_embeddings": False}, "given at once"),
            ({"output_value": "token_embeddings"}, "single tokens"),
            ({"device": "cuda"}, "when the model is opened"),
            ({"pool": {}}, "a list of GPUs"),
            ({"chunk_size": 3}, "leave it out"),
            ({"normalise": True}, "unexpected keyword argument 'normalise'"),
        ],
    )
    def test_refused(self, model: Embedder, options: Any, words: str) -> None:
        for call in (model.encode, model.encode_query, model.encode_document):
            with pytest.raises(TypeError, match=words):
                call("x", **options)
        with pytest.raises(TypeError, match=words):
            model.encode_iter(["x"], **options)


class TestSimilarity:
    def test_against_numpy(self, model: Embedder) -> None:
        rng = np.random.default_rng(3)
        a, b = rng.standard_normal((4, 16)), rng.standard_normal((3, 16))
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
        found = model.similarity(a, b)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, unit[0] @ unit[1].T, atol=1e-6)
        pairs = model.similarity_pairwise(a[:3], b)
        assert pairs.shape == (3,)
        np.testing.assert_allclose(pairs, np.diag(found[:3]), atol=1e-6)

    def test_lists_single_vectors_and_bytes(self, model: Embedder) -> None:
        assert model.similarity([1, 0], [[3, 4]]).tolist() == [[pytest.approx(0.6)]]
        found = model.similarity(np.array([[-128, 127]], np.int8), np.array([[1, 0]], np.int8))
        assert found[0, 0] == pytest.approx(-128 / np.hypot(128, 127))

    def test_zeros_have_no_direction(self, model: Embedder) -> None:
        assert model.similarity([[0.0, 0.0]], [[1.0, 0.0]]).tolist() == [[0.0]]

    def test_any_length_has_a_direction(self, model: Embedder) -> None:
        for length in (1e30, 1e-30):
            vector = [3 * length, 4 * length]
            assert model.similarity(vector, [[1.0, 0.0]])[0, 0] == pytest.approx(0.6)
            assert model.similarity_pairwise(vector, vector)[0] == pytest.approx(1)

    def test_refused(self, model: Embedder) -> None:
        with pytest.raises(ValueError, match="a has dim 2 and b has dim 3"):
            model.similarity([[1, 2]], [[1, 2, 3]])
        with pytest.raises(ValueError, match="a has 1 rows and b has 2"):
            model.similarity_pairwise([[1, 2]], [[1, 2], [3, 4]])
        with pytest.raises(ValueError, match=r"shape \(1, 1, 2\)"):
            model.similarity([[[1, 2]]], [[1, 2]])
        with pytest.raises(TypeError, match="a has dtype"):
            model.similarity(["x"], [[1.0]])  # type: ignore[list-item]


def test_import_is_light() -> None:
    """`import qwen3_embed` loads neither NumPy nor the extension, and names resolve."""
    code = (
        "import sys; before = set(sys.modules)  # .pth files of other packages import things\n"
        "import qwen3_embed\n"
        "heavy = ('numpy', 'tokenizers', 'huggingface_hub', 'tqdm', 'typing', 'json',\n"
        "         'qwen3_embed._core', 'qwen3_embed.embedder')\n"
        "assert not [m for m in heavy if m in sys.modules and m not in before]\n"
        "assert set(qwen3_embed.__all__) <= set(dir(qwen3_embed))\n"
        "for name in qwen3_embed.__all__: getattr(qwen3_embed, name)\n"
        "light = set(sys.modules) - before\n"
        "assert not light & {'tokenizers', 'huggingface_hub', 'tqdm'}\n"
        "try: qwen3_embed.nope\n"
        "except AttributeError as error: assert 'nope' in str(error)\n"
    )
    subprocess.run(
        [sys.executable, "-S", "-c", "import site; site.main()\n" + code], check=True, timeout=60
    )


def test_version_is_that_of_the_distribution() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    content = tomllib.load(io.BytesIO(project.read_bytes()))
    version = content["project"].get("version")
    if version is None:  # taken from the package itself
        assert content["tool"]["setuptools"]["dynamic"]["version"]
    else:
        assert version == qwen3_embed.__version__


def test_docstring_examples() -> None:
    import doctest

    from qwen3_embed import embedder, templates
    from qwen3_embed.retrieval import quantizer, similarity

    for module in (embedder, quantizer, similarity, templates):
        failed, tried = doctest.testmod(module)
        assert failed == 0
        assert tried > 0, module
