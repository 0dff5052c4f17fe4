"""The made folders are what the official ones are: shapes, sizes, names, loadable by others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.conftest import ModelMaker
from tests.support.make_model import OFFICIAL, config_of, tensor_shapes
from tests.support.reference import Reference, read_header

PARAMETERS = {"0.6B": 595_776_512, "4B": 4_021_774_336, "8B": 7_567_295_488}
TENSORS = {"0.6B": 310, "4B": 398, "8B": 398}
OFFICIAL_FILE_BYTES = 1_191_586_416  # model.safetensors of Qwen3-Embedding-0.6B
GOLDEN_IDS = {
    "": [151643],
    "test again": [1944, 1549, 151643],
    "回家吃饭了吗": [104122, 104636, 105660, 151643],
    "<|im_start|>x<|endoftext|>": [151644, 87, 151643, 151643],
}


@pytest.mark.parametrize("shape", OFFICIAL)
def test_official_counts(shape: str) -> None:
    shapes = tensor_shapes(config_of(shape))
    assert len(shapes) == TENSORS[shape]
    assert sum(math.prod(dims) for dims in shapes.values()) == PARAMETERS[shape]


def test_official_file_size(models: ModelMaker) -> None:
    assert (models("0.6B") / "model.safetensors").stat().st_size == OFFICIAL_FILE_BYTES


def test_same_weights_in_every_layout(models: ModelMaker) -> None:
    expected = Reference(models("tiny64")).weights
    weights = Reference(models("tiny64", prefix="model.", shards=3, misalign=1)).weights
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(weights[name], values, name)


def test_shards_share_the_tensors(models: ModelMaker) -> None:
    folder = models("tiny64", shards=3)
    headers = [read_header(path) for path in sorted(folder.glob("*.safetensors"))]
    assert len(headers) == 3
    assert sum(map(len, headers)) == len(set().union(*headers)) == 35


def test_transformers_reads_the_real_tokenizer(models: ModelMaker) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models("0.6B"))
    for text, ids in GOLDEN_IDS.items():
        assert tokenizer(text)["input_ids"] == ids


def test_sentence_transformers_loads_it(models: ModelMaker) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = models("tiny64")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert model.prompts["query"].startswith("Instruct: Given a web search query")
    texts = ["the river", "", "猫"]
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    assert ids[1] == [319]
    rows = model.float().encode(texts)
    reference = Reference(folder)
    np.testing.assert_allclose(rows, [reference.embed(one) for one in ids], atol=2e-5)
