"""Fixtures that many tests share: model folders, made once per session, and one opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before NumPy is imported: a second thread for the reference's small products mostly waits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.support.make_model import make_model

if os.environ.get("QE_TEST_DEVICE", "cpu") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that device="auto" is the CPU everywhere

from qwen3_embed import Embedder

# The same examples in every run, so that a failure comes back, on slow machines too.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ModelMaker = Callable[..., Path]

# The files that take longest begin first, so that two workers end together.
LONGEST = (
    *("threads", "c_mutants", "hub", "reranker", "int8", "gguf", "faults", "other_clients"),
    *("server", "evaluation", "integrations", "cli", "token_stream", "tokenizer"),
)

TEXTS = ["The capital of China is Beijing.", "", "重力", "x = [i**2 for i in range(9)]", "🦊 " * 30]
HIDDEN = 128


class Skipped:
    """Remembers what a run of all tests skipped, for --skipped with more packages."""

    KEY = "qwen3_embed/skipped"

    def __init__(self) -> None:
        self.names: set[str] = set()  # of tests, and of files whose import was skipped

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.names.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.names.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        assert session.config.cache is not None
        session.config.cache.set(self.KEY, sorted(self.names))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skipped", action="store_true", help="what the last whole run skipped")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist, which would sort by count
        config.option.loadscopereorder = False
    is_worker = hasattr(config, "workerinput")
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if is_whole and not is_worker and not config.option.skipped:
        config.pluginmanager.register(Skipped())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.skipped:
        assert config.cache is not None
        names = set(config.cache.get(Skipped.KEY, []))
        items[:] = [i for i in items if names & {i.nodeid, i.nodeid.partition("::")[0]}]
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own cache is left alone; a GPU's plans there take long to measure."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("QE_TEST_DEVICE", "cpu") == "cpu":
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelMaker:
    """models(shape, **options) -> a folder from make_model; don't change what is in it."""
    folders: dict[str, Path] = {}

    def folder_of(shape: str = "tiny64", **options: Any) -> Path:
        key = repr((shape, sorted(options.items())))
        if key not in folders:
            folders[key] = make_model(tmp_path_factory.mktemp(shape), shape, **options)
        return folders[key]

    return folder_of


@pytest.fixture(scope="module")
def folder(models: ModelMaker) -> Path:
    return models("tiny64")


@pytest.fixture(scope="session")
def poisoned_folder(models: ModelMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedding of the byte "~" is NaN: texts with it give NaN, others don't."""
    made = make_model(tmp_path_factory.mktemp("nan"), "tiny64")
    path = made / "model.safetensors"
    content = bytearray(path.read_bytes())
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    with Embedder(made) as clean:
        token = int(clean.tokenizer.encode(["~"]).tokens[0])
    begin = 8 + header_bytes + header["embed_tokens.weight"]["data_offsets"][0]
    begin += token * HIDDEN * 2
    content[begin : begin + 2] = b"\xc0\x7f"
    path.write_bytes(content)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Embedder]:
    with Embedder(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(model: Embedder) -> Any:
    return model.encode(TEXTS)
