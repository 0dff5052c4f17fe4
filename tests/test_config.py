"""config.json: what is taken, what is refused by name, and the rotary frequencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed.errors import ModelFileError, ModelNotFoundError
from qwen3_embed.loading.config import ModelConfig, parse_config, read_json
from tests.support.make_model import config_of

GONE = object()


def parse(**changes: Any) -> ModelConfig:
    """The 0.6B config with changes; GONE removes a key."""
    content = config_of("0.6B") | changes
    return parse_config({k: v for k, v in content.items() if v is not GONE}, "config.json")


def test_official_shape() -> None:
    config = parse()
    assert config.for_engine(512) | {"rope_inv_freq": None} == {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "n_layers": 28,
        "n_heads": 16,
        "n_kv_heads": 8,
        "head_dim": 128,
        "vocab_size": 151669,
        "max_length": 512,
        "rms_norm_eps": 1e-6,
        "rope_scale": 1.0,
        "rope_inv_freq": None,
    }
    assert config.max_length == 32768
    assert config.rope_inv_freq.dtype == np.float32
    assert config.rope_inv_freq.shape == (64,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "qwen2"),
        ("model_type", GONE),
        ("model_type", "bidirectional_pplx_qwen3"),
        ("architectures", ["VoyageQwen3BidirectionalEmbedModel"]),
        ("architectures", ["Qwen3ForSequenceClassification"]),
        ("architectures", "Qwen3Model"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("attention_bias", 1),
        ("mlp_bias", True),
        ("is_causal", False),
        ("is_causal", 0),
        ("use_bidirectional_attention", True),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"quant_method": "fp8"}),
        ("layer_types", ["full_attention"] * 27 + ["sliding_attention"]),
        ("layer_types", "full_attention"),
        ("hidden_size", GONE),
        ("hidden_size", 0),
        ("hidden_size", 1024.0),
        ("hidden_size", True),
        ("hidden_size", "1024"),
        ("hidden_size", 1 << 40),
        ("intermediate_size", GONE),
        ("intermediate_size", -1),
        ("num_hidden_layers", GONE),
        ("num_hidden_layers", 257),
        ("num_attention_heads", GONE),
        ("num_attention_heads", 0),
        ("num_key_value_heads", GONE),
        ("num_key_value_heads", 5),
        ("num_key_value_heads", 32),
        ("head_dim", GONE),
        ("head_dim", 127),
        ("head_dim", 0),
        ("head_dim", "128"),
        ("vocab_size", GONE),
        ("vocab_size", 10**9),
        ("max_position_embeddings", GONE),
        ("max_position_embeddings", 0),
        ("rms_norm_eps", GONE),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", "1e-6"),
        ("rope_theta", GONE),
        ("rope_theta", 0),
        ("rope_theta", 1),
        ("rope_theta", -1e6),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("rope_scaling", {"type": "llama3"}),
        ("rope_scaling", [4]),
        ("rope_scaling", {"rope_type": "default", "mrope_section": [24, 20, 20]}),
        ("rope_parameters", {"full_attention": {"rope_theta": 1e6}}),
        (
            "rope_parameters",
            {"rope_theta": 1e6, "rope_type": "default", "partial_rotary_factor": 0.5},
        ),
        ("rope_scaling", {"rope_type": "yarn"}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 0.5}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0, "truncate": "no"}),
    ],
)
def test_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        parse(**{key: value})
    message = str(caught.value)
    assert message.startswith("config.json: ")
    assert key in message or (key == "rope_theta" and "rope" in message)
    assert "expected" in message


def test_sliding_window_counts_only_when_used() -> None:
    parse(sliding_window=4096, use_sliding_window=False)
    parse(sliding_window=None, use_sliding_window=True)
    with pytest.raises(ModelFileError, match="use_sliding_window is true, expected false"):
        parse(sliding_window=4096, use_sliding_window=True)


def test_what_does_not_matter_is_ignored() -> None:
    parse(
        auto_map={"AutoModel": "evil.Model"},
        torch_dtype="float16",
        dtype="float32",
        tie_word_embeddings=False,
        layer_types=["full_attention"] * 28,
        is_causal=True,
        hidden_act=GONE,
        architectures=["Qwen3Model"],
        use_cache=GONE,
        eos_token_id=[1, 2],
    )


def test_head_dim_may_be_absent_where_all_agree() -> None:
    """transformers then takes 128, others hidden_size / heads: only if that is the same."""
    assert parse(head_dim=GONE, hidden_size=2048).head_dim == 128
    with pytest.raises(ModelFileError, match="head_dim is missing"):
        parse(head_dim=GONE, hidden_size=1024)


@pytest.mark.parametrize("content", [[], None, 3, "x"])
def test_not_an_object(content: Any) -> None:
    with pytest.raises(ModelFileError, match="expected an object"):
        parse_config(content, "config.json")


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
ROPES = [
    {"rope_theta": 1000000},
    {"rope_theta": 10000.0, "head_dim": 64},
    {"rope_theta": 3500000.0},
    {"rope_theta": GONE, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}},
    {"rope_scaling": YARN, "max_position_embeddings": 131072},
    {"rope_scaling": {"type": "yarn", **{k: v for k, v in YARN.items() if k != "rope_type"}}},
    {"rope_theta": GONE, "rope_parameters": {"rope_theta": 1e6, **YARN}},
    {"rope_scaling": YARN | {"truncate": False}},
    {"rope_scaling": YARN | {"attention_factor": 1.5}},
    {"rope_scaling": YARN | {"beta_fast": 16, "beta_slow": 2.0}},
    {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.9}},
    {"rope_scaling": YARN | {"mscale": 1.0}},
    {"rope_scaling": YARN | {"beta_fast": 4, "beta_slow": 4, "truncate": False}},  # a step
    {"rope_scaling": YARN | {"original_max_position_embeddings": 6}},  # a step at 0
    {"rope_scaling": YARN | {"factor": 1.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    {"rope_scaling": YARN | {"original_max_position_embeddings": 64}, "head_dim": 64},
    {"rope_scaling": YARN, "rope_theta": 10000, "head_dim": 64},
]


@pytest.mark.parametrize("rope", ROPES)
def test_frequencies_are_those_of_transformers(rope: dict[str, Any]) -> None:
    """Equal but for the last bit: torch's power isn't rounded correctly in 1 of 100 cases.

    YaRN adds two products, so one more rounding; 4 units in the last place bound both.
    """
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    content = {k: v for k, v in (config_of("0.6B") | rope).items() if v is not GONE}
    if "rope_parameters" in content:
        content.pop("rope_scaling")
    content = json.loads(json.dumps(content))  # Qwen3Config writes rope_theta into its dicts
    ours = parse_config(content, "config.json")
    theirs = Qwen3RotaryEmbedding(transformers.Qwen3Config(**content))
    expected = theirs.inv_freq.numpy()
    np.testing.assert_allclose(ours.rope_inv_freq, expected, rtol=4 * 2.0**-24, atol=0)
    same = np.mean(ours.rope_inv_freq == expected)
    assert same > 0.9 or "yarn" in json.dumps(content)
    assert ours.rope_scale == pytest.approx(theirs.attention_scaling, rel=1e-12)


def test_yarn_by_hand() -> None:
    """The ends of the ramp: high frequencies stay, low ones are divided by the factor."""
    plain, yarn = parse(), parse(rope_scaling=YARN)
    assert yarn.rope_inv_freq[0] == plain.rope_inv_freq[0] == 1.0
    assert yarn.rope_inv_freq[-1] == pytest.approx(plain.rope_inv_freq[-1] / 4, rel=1e-6)
    assert yarn.rope_scale == pytest.approx(0.1 * np.log(4.0) + 1.0)


def test_both_spellings_of_rope_must_agree() -> None:
    parse(rope_scaling=YARN, rope_parameters=YARN)
    with pytest.raises(ModelFileError, match="rope_scaling"):
        parse(rope_scaling=YARN, rope_parameters=YARN | {"factor": 2.0})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "cut short"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' is there twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'"\xff"', "utf-8"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b" " * ((1 << 20) + 1), "1048577 bytes, expected at most 1048576"),
        (b"1" * 10_000, "not valid JSON"),
    ],
)
def test_read_json_refuses(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_read_json_of_what_is_no_file(tmp_path: Path) -> None:
    import os

    with pytest.raises(ModelNotFoundError, match="No such file"):
        read_json(tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match="directory"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):  # and it doesn't wait
        read_json(tmp_path / "pipe")
