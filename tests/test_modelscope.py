"""Loading from ModelScope: the real `modelscope-hub` against a local server of its routes."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_embed import Embedder, ModelFileError, ModelNotFoundError
from qwen3_embed.adapters.adapter import find_adapter
from qwen3_embed.cli import main
from qwen3_embed.loading.files import ModelFiles, find_model
from qwen3_embed.loading.hub_options import HubOptions
from tests.support.hub_server import Repository
from tests.support.make_adapter import make_adapter
from tests.support.make_model import make_model
from tests.support.modelscope_server import ModelScope, serve_modelscope

pytest.importorskip("modelscope_hub")

SHARD = "model-00001-of-00002.safetensors"
FILES = [
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    SHARD,
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with files beside it that must never be fetched or run."""
    made = make_model(tmp_path_factory.mktemp("model"), "tiny64", shards=2)
    (made / "pytorch_model.bin").write_bytes(b"never")
    (made / "modeling_evil.py").write_text("raise SystemExit('ran')")
    return made


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelScope]:
    repositories = {
        "acme/open": Repository(folder),
        "acme/private": Repository(folder, token="good"),
        "acme/gated": Repository(folder, gated=True),
        "Qwen/Qwen3-Embedding-0.6B": Repository(folder),
    }
    with serve_modelscope(ModelScope(repositories, {"good", "of-another-user"})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setenv("QWEN3_EMBED_HUB", "modelscope")
        # A second try is enough to see that there is one; its waits are the client's.
        monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 1)
        monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_HASH_RETRY_TIMES", 1)
        monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_SIZE_RETRY_TIMES", 1)
        yield running


def find(model: str = "acme/open", **options: Any) -> ModelFiles:
    return find_model(model, HubOptions(**options))


def paths(found: ModelFiles) -> tuple[object, ...]:
    return (found.revision, found.folder, found.config_file, found.tokenizer, found.shards)


def refused(model: str, *words: str, **options: Any) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        find(model, **options)
    for word in (model, *words):
        assert word in str(caught.value)
    return str(caught.value)


def test_first_download_then_cache_then_offline(hub: ModelScope, tmp_path: Path) -> None:
    first = find()
    assert (first.name, first.revision) == ("acme/open", "master")
    assert sorted(hub.downloads) == FILES
    assert first.folder == tmp_path / "cache/models/acme--open/snapshots/master"
    assert {str(p.relative_to(first.folder)) for p in first.folder.rglob("*.*")} == {*FILES}
    hub.downloads.clear()
    hub.requests.clear()
    assert paths(find()) == paths(first)
    assert (hub.downloads, len(hub.requests)) == ([], 1)
    hub.requests.clear()
    assert paths(find(local_files_only=True)) == paths(first)
    assert hub.requests == []
    elsewhere = find(cache_dir=tmp_path / "elsewhere").folder
    assert elsewhere.is_relative_to(tmp_path / "elsewhere")


def test_as_an_embedder(hub: ModelScope, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3_EMBED_HUB")
    with Embedder(str(folder)) as plain, Embedder("acme/open", hub="modelscope") as model:
        assert model.fingerprint == plain.fingerprint
        again = pickle.loads(pickle.dumps(model))
    with again:
        assert (again.name, again.revision) == ("acme/open", "master")
    with pytest.raises(ValueError, match="hub='gitee', expected one of: 'huggingface'"):
        Embedder("acme/open", hub="gitee")
    monkeypatch.setenv("QWEN3_EMBED_HUB", "gitee")
    with pytest.raises(ValueError, match="QWEN3_EMBED_HUB='gitee', expected"):
        Embedder("acme/open")


def test_command_line(
    hub: ModelScope,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("QWEN3_EMBED_HUB")
    on_hub = ["--hub", "modelscope"]
    assert main(["quantize", "Qwen3-Embedding-0.6B", "-o", str(tmp_path / "out"), *on_hub]) == 0
    capsys.readouterr()
    assert main(["info", "--model", "Qwen/Qwen3-Embedding-0.6B", "--offline", *on_hub]) == 0
    assert "\nrevision:         master\n" in capsys.readouterr().out
    assert main(["info", "--model", "acme/private", *on_hub]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("for a private one set MODELSCOPE_API_TOKEN")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    monkeypatch.delitem(sys.modules, "qwen3_embed.loading.modelscope", raising=False)
    with pytest.raises(ImportError, match=r"qwen3-embed-native\[modelscope\]"):
        find(hub="modelscope")


def test_files_that_the_client_has_are_not_copied(hub: ModelScope, tmp_path: Path) -> None:
    """The client's own download of all, and the folder of its older versions."""
    from modelscope_hub import HubApi

    whole = HubApi().download_repo("acme/open", "model")
    hub.downloads.clear()
    assert find().folder == whole
    old = tmp_path / "cache/hub/models/acme/open"
    old.parent.mkdir(parents=True)
    whole.rename(old)
    assert find().folder == old
    assert find(local_files_only=True).folder == old
    assert hub.downloads == []
    refused("acme/open", "older client", local_files_only=True, revision="v1")


def test_interrupted_download_is_taken_up_again(hub: ModelScope) -> None:
    hub.n_cuts, hub.cut_after_bytes = 1, 50_000
    find()
    assert hub.n_cuts == 0
    shutil.rmtree(find().folder)
    hub.n_cuts = 1000
    refused("acme/open", "try again")
    hub.n_cuts = 0
    hub.downloads.clear()
    find()
    assert "config.json" not in hub.downloads


def test_damaged_files_are_fetched_again(hub: ModelScope) -> None:
    first = find()
    for path in (first.tokenizer, first.shards[0]):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        hub.downloads.clear()
        find()
        assert hub.downloads == [path.name]
        assert path.read_bytes() == content
    first.shards[0].write_bytes(b"")
    with pytest.raises(ModelFileError):
        find(local_files_only=True)


def test_a_branch_that_moves_on(hub: ModelScope, folder: Path, tmp_path: Path) -> None:
    """The next opening has the new files; offline the old ones stay."""
    moving = Path(shutil.copytree(folder, tmp_path / "moving"))
    hub.repositories["acme/moving"] = Repository(moving)
    find("acme/moving")
    prompts = json.loads((moving / "config_sentence_transformers.json").read_text())
    prompts["prompts"] = {"query": "new: "}
    (moving / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert find("acme/moving", local_files_only=True).settings.prompts != {"query": "new: "}
    assert find("acme/moving").settings.prompts == {"query": "new: "}


def test_revisions(hub: ModelScope, tmp_path: Path) -> None:
    assert find(revision="v1").revision == "v1"
    refused("acme/open", "no revision 'v9'", "such as v1, master", revision="v9")
    assert find(local_files_only=True).revision == "v1"  # the only one that is there
    refused("acme/open", "'master'", local_files_only=True, revision="master")
    for outside in ("../../../../etc", "/etc", "a/../b", "a\\b", "a\nb", ""):
        hub.requests.clear()
        for name in ("modelscope", "huggingface"):
            refused("acme/open", "expected a branch, a tag or a commit", revision=outside, hub=name)
        assert hub.requests == []


def test_tokens_and_gates(hub: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("acme/none", "no repository")
    refused("acme/private", "private", "token=")
    refused("acme/private", "private", token="of-another-user")
    refused("acme/private", "refused the token", token="wrong")
    refused("acme/gated", "accept its terms", f"{hub.url}/models/acme/gated", token="good")
    assert find("acme/private", token="good").name == "acme/private"
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "good")
    assert find("acme/private").name == "acme/private"
    refused("acme/private", "private", token=False)


def test_no_network(hub: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("acme/open", "network may not be used", local_files_only=True)
    first = find()
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert paths(find()) == paths(first)
    refused(
        "acme/none", "http://127.0.0.1:9 can't be reached", "MODELSCOPE_ENDPOINT", "huggingface"
    )
    first.shards[0].unlink()
    refused("acme/open", "acme/open in the cache lacks a file")


def test_a_hub_that_fails(hub: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fails_with = 500
    assert "can't be reached" not in refused("acme/open", "failed", "try again")


@pytest.mark.parametrize("listing", [[1], {"Data": [{"Path": "a", "Size": "x"}]}, {"Data": [5]}])
def test_answers_that_are_no_listing(hub: ModelScope, listing: Any) -> None:
    hub.listing = listing
    refused("acme/open", "list of files", "MODELSCOPE_ENDPOINT")
    assert hub.downloads == []


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"Size": -1}, "with size -1"),
        ({"Sha256": "../../x"}, "SHA-256 '../../x'"),
        ({"Sha256": "0" * 64}, "other than listed"),
        ({"Size": 10}, "other than listed"),
        ({"Size": 10_000_000, "Sha256": None}, "other than listed"),
    ],
)
def test_lies_about_a_file(hub: ModelScope, lie: dict[str, Any], message: str) -> None:
    hub.lies[SHARD] = lie
    with pytest.raises(ModelFileError) as caught:
        find()
    assert message in str(caught.value)
    assert SHARD in str(caught.value)
    hub.lies.clear()
    assert find().shards[0].stat().st_size > 10


@pytest.mark.parametrize("path", ["../../../evil", "/tmp/evil", "config.json/../../evil"])
def test_paths_outside_are_never_written(hub: ModelScope, tmp_path: Path, path: str) -> None:
    """Of a listing, only files of expected names are looked at."""
    hub.lies["modeling_evil.py"] = {"Path": path}
    find()
    assert sorted(hub.downloads) == FILES
    assert not [*tmp_path.rglob("*evil*")]


def test_index_names_are_checked_before_any_fetch(
    hub: ModelScope, folder: Path, tmp_path: Path
) -> None:
    evil = Path(shutil.copytree(folder, tmp_path / "evil"))
    index = {"weight_map": {"norm.weight": "../../../x.safetensors"}}
    (evil / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.repositories["acme/evil"] = Repository(evil)
    hub.lies["pytorch_model.bin"] = {"Path": "../../../x.safetensors"}
    with pytest.raises(ModelFileError, match=r"'\.\./\.\./\.\./x\.safetensors' is refused"):
        find("acme/evil")
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]


def test_missing_weights(hub: ModelScope, folder: Path, tmp_path: Path) -> None:
    partial = Path(shutil.copytree(folder, tmp_path / "partial"))
    (partial / SHARD).unlink()
    hub.repositories["acme/partial"] = Repository(partial)
    refused("acme/partial", SHARD, "on ModelScope lacks a file")


def test_adapters(hub: ModelScope, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "tiny64")
    alone = make_adapter(tmp_path / "alone", base, base_model_name_or_path="acme/open")
    hub.repositories["acme/alone"] = Repository(alone)
    found = find("acme/alone")
    assert found.adapter == found.folder
    assert SHARD in {path.name for path in found.shards}
    assert find_adapter("acme/alone", HubOptions(revision="of-the-base")) == found.folder
    config = json.loads((alone / "adapter_config.json").read_text())
    config["revision"] = "../../../../evil"
    (alone / "adapter_config.json").write_text(json.dumps(config))
    refused("acme/alone", "no revision '../../../../evil'")
