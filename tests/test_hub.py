"""Loading by name: the real `huggingface_hub` against a local server that speaks its routes.

Each opening is a new process, since `huggingface_hub` reads its environment when imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import Hub, Repository, serve
from tests.support.make_adapter import make_adapter
from tests.support.make_model import make_model

pytest.importorskip("huggingface_hub")

COMMIT = Repository.commit
CHILD = """
import json, sys
from qwen3_embed import Embedder
try:
    model = Embedder(**json.loads(sys.argv[1]))
except Exception as error:
    bases = [kind.__name__ for kind in type(error).__mro__]
    print(json.dumps({"error": str(error), "bases": bases}))
else:
    value = float(model.encode("a")[0])
    print(json.dumps({"name": model.name, "revision": model.revision, "value": value,
                      "fingerprint": model.fingerprint, "folder": str(model.folder)}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with files beside it that must never be fetched or run."""
    made = make_model(tmp_path_factory.mktemp("model"), "tiny64", shards=2)
    (made / "pytorch_model.bin").write_bytes(b"never")
    (made / "modeling_evil.py").write_text("raise SystemExit('ran')")
    (made / "README.md").write_text("# a model")
    return made


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    repositories = {
        "acme/open": Repository(folder),
        "acme/private": Repository(folder, token="good"),
        "acme/gated": Repository(folder, gated=True),
        "Qwen/Qwen3-Embedding-0.6B": Repository(folder),
    }
    with serve(Hub(repositories, {"good", "of-another-user"})) as running:
        yield running


class Opener:
    """Opens models in new processes over one cache."""

    def __init__(self, hub: Hub, cache: Path) -> None:
        self.hub = hub
        self.cache = cache

    def __call__(self, model: str, env: dict[str, str] | None = None, **options: Any) -> Any:
        environment = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
        environment |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "XDG_CACHE_HOME": str(self.cache / "xdg"),
        }
        self.hub.requests.clear()
        self.hub.downloads.clear()
        arguments = json.dumps({"model": model, **options})
        done = subprocess.run(
            [sys.executable, "-c", CHILD, arguments],
            env=environment | (env or {}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, model: str, *words: str, env: Any = None, **options: Any) -> str:
        """The message of the ModelNotFoundError that opening raises; it holds all `words`."""
        result = self(model, env, **options)
        assert result.get("bases", [])[:3] == [
            "ModelNotFoundError",
            "QwenEmbedError",
            "FileNotFoundError",
        ], result
        for word in (model, *words):
            assert word in result["error"]
        return str(result["error"])


@pytest.fixture
def opened(hub: Hub, tmp_path: Path) -> Opener:
    return Opener(hub, tmp_path)


def test_first_download_then_cache_then_offline(hub: Hub, opened: Opener) -> None:
    first = opened("acme/open")
    assert (first["name"], first["revision"]) == ("acme/open", COMMIT)
    assert sorted(hub.downloads) == [
        "1_Pooling/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert opened("acme/open") == first
    assert hub.downloads == []
    for options in ({"local_files_only": True}, {"env": {"HF_HUB_OFFLINE": "1"}}):
        assert opened("acme/open", **options) == first
        assert hub.requests == []
    assert opened("acme/open", revision=COMMIT, local_files_only=True) == first


def test_short_name_is_the_official_repository(opened: Opener) -> None:
    result = opened("Qwen3-Embedding-0.6B")
    assert result["name"] == "Qwen/Qwen3-Embedding-0.6B"


def test_cache_dir_argument(opened: Opener, tmp_path: Path) -> None:
    result = opened("acme/open", cache_dir=str(tmp_path / "elsewhere"))
    assert result["folder"].startswith(str(tmp_path / "elsewhere"))


def test_fingerprint_from_blob_names_is_that_of_the_content(opened: Opener) -> None:
    """The hub's cache names weights by SHA-256: the same result as reading a plain copy."""
    first = opened("acme/open")
    copy = opened.cache / "copy"
    shutil.copytree(first["folder"], copy)  # follows the links
    assert opened(str(copy))["fingerprint"] == first["fingerprint"]


def test_interrupted_download_is_taken_up_again(hub: Hub, opened: Opener) -> None:
    hub.n_cuts, hub.cut_after_bytes = 1, 100_000
    result = opened("acme/open")
    if "error" in result:  # older versions of huggingface_hub leave it to the next call
        assert "try again" in result["error"]
        result = opened("acme/open")
    assert result["revision"] == COMMIT
    assert hub.n_cuts == 0


def test_hub_that_fails(hub: Hub, opened: Opener) -> None:
    """An answer, but no use: not told as a missing network."""
    hub.fails_with = 500
    message = opened.refused("acme/open", "failed")
    assert "can't be reached" not in message


def test_download_that_never_completes(hub: Hub, opened: Opener) -> None:
    """Weights cut short each time: an error, and the next try with a sound hub succeeds."""
    hub.n_cuts, hub.cut_after_bytes = 1000, 50_000
    opened.refused("acme/open")
    hub.n_cuts = 0
    assert opened("acme/open")["revision"] == COMMIT


def test_token(opened: Opener) -> None:
    opened.refused("acme/private", "token=")
    opened.refused("acme/private", "refused the token", token="wrong")
    opened.refused("acme/private", "private", token="of-another-user")
    assert opened("acme/private", token="good")["revision"] == COMMIT


def test_token_from_the_environment(opened: Opener) -> None:
    assert opened("acme/private", env={"HF_TOKEN": "good"})["revision"] == COMMIT


def test_gated(opened: Opener) -> None:
    opened.refused("acme/gated", "gated", "accept", token="good")


def test_unknown_repository_and_revision(opened: Opener) -> None:
    opened.refused("acme/none", "no repository")
    opened.refused("acme/none", "no repository", token="good")
    opened.refused("acme/open", "no revision", revision="v9")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_missing_file(hub: Hub, opened: Opener, folder: Path, tmp_path: Path, name: str) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(folder, partial)
    (partial / name).unlink()
    hub.repositories["acme/partial"] = Repository(partial)
    opened.refused("acme/partial", name, "missing")
    # What can't be loaded isn't worth gigabytes.
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]


def test_missing_weights(hub: Hub, opened: Opener, folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(folder, partial)
    for shard in partial.glob("model*"):
        shard.unlink()
    hub.repositories["acme/partial"] = Repository(partial)
    opened.refused("acme/partial", "no weights", "pickled weights are never fetched")


def test_index_names_are_checked_before_any_fetch(
    hub: Hub, opened: Opener, folder: Path, tmp_path: Path
) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(folder, evil)
    index = {"weight_map": {"norm.weight": "../../../x.safetensors"}}
    (evil / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.repositories["acme/evil"] = Repository(evil)
    result = opened("acme/evil")
    assert "ModelFileError" in result["bases"]
    assert "'../../../x.safetensors' is refused" in result["error"]
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]


def test_config_is_refused_before_weights_are_fetched(
    hub: Hub, opened: Opener, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text()) | {"is_causal": False}
    (other / "config.json").write_text(json.dumps(config))
    hub.repositories["acme/other"] = Repository(other)
    result = opened("acme/other")
    assert "ModelFileError" in result["bases"]
    assert "is_causal is false" in result["error"]
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]


def test_no_network(hub: Hub, opened: Opener) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    advice = ("http://127.0.0.1:9 can't be reached", "HF_ENDPOINT", "hub='modelscope'", "a folder")
    opened.refused("acme/open", *advice, env=nowhere)
    opened.refused("acme/open", "network may not be used", local_files_only=True)
    opened.refused("acme/open", "network may not be used", env={"HF_HUB_OFFLINE": "1"})
    first = opened("acme/open")
    assert opened("acme/open", env=nowhere) == first


def test_damaged_cache_says_so(hub: Hub, opened: Opener) -> None:
    """An empty weight file in the cache is an error of the file, not of the network."""
    first = opened("acme/open")
    shard = next(Path(first["folder"]).glob("*.safetensors")).resolve()
    shard.write_bytes(b"")
    result = opened("acme/open", local_files_only=True)
    assert "ModelFileError" in result["bases"], result


def test_adapter_beside_the_weights_is_fetched(
    hub: Hub, opened: Opener, folder: Path, tmp_path: Path
) -> None:
    adapted = Path(shutil.copytree(folder, tmp_path / "adapted"))
    make_adapter(adapted, make_model(tmp_path / "base", "tiny64"))
    hub.repositories["acme/adapted"] = Repository(adapted)
    plain, result = opened("acme/open"), opened("acme/adapted")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.downloads)
    assert result["fingerprint"] != plain["fingerprint"]
    assert result["fingerprint"] == opened(str(adapted))["fingerprint"]
    assert opened("acme/adapted", local_files_only=True) == result


def test_adapter_alone_fetches_its_base(
    hub: Hub, opened: Opener, folder: Path, tmp_path: Path
) -> None:
    base = make_model(tmp_path / "base", "tiny64")
    alone = make_adapter(tmp_path / "alone", base, base_model_name_or_path="acme/open")
    hub.repositories["acme/alone"] = Repository(alone)
    result = opened("acme/alone")
    assert result["name"] == "acme/alone"
    assert "adapter_model.safetensors" in hub.downloads
    assert "model-00001-of-00002.safetensors" in hub.downloads
    expected = opened("acme/open", adapter=str(alone))
    assert result["value"] == expected["value"] != opened("acme/open")["value"]


def test_transformer_in_a_folder_is_fetched(
    hub: Hub, opened: Opener, folder: Path, tmp_path: Path
) -> None:
    outer = Path(shutil.copytree(folder, tmp_path / "outer"))
    inner = outer / "0_Transformer"
    inner.mkdir()
    for path in list(outer.iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(inner / path.name)
    modules = json.loads((outer / "modules.json").read_text())
    modules[0]["path"] = inner.name
    (outer / "modules.json").write_text(json.dumps(modules))
    hub.repositories["acme/outer"] = Repository(outer)
    result = opened("acme/outer")
    assert result["value"] == opened("acme/open")["value"]
    assert opened("acme/outer", local_files_only=True) == result
