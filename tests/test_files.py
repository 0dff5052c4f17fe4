"""From a folder or a name to files: what is found, what is refused, and nothing else opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_embed import Embedder, ModelFileError, ModelNotFoundError
from qwen3_embed.loading import files
from qwen3_embed.loading.files import ModelFiles, find_model
from qwen3_embed.loading.hub_options import HubOptions
from tests.conftest import ModelMaker


def find(model: str | Path) -> ModelFiles:
    return find_model(model, HubOptions(local_files_only=True))


@pytest.fixture
def folder(models: ModelMaker, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(models("tiny64"), tmp_path / "model"))


@pytest.fixture
def sharded(models: ModelMaker, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models("tiny64", shards=3), tmp_path / "sharded"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folder_as_text_and_as_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (str(folder), folder):
        files = find(model)
        assert files.shards == (folder / "model.safetensors",)
        assert files.tokenizer == folder / "tokenizer.json"
        assert (files.name, files.revision) == (str(folder), None)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find("~/model").shards[0].exists()
    monkeypatch.chdir(folder.parent)
    assert find("model").name == "model"


def test_existing_folder_comes_before_a_hub_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    official = folder.rename("Qwen3-Embedding-0.6B")
    assert find("Qwen3-Embedding-0.6B").folder == official


def test_mini_is_always_the_embedded_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename("mini")
    assert find("mini").folder == Path(files.__file__).parents[1] / "models" / "mini"
    assert find("./mini").name == "./mini"
    monkeypatch.setattr(files, "__file__", str(folder / "loading" / "files.py"))
    with pytest.raises(ModelNotFoundError, match="holds no built-in embedder"):
        find("mini")


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # whose neighbours have none of these names
    with pytest.raises(ModelNotFoundError, match=r"one of: Qwen3-Embedding-0\.6B"):
        find("Qwen3-Embedding-1B")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        find(tmp_path / "none")
    for name in ("", "a/b/c", "../x", "a/..", "/a/b", "a b/c", "https://example.com/a"):
        with pytest.raises(ModelNotFoundError, match="expected a folder"):
            find(name)


def test_rerankers_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-4B"):
        with pytest.raises(ModelFileError, match="is a reranker"):
            find(name)
    folder = tmp_path / "Qwen3-Reranker-0.6B"
    folder.mkdir()
    for model in (str(folder), folder):
        with pytest.raises(ModelFileError, match="is a reranker"):
            find(model)


def test_a_folder_has_no_revision(folder: Path) -> None:
    for model in ("mini", folder, str(folder)):
        with pytest.raises(ValueError, match=r"^revision='v1' is for a model on the hub"):
            find_model(model, HubOptions(revision="v1"))


def test_shards(sharded: Path) -> None:
    names = [shard.name for shard in find(sharded).shards]
    assert names == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def test_single_file_comes_before_an_index(sharded: Path, models: ModelMaker) -> None:
    shutil.copy(models("tiny64") / "model.safetensors", sharded)
    assert [shard.name for shard in find(sharded).shards] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match=name) as caught:
        find(folder)
    assert str(folder) in str(caught.value)


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lists model-00002.*\(1 of 3 files"):
        find(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelFileError, match=f"{name}, a pickle"):
        find(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "..safetensors",
        "a..safetensors",
        ".hidden.safetensors",
        "x.bin",
        "model.safetensors\n",
        "model\0.safetensors",
        "C:x.safetensors",
        "*.safetensors",
        "",
        "~.safetensors",
    ],
)
def test_shard_names_are_plain(sharded: Path, name: str) -> None:
    index = sharded / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=weights | {"norm.weight": name})
    with pytest.raises(ModelFileError, match="is refused, expected a plain name"):
        find(sharded)


@pytest.mark.parametrize(
    "content",
    [
        '{"weight_map": {}}',
        "{}",
        "[]",
        '{"weight_map": ["x"]}',
        "{",
        "",
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
    ],
)
def test_damaged_index(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"index\.json"):
        find(sharded)


def test_index_value_that_is_no_name(sharded: Path) -> None:
    edit(sharded / "model.safetensors.index.json", weight_map={"norm.weight": 7})
    with pytest.raises(ModelFileError, match="'7' is refused"):
        find(sharded)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folder_as_a_user(folder: Path) -> None:
    folder.chmod(0o000)
    try:
        with pytest.raises(ModelNotFoundError, match="permission"):
            find(folder)
    finally:
        folder.chmod(0o755)


def test_unreadable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(ModelNotFoundError, match="Permission denied; check its permissions"):
        find(folder)


MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate(
        [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    )
]


def write_modules(folder: Path, modules: Any) -> None:
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    "modules",
    [
        MODULES,
        MODULES[:2],
        [
            m | {"type": m["type"].replace("models", "sentence_transformer.modules.x")}
            for m in MODULES
        ],
    ],
)
def test_modules_that_are_computed(folder: Path, modules: Any) -> None:
    write_modules(folder, modules)
    find(folder)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([*MODULES, MODULES[0] | {"type": "sentence_transformers.models.Dense"}], "Dense"),
        ([MODULES[0], MODULES[1] | {"type": "custom_code.Pooling"}], "custom_code.Pooling"),
        ([MODULES[0]], "the modules are Transformer, expected"),
        ([MODULES[0], MODULES[2], MODULES[1]], "Transformer, Normalize, Pooling"),
        ([], "the modules are"),
        ([MODULES[0] | {"path": "../0_Transformer"}, MODULES[1]], r"lies in '\.\./0_Transformer'"),
        ([MODULES[0], MODULES[1] | {"path": "../x"}], "lies in '../x'"),
        ([MODULES[0], MODULES[1] | {"type": "sentence_transformers.LogitScore"}], "LogitScore"),
        ({"a": 1}, "expected a list"),
        (["x"], "expected a list"),
    ],
)
def test_modules_that_are_refused(folder: Path, modules: Any, words: str) -> None:
    write_modules(folder, modules)
    with pytest.raises(ModelFileError, match=words):
        find(folder)


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}, "mean_tokens"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, "cls_token"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["lasttoken", "mean"]}, "lasttoken, mean"),
        ({"pooling_mode_lasttoken": False}, "none"),
        ({}, "none"),
    ],
)
def test_other_poolings_are_refused(folder: Path, pooling: Any, found: str) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ModelFileError, match=f"the pooling is .*{found}.*expected lasttoken"):
        find(folder)


def test_new_spelling_of_the_pooling(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    find(folder)


def test_folder_of_a_plain_language_model(folder: Path) -> None:
    """No file of sentence-transformers at all: the official prompts hold."""
    shutil.rmtree(folder / "1_Pooling")
    for name in ("modules.json", "config_sentence_transformers.json", "tokenizer_config.json"):
        (folder / name).unlink()
    settings = find(folder).settings
    assert settings.prompts["query"].startswith("Instruct: Given a web search query")
    assert settings.prompts["document"] == ""
    assert settings.max_length is None


def test_lower_casing_is_refused(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(ModelFileError, match="do_lower_case is true"):
        find(folder)


@pytest.mark.parametrize(
    ("sentence_bert", "tokenizer", "expected"),
    [
        ({"max_seq_length": 512}, {"model_max_length": 131072}, 512),
        ({}, {"model_max_length": 300}, 300),
        ({"max_seq_length": None}, {"model_max_length": 10**30}, 4096),
        ({"max_seq_length": 0}, {"model_max_length": 1e30}, 4096),
        ({"max_seq_length": True}, {}, 4096),
        ({"max_seq_length": 100_000}, {}, 4096),
    ],
)
def test_max_length_is_the_shortest_that_the_files_name(
    folder: Path, sentence_bert: Any, tokenizer: Any, expected: int
) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps(sentence_bert))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with Embedder(folder) as model:
        assert model.max_length == expected
    with Embedder(folder, max_length=4096) as model:  # the positions are the only hard limit
        assert model.max_length == 4096
    with pytest.raises(ValueError, match=r"max_length=4097, expected 1\.\.4096"):
        Embedder(folder, max_length=4097)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"prompts": ["x"]}, "prompts"),
        ({"prompts": {"query": 1}}, "prompts"),
        ({"prompts": {"q": "Q: "}, "default_prompt_name": "query"}, "default_prompt_name"),
        ([], "expected an object"),
    ],
)
def test_damaged_prompts(folder: Path, content: Any, words: str) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=words):
        find(folder)


def test_the_model_own_prompts(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "Query: ", "doc": "Doc: "}, "default_prompt_name": "doc"})
    )
    with Embedder(folder) as model:
        assert dict(model.prompts) == {"query": "Query: ", "doc": "Doc: "}
        assert (model.encode("x") == model.encode("x", prompt="Doc: ")).all()
        assert (model.encode_query("x") == model.encode("x", prompt="Query: ")).all()
        assert (model.encode_document("x") == model.encode("x", prompt="")).all()


NOTHING_RUNS = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
seen = []
def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(str(folder)):
        seen.append(Path(arguments[0]).name)
    if event in ("import", "exec", "compile") and str(folder) in str(arguments):
        raise SystemExit(f"{event} {arguments}")
from qwen3_embed import Embedder
sys.addaudithook(hook)
Embedder(folder).encode("a")
print(" ".join(sorted(set(seen))))
assert "evil" not in sys.modules and "huggingface_hub" not in sys.modules
"""


def test_nothing_in_a_folder_runs(folder: Path) -> None:
    """A repository full of code and of keys that name it opens, and only data is read."""
    for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py", "setup.py"):
        (folder / name).write_text("raise SystemExit('ran')")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    edit(
        folder / "config.json",
        auto_map={"AutoConfig": "configuration_evil.Config"},
        _attn_implementation="modeling_evil.attention",
        custom_code=True,
    )
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["x.y", None]},
        chat_template="{{ ''.__class__ }}",
    )
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_RUNS, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    opened = set(done.stdout.split())
    assert opened <= {
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    }
    assert {"config.json", "tokenizer.json"} <= opened
