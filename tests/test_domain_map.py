"""Domain maps: the formula, the gate, updates, files, and an Embedder with one."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DomainMap, Embedder, Reranker, fit_domain
from qwen3_embed.errors import ModelFileError
from qwen3_embed.retrieval.whitening import (
    FixedMatrix,
    Moments,
    apply_matrix,
    fit_components,
    fit_matrix,
)
from tests.conftest import HIDDEN

DIM = 96
TEXTS = [f"{word} {i}" for i in range(30) for word in ("river", "苹果")]


class Encoder:
    """A model whose vectors are made: "q3" and "d3" are one topic with noise.

    `common` is the size of eight directions in which all texts vary; `spread` that of the last
    dimension, where the first has 1.
    """

    dim = DIM
    name = "made"
    fingerprint = "0123456789abcdef"
    projection = None

    def __init__(self, common: float, spread: float = 1.0, noise: float = 0.7) -> None:
        random = np.random.default_rng(4)
        self.topics = random.standard_normal((5000, DIM)) * np.linspace(1, spread, DIM)
        self.noise = noise
        self.common = common * random.standard_normal((8, DIM))

    def _encode(self, texts: list[str]) -> Any:
        rows = []
        for text in texts:
            own = np.random.default_rng([int(text[1:]), ord(text[0])])
            shared = own.standard_normal(8) @ self.common
            rows.append(self.topics[int(text[1:])] + shared + self.noise * own.standard_normal(DIM))
        found = np.array(rows, np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    encode_query = encode_document = _encode


def pairs_of(*numbers: int) -> list[tuple[str, str]]:
    return [(f"q{i}", f"d{i}") for i in range(*numbers)]


def test_formula() -> None:
    """C ** -1/4 of the shrunk, uncentred second moment, whose fourth power inverts it."""
    rows = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32) + 1
    moments = Moments.zero(6)
    moments.add_texts(rows)
    moment = rows.T.astype(np.float64) @ rows / 50
    shrunk = 0.9 * moment + 0.1 * np.trace(moment) / 6 * np.eye(6)
    matrix = fit_matrix(moments, 0.25)
    # The scale is free: rows are normalised afterwards.
    product = np.linalg.matrix_power(matrix, 4) @ shrunk
    np.testing.assert_allclose(product, np.eye(6) * product[0, 0], atol=1e-10)
    np.testing.assert_allclose(matrix, matrix.T)


def test_components_are_uncentred_and_ordered() -> None:
    rows = (np.random.default_rng(2).standard_normal((80, 70)) * np.arange(70, 0, -1) + 3).astype(
        np.float32
    )
    moments = Moments.zero(70)
    moments.add_texts(rows)
    for matrix in (None, fit_matrix(moments, 0.25)):
        components = fit_components(moments, matrix)
        assert components.shape == (70, 63)
        squares = ((rows @ components) ** 2).sum(axis=0)
        assert (np.diff(squares) <= 1e-6 * squares[0]).all()
        projected = rows @ components
        correlations = projected.T @ projected
        np.testing.assert_allclose(correlations, np.diag(squares), atol=1e-5 * squares[0])


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((53, 200)).astype(np.float32)
    matrix = random.standard_normal((200, 200)).astype(np.float32)
    fixed = FixedMatrix.of(matrix)
    for dim in (200, 63, 1):
        whole = apply_matrix(rows, fixed, dim, normalize=True)
        for start, stop in [(0, 1), (5, 6), (7, 40), (16, 53), (52, 53)]:
            part = apply_matrix(rows[start:stop], fixed, dim, normalize=True)
            assert np.array_equal(part, whole[start:stop])
        assert np.array_equal(apply_matrix(rows[::-1], fixed, dim, normalize=True), whole[::-1])
    whole = apply_matrix(rows, fixed, 200, normalize=True)
    expected = rows.astype(np.float64) @ matrix
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # 200 products, each with errors of 2**-23 and 2**-24 of the largest values, which are below 5
    # times the others'; beside each other by chance.
    np.testing.assert_allclose(whole, expected, atol=200**0.5 * 5 * 2.0**-22)


def test_kept_where_it_helps_and_declined_where_not() -> None:
    """A strong common direction hides the topics; without one there is nothing to gain."""
    helped = fit_domain(Encoder(common=1.5), pairs_of(300))
    assert helped.matrix is not None
    assert helped.report.startswith("kept: nDCG@10 on 300 pairs ")
    for seed in range(5):
        plain = fit_domain(Encoder(common=0), pairs_of(300 * seed, 300 * seed + 300))
        assert plain.matrix is None
        assert plain.report.startswith("declined: nDCG@10 on 300 pairs ")
        assert "python -m training.lora.train" in plain.report


def test_held_out_pairs_and_texts() -> None:
    encoder = Encoder(common=1.5)
    texts = [text for pair in pairs_of(150) for text in pair]
    domain = fit_domain(encoder, texts, held_out=pairs_of(1000, 1200))
    assert domain.matrix is not None
    assert "on 200 pairs" in domain.report
    assert "fitted on 300 texts" in domain.report
    unmeasured = fit_domain(encoder, texts)
    assert not unmeasured.is_kept
    assert "not measured" in str(unmeasured)
    assert not fit_domain(encoder, texts, held_out=pairs_of(19)).is_kept


def test_components_are_kept_where_they_help() -> None:
    """The first dimensions hold less than the last ones."""
    domain = fit_domain(Encoder(common=0, spread=4, noise=2.5), pairs_of(400))
    assert domain.components is not None
    assert "Principal components kept for dims below 64" in domain.report
    rows = Encoder(common=0, spread=4, noise=2.5).encode_query(["q1", "q2"])
    small = domain.apply(rows, 32)
    expected = rows @ domain.components[:, :32]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(small, expected, atol=1e-6)
    if domain.matrix is None:
        np.testing.assert_allclose(domain.apply(rows, 64), unit(rows[:, :64]), atol=1e-6)


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_update_in_ten_parts(kind: str, tmp_path: Path) -> None:
    """Equal to one fit; a file in between loses no more than float32's rounding."""
    encoder = Encoder(common=1.5)
    examples: list[Any] = pairs_of(300)
    held_out = None
    if kind == "texts":
        examples = [text for pair in examples for text in pair]
        held_out = pairs_of(1000, 1200)
    whole = fit_domain(encoder, examples, held_out=held_out)
    step = len(examples) // 10
    domain = fit_domain(encoder, examples[:step], held_out=held_out)
    for start in range(step, len(examples), step):
        domain.update(encoder, iter(examples[start : start + step]))
        domain.save(tmp_path / "d.safetensors")
        domain = DomainMap.load(tmp_path / "d.safetensors")
    assert whole.matrix is not None
    assert domain.matrix is not None
    scale = np.abs(whole.matrix).max()
    np.testing.assert_allclose(domain.matrix, whole.matrix, atol=1e-5 * scale)
    assert domain.report == whole.report
    assert domain.moments.n_texts == 600


@pytest.fixture(scope="module")
def domain(folder: Path) -> DomainMap:
    """A map with random matrices for the random model."""
    random = np.random.default_rng(5)
    with Embedder(folder) as model:
        return DomainMap(
            model.fingerprint,
            0.25,
            Moments.zero(HIDDEN),
            np.empty((0, HIDDEN), np.float32),
            np.empty((0, HIDDEN), np.float32),
            held_out=False,
            matrix=random.standard_normal((HIDDEN, HIDDEN)),
            components=random.standard_normal((HIDDEN, 63)),
            report="made",
        )


def test_embedder(folder: Path, domain: DomainMap, tmp_path: Path) -> None:
    """Mapped stored rows are those of embedding again, to the bit, in every form of encode."""
    path = tmp_path / "d.safetensors"
    domain.save(path)
    with Embedder(folder) as plain, Embedder(folder, projection=path) as mapped:
        stored = plain.encode(TEXTS)
        assert np.array_equal(mapped.encode(TEXTS), domain.apply(stored))
        for dim in (100, 64, 63, 32):
            assert np.array_equal(mapped.encode(TEXTS, dim=dim), domain.apply(stored, dim))
        assert np.array_equal(mapped.encode(TEXTS[3]), domain.apply(stored[3]))
        parts = list(mapped.encode_iter(iter(TEXTS), chunk=7, dim=50))
        assert np.array_equal(np.concatenate(parts), domain.apply(stored, 50))
        raw = domain.apply(plain.encode(TEXTS, normalize=False), normalize=False)
        assert np.array_equal(mapped.encode(TEXTS, normalize=False), raw)
        batch = mapped.tokenizer.encode(TEXTS)
        rows = mapped.encode_tokens(batch.tokens, batch.cu_seqlens, 40)
        assert np.array_equal(rows, domain.apply(stored, 40))
        out = np.zeros((len(TEXTS), HIDDEN), np.float32)
        mapped.encode(TEXTS, out=out)
        assert np.array_equal(out, domain.apply(stored))
        assert mapped.fingerprint != plain.fingerprint
        assert mapped.projection is not None
        with pytest.raises(ValueError, match="a projection fits one adapter"):
            mapped.add_adapter("x", "nowhere")
        with pytest.raises(ValueError, match="the model has a projection"):
            fit_domain(mapped, TEXTS)
        with pickle.loads(pickle.dumps(mapped)) as again:
            assert again.fingerprint == mapped.fingerprint
            assert np.array_equal(again.encode(TEXTS[:3]), domain.apply(stored[:3]))


def test_cache_keeps_them_apart(folder: Path, domain: DomainMap, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    with Embedder(folder, cache=cache) as plain:
        stored = plain.encode(TEXTS)
    for _ in range(2):
        with Embedder(folder, cache=cache, projection=domain) as mapped:
            assert np.array_equal(mapped.encode(TEXTS), domain.apply(stored))
            assert np.array_equal(mapped.encode(TEXTS, dim=32), domain.apply(stored, 32))


def test_declined_changes_nothing(folder: Path, caplog: Any) -> None:
    with Embedder(folder) as plain:
        declined = fit_domain(plain, TEXTS)
        with caplog.at_level(logging.WARNING), Embedder(folder, projection=declined) as mapped:
            assert np.array_equal(mapped.encode(TEXTS), plain.encode(TEXTS))
            assert mapped.fingerprint == plain.fingerprint
    assert "leaves vectors as they are: declined: not measured" in caplog.text


def test_models_refused(folder: Path, domain: DomainMap, models: Any) -> None:
    with pytest.raises(ValueError, match="fitted for a model with fingerprint"):
        Embedder(folder, projection=domain, max_length=16)
    with pytest.raises(TypeError, match="takes no projection="):
        Reranker(folder, projection=domain)
    with pytest.raises(ValueError, match="fit it again for this model"):
        domain.update(Encoder(1), TEXTS)


def test_arguments_refused(domain: DomainMap) -> None:
    encoder = Encoder(1)
    calls: list[tuple[Any, Any, str]] = [
        (lambda: fit_domain(encoder, []), ValueError, "no examples"),
        (lambda: fit_domain(encoder, ["q1"], power=0), ValueError, "power=0"),
        (lambda: fit_domain(encoder, ["q1", ("q", "d")]), TypeError, "an example is tuple"),  # type: ignore[list-item]
        (lambda: fit_domain(encoder, [("q1", "d1"), "q"]), TypeError, r"expected \(query,"),  # type: ignore[list-item]
        (lambda: fit_domain(encoder, ["q1"], held_out=[("q",)]), TypeError, "expected"),  # type: ignore[list-item]
        (lambda: domain.apply(np.ones((2, 3))), ValueError, "a map takes full vectors"),
        (lambda: domain.apply(np.ones((2, HIDDEN), np.int8)), TypeError, "expected a float"),
        (lambda: domain.apply(np.ones(HIDDEN), 0), ValueError, "dim=0, expected 1"),
    ]
    for call, error, words in calls:
        with pytest.raises(error, match=words):
            call()


def test_files_refused(domain: DomainMap, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "d.safetensors"
    with pytest.raises(ModelFileError, match="not a domain map"):
        DomainMap.load(folder / "model.safetensors")
    path.write_bytes(b"12345678")
    with pytest.raises(ModelFileError):
        DomainMap.load(path)
    domain.save(path)
    good = path.read_bytes()
    for old, new, words in [
        (b'"format":"1"', b'"format":"2"', "another format"),
        (b'"power":"0.25"', b'"power":"nan."', "not a domain map"),
        (b'"n_texts":"0"', b'"n_texts":"x"', "not a domain map"),
        (b"[128,63]", b"[63,128]", "components has shape"),
    ]:
        assert old in good
        path.write_bytes(good.replace(old, new))
        with pytest.raises(ModelFileError, match=words):
            DomainMap.load(path)
    path.write_bytes(good[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(ModelFileError, match="components holds a value that is not finite"):
        DomainMap.load(path)


def test_server(folder: Path, domain: DomainMap, tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("httptools")
    from tests.support.served import Served

    path = tmp_path / "d.safetensors"
    domain.save(path)
    served = Served("--model", str(folder), "--projection", str(path))
    try:
        body = {"model": folder.name, "input": TEXTS[:5], "dimensions": 40}
        answer = httpx.post(f"{served.url}/v1/embeddings", json=body).json()
    finally:
        served.stop()
    with Embedder(folder) as plain:
        expected = domain.apply(plain.encode(TEXTS[:5]), 40)
    found = np.array([entry["embedding"] for entry in answer["data"]], np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def last_half(path: Path) -> None:
    """A file with the map for mini that keeps the last 128 dimensions alone."""
    with Embedder("mini") as model:
        made = DomainMap(
            model.fingerprint,
            0.25,
            Moments.zero(256),
            np.empty((0, 256), np.float32),
            np.empty((0, 256), np.float32),
            held_out=False,
            matrix=np.diag(np.r_[np.zeros(128), np.ones(128)]),
            report="made",
        )
    made.save(path)


def test_search(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other scores with a map, kept apart from those without in the remembered vectors."""
    from qwen3_embed.cli import main

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    last_half(tmp_path / "d.safetensors")
    (tmp_path / "a.txt").write_text("gzip compresses a file\ngit takes back a commit\n")
    told = []
    for options in ([], ["--projection", str(tmp_path / "d.safetensors")], []):
        assert main(["search", str(tmp_path / "a.txt"), "make it smaller", *options]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[2] != told[1]


def test_evaluate(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ir_measures")
    from qwen3_embed.cli import main

    last_half(tmp_path / "d.safetensors")
    assert main(["evaluate", "zh-en", "--projection", str(tmp_path / "d.safetensors")]) == 0
    assert "mini + map: 256 dims" in capsys.readouterr().out.replace("dimensions", "dims")
