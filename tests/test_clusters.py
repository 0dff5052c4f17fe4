"""Ray Data and Spark in local mode, with the real packages, where they are installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, Embedder

PACKAGE = Path(__file__).resolve().parents[1]
N_TEXTS = 300
TEXTS = [f"{word} {i}" for i in range(N_TEXTS // 3) for word in ("重力", "a note of", "def f(x):")]


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Workers are new processes: they find the package where this process does."""
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PACKAGE), *before]))
        yield patch


@pytest.fixture(scope="module")
def ray(environment: pytest.MonkeyPatch) -> Iterator[Any]:
    """With a GPU in its books, whether or not there is one."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        ray.init(
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def spark(environment: pytest.MonkeyPatch) -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql")
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
        pytest.skip("no Java here")
    environment.setenv("PYSPARK_PYTHON", sys.executable)
    session = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


class TestRay:
    def test_vectors_of_two_actors(self, ray: Any, folder: Path, model: Embedder) -> None:
        """Every row's vector is its own text's, bit for bit, whichever actor made it."""
        from qwen3_embed.integrations.ray import Qwen3Encoder

        dataset = ray.data.from_items(
            [{"n": i, "body": text} for i, text in enumerate(TEXTS)], override_num_blocks=6
        )
        settings = {"model": str(folder), "column": "body", "output": "vector", "dim": 64}
        found = dataset.map_batches(
            Qwen3Encoder,
            fn_constructor_kwargs=settings,
            batch_size=32,
            compute=ray.data.ActorPoolStrategy(size=2),
        ).take_all()
        assert len(found) == N_TEXTS
        expected = model.encode_document(TEXTS, dim=64)
        for row in found:
            assert row["body"] == TEXTS[row["n"]]
            assert np.array_equal(row["vector"], expected[row["n"]])
        assert sorted(row["n"] for row in found) == list(range(N_TEXTS))

    def test_parquet_to_parquet(
        self, ray: Any, folder: Path, model: Embedder, tmp_path: Path
    ) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        from qwen3_embed.integrations.ray import Qwen3Encoder

        parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "texts.parquet")
        ray.data.read_parquet(str(tmp_path / "texts.parquet")).map_batches(
            Qwen3Encoder,
            fn_constructor_kwargs={"model": str(folder), "instruction": "Find it"},
            compute=ray.data.ActorPoolStrategy(size=1),
        ).write_parquet(str(tmp_path / "vectors"))
        found = ray.data.read_parquet(str(tmp_path / "vectors")).take_all()
        expected = model.encode(TEXTS, instruction="Find it")
        by_text = {row["text"]: row["embedding"] for row in found}
        assert len(found) == N_TEXTS
        assert all(np.array_equal(by_text[text], expected[i]) for i, text in enumerate(TEXTS))

    def test_an_actor_uses_what_it_was_given(self, ray: Any, folder: Path) -> None:
        from qwen3_embed.integrations.ray import Qwen3Encoder

        def told(**settings: Any) -> Any:
            try:
                return Qwen3Encoder(str(folder), settings=settings).embedder.info
            except DeviceError:
                return {"device": "cuda, which is not here"}

        remote = ray.remote(told)
        assert ray.get(remote.options(num_cpus=2).remote())["num_threads"] == 2
        info = ray.get(remote.options(num_cpus=1).remote())
        assert (info["num_threads"], info["device"]) == (1, "cpu")
        assert ray.get(remote.options(num_cpus=2).remote(num_threads=1))["num_threads"] == 1
        assert ray.get(remote.options(num_gpus=1).remote())["device"].startswith("cuda")


class TestSpark:
    def test_vectors_of_two_workers(self, spark: Any, folder: Path, model: Embedder) -> None:
        """Every row's vector is its own text's, bit for bit, whichever worker made it."""
        from qwen3_embed.integrations.spark import embedding_udf

        table = spark.createDataFrame(list(enumerate(TEXTS)), ["n", "text"]).repartition(4)
        embed = embedding_udf(str(folder), dim=64, batch_size=32)
        found = table.withColumn("vector", embed("text")).collect()
        assert sorted(row["n"] for row in found) == list(range(N_TEXTS))
        expected = model.encode_document(TEXTS, dim=64)
        for row in found:
            assert np.array_equal(np.array(row["vector"], np.float32), expected[row["n"]])

    def test_instruction_and_parquet(
        self, spark: Any, folder: Path, model: Embedder, tmp_path: Path
    ) -> None:
        from qwen3_embed.integrations.spark import embedding_udf

        path = str(tmp_path / "vectors")
        table = spark.createDataFrame([(text,) for text in TEXTS[:9]], ["text"])
        embed = embedding_udf(str(folder), instruction="Find it")
        table.withColumn("embedding", embed("text")).write.parquet(path)
        found = {row["text"]: row["embedding"] for row in spark.read.parquet(path).collect()}
        expected = model.encode(TEXTS[:9], instruction="Find it")
        for i, text in enumerate(TEXTS[:9]):
            assert np.array_equal(np.array(found[text], np.float32), expected[i])

    def test_a_task_uses_its_cpus(self, spark: Any, folder: Path) -> None:
        """A task of one CPU, as is Spark's default, has an engine of one thread."""
        from qwen3_embed.integrations.spark import _given_to_task

        assert _given_to_task() == {}
        given = spark.sparkContext.parallelize([0], 1).map(lambda _: _given_to_task()).collect()
        assert given == [{"device": "cpu", "num_threads": 1}]

    def test_a_null_is_an_error_that_says_so(self, spark: Any, folder: Path) -> None:
        """It comes as None, or from pandas 3 on as a float that is NaN."""
        from pyspark.errors import PythonException

        from qwen3_embed.integrations.spark import embedding_udf

        table = spark.createDataFrame([("a",), (None,)], "text string").coalesce(1)
        with pytest.raises(PythonException, match=r"texts\[1\] is \w+, expected str"):
            table.select(embedding_udf(str(folder))("text")).collect()
