"""The embedded model: one folder, three readers, the same vectors; and vectors that mean something.

The tolerance is that of test_parity.py: Transformers in fp32 is the truth, and the engine must
not be further from it than Transformers in bf16, which rounds at more places. What is asked of
the meanings is far above chance and below what the model card reports.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import qwen3_embed
from qwen3_embed import Embedder, Quantizer
from qwen3_embed.cli import main
from tests.support.texts import parity_texts, text_of
from tests.test_cli import scale_tensor

FOLDER = Path(qwen3_embed.__file__).parent / "models" / "mini"
DIMS = (32, 64, 128, 256)
MAX_BYTES = 20_000_000
LONG = 2048

# (document, queries that ask for it)
KNOWLEDGE = {
    "git reset --soft HEAD~1 takes back the last commit and keeps the changes": (
        "how do I undo a commit",
        "revert the latest commit",
    ),
    "ls -lS sorts the files in a directory by their size, the largest first": (
        "list big files",
        "which command shows large files first",
    ),
    "Boil the eggs for six minutes, then put them into cold water": ("how to cook an egg",),
    "gzip compresses a file; gunzip restores it": ("make a file smaller", "decompress an archive"),
    "The mail server rejects messages larger than 25 megabytes": ("email attachment size limit",),
    "Use ssh-keygen to create a new pair of keys for remote login": ("generate an ssh key",),
    "A red deer is a large wild animal that lives in forests": ("wild animals",),
    "The violin is a musical instrument with four strings": ("musical instruments",),
    "The printer is out of paper and its queue has stopped": ("why can't I print",),
    "def mean(values):\n    return sum(values) / len(values)": ("compute the average of numbers",),
    "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()": (
        "read a text file line by line",
    ),
    "播放音乐和视频的多媒体播放器": ("音乐播放器", "music and video player"),
    "一个用于编辑图片的图形程序": ("图像编辑器", "image editor"),
    "浏览网页的软件": ("网页浏览器", "web browser"),
    "删除目录及其中所有文件": ("如何删除文件夹", "delete a folder"),
    "设置系统的时间和日期": ("修改系统时间", "change the system clock"),
}
DOCUMENTS = list(KNOWLEDGE)
QUERIES = [(query, i) for i, queries in enumerate(KNOWLEDGE.values()) for query in queries]
RIGHT = np.array([i for _, i in QUERIES])

Floats = npt.NDArray[np.floating]


@pytest.fixture(scope="module")
def model() -> Embedder:
    return Embedder("mini")


def hit_rate(queries: Floats, documents: Floats) -> float:
    """The share of queries that rank their document first."""
    found = np.asarray(Embedder.similarity(queries, documents)).argmax(axis=1)
    return float(np.mean(found == RIGHT))


@pytest.fixture(scope="module")
def vectors(model: Embedder) -> tuple[Floats, Floats]:
    """Full vectors of the queries and of the documents."""
    queries = model.encode_query([query for query, _ in QUERIES])
    return queries, model.encode_document(DOCUMENTS)


class TestMeaning:
    # By chance it would be 0.06.
    @pytest.mark.parametrize(("dim", "at_least"), [(256, 0.75), (128, 0.7), (64, 0.6), (32, 0.5)])
    def test_queries_find_their_document(
        self, model: Embedder, vectors: tuple[Floats, Floats], dim: int, at_least: float
    ) -> None:
        queries, documents = vectors
        assert hit_rate(queries[:, :dim], documents[:, :dim]) >= at_least
        rows = model.encode_document(DOCUMENTS, dim=dim)
        cut = documents[:, :dim] / np.linalg.norm(documents[:, :dim], axis=1, keepdims=True)
        np.testing.assert_allclose(rows, cut, rtol=0, atol=1e-6)  # fp32, unit rows

    def test_quantised_vectors_keep_the_ranks(
        self, model: Embedder, vectors: tuple[Floats, Floats]
    ) -> None:
        """A step of int8 is far below the gaps between vectors, fitted or not."""
        queries, documents = vectors
        exact = hit_rate(queries, documents)
        rows = [side.astype(np.float32) for side in vectors]
        for quantizer in (Quantizer.fit(np.concatenate(rows)), model.quantizer()):
            codes = [quantizer.quantize(side, "int8").astype(np.float32) for side in rows]
            assert hit_rate(*codes) >= exact - 1 / len(QUERIES)
        bits = np.where(documents > 0, 1.0, -1.0)
        assert hit_rate(queries, bits) >= 0.6 * exact

    def test_translations_are_near(self, model: Embedder) -> None:
        pairs = [("save the file", "保存文件"), ("open a window", "打开窗口"), ("network", "网络")]
        english, chinese = (model.encode(list(side)) for side in zip(*pairs, strict=True))
        cosines = model.similarity(english, chinese)
        assert (cosines.argmax(axis=1) == np.arange(len(pairs))).all(), cosines


class TestFolder:
    def test_files(self) -> None:
        files = {
            str(path.relative_to(FOLDER)): path for path in FOLDER.rglob("*") if path.is_file()
        }
        assert set(files) == {
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "verify.json",
        }
        assert sum(path.stat().st_size for path in files.values()) <= MAX_BYTES

    def test_shape(self, model: Embedder) -> None:
        config = json.loads((FOLDER / "config.json").read_text())
        assert config["model_type"] == "qwen3"
        assert config["head_dim"] == 128
        assert config["tie_word_embeddings"] is True
        assert 12_000 <= config["vocab_size"] <= 24_000
        assert model.dim in (256, 384)
        assert model.max_length >= LONG
        assert model.name == "mini"

    def test_needs_no_network(self) -> None:
        """Not even a look: no socket is made, and the hub's client isn't imported."""
        code = (
            "import socket, sys\n"
            "def refuse(*_, **__): raise OSError('no network')\n"
            "socket.socket.__init__ = socket.getaddrinfo = refuse\n"
            "from qwen3_embed import Embedder\n"
            "assert Embedder('mini').encode('a').any()\n"
            "assert 'huggingface_hub' not in sys.modules\n"
        )
        subprocess.run(
            [sys.executable, "-c", code], check=True, timeout=60, env=child_environment()
        )

    def test_shipped_vectors(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", "--model", "mini"]) == 0
        assert "MISS" not in capsys.readouterr().out
        changed = shutil.copytree(FOLDER, tmp_path / "changed")
        scale_tensor(changed, "layers.3.mlp.down_proj.weight", 1.1)
        assert main(["verify", "--model", str(changed)]) == 1


def child_environment() -> dict[str, str]:
    """For a process that imports this package from where it was imported here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def unit(rows: Floats, dim: int) -> npt.NDArray[np.float64]:
    cut = rows[:, :dim].astype(np.float64)
    scaled: npt.NDArray[np.float64] = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return scaled


def distances(rows: Floats, expected: Floats, dim: int) -> npt.NDArray[np.float64]:
    """1 - cos in the first `dim` dimensions, exact near 0."""
    squares: npt.NDArray[np.float64] = np.sum((unit(rows, dim) - unit(expected, dim)) ** 2, axis=1)
    return squares / 2


@pytest.fixture(scope="module")
def texts(model: Embedder) -> list[str]:
    """English, Chinese, code and emoji, up to the 2,048 tokens that are promised."""
    texts = [text for text in parity_texts() if len(text) < 300]
    long = text_of(3, LONG + 500, seed=1)  # a mixture of all kinds, cut to the length
    n_characters = int(len(long) * LONG / int(model.count_tokens(long)))
    return [*texts, long[:n_characters]]


class TestParity:
    def test_transformers(self, model: Embedder, texts: list[str]) -> None:
        pytest.importorskip("torch")
        from tests.support.rival import Transformers, token_ids

        ids = token_ids(FOLDER, texts)
        assert model.count_tokens(texts).tolist() == list(map(len, ids))  # type: ignore[union-attr]
        assert max(map(len, ids)) > 0.95 * LONG
        expected = Transformers(FOLDER, "float32").encode_each(ids)
        rounded = Transformers(FOLDER, "bfloat16").encode_each(ids)
        for dim in DIMS:
            ours = distances(model.encode(texts, dim=dim), expected, dim)
            theirs = distances(rounded, expected, dim)
            assert ours.mean() < theirs.mean()
            assert ours.max() < theirs.max()

    def test_sentence_transformers(self, model: Embedder, texts: list[str]) -> None:
        """Its prompts, pooling, normalisation and cut at a dim, all read from the folder."""
        sentence_transformers = pytest.importorskip("sentence_transformers")

        some = texts[:-1:3]

        def rows(dtype: str, prompt_name: str, dim: int) -> Floats:
            rival = sentence_transformers.SentenceTransformer(
                str(FOLDER),
                device="cpu",
                local_files_only=True,
                truncate_dim=dim,
                model_kwargs={"dtype": dtype},
            )
            assert rival.max_seq_length >= LONG
            # One by one: padding changes the vectors of bf16.
            encoded: Floats = rival.encode(
                some, prompt_name=prompt_name, batch_size=1, normalize_embeddings=True
            )
            return encoded

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for prompt_name, dim in (("query", model.dim), ("document", 64)):
                expected = rows("float32", prompt_name, dim)
                ours = model.encode(some, prompt_name=prompt_name, dim=dim)
                assert expected.shape == ours.shape
                ours_off = distances(ours, expected, dim)
                theirs_off = distances(rows("bfloat16", prompt_name, dim), expected, dim)
                assert ours_off.mean() < theirs_off.mean()
                assert ours_off.max() < theirs_off.max()
