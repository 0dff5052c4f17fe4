"""qe_model_open() on whole and on broken models: every weight's bits, every refusal."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.c_build import ASAN, LOADER, build
from tests.support.model_files import SHAPES, Bits, Weights, names, random_weights, run, write_file


def widened(dtype: str, bits: Bits) -> npt.NDArray[np.uint32]:
    """The bits of the same numbers in fp32."""
    if dtype == "BF16":
        return bits.astype(np.uint32) << 16
    if dtype == "F16":
        with np.errstate(invalid="ignore"):
            return bits.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    return bits.astype(np.uint32)


def nearest_bf16(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """By distance, in double precision, between the two neighbours; ties to even."""
    magnitude = bits & 0x7FFFFFFF
    below = magnitude >> 16
    with np.errstate(invalid="ignore", over="ignore"):
        value = magnitude.view(np.float32).astype(np.float64)
        low = (below << 16).view(np.float32).astype(np.float64)
        high = ((below + 1) << 16).astype(np.uint32).view(np.float32).astype(np.float64)
        high = np.where(below == 0x7F7F, 2.0**128, high)  # what infinity stands for
        up = (high - value < value - low) | ((high - value == value - low) & (below % 2 == 1))
    finite = below + up * (magnitude < 0x7F800000)
    return (finite | (bits >> 16 & 0x8000)).astype(np.uint16)


def is_nan(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    return (bits & 0x7FFFFFFF) > 0x7F800000


def open_model(paths: Sequence[Path]) -> subprocess.CompletedProcess[bytes]:
    sources = ["tests/c/open_model.c", "tests/c/model_args.c", *LOADER]
    return run(build("open_model", sources, sanitize=ASAN), paths)


def refusal(paths: Sequence[Path]) -> str:
    done = open_model(paths)
    assert done.returncode == 1, done.stderr.decode()
    assert done.stdout.startswith(b"-4 ")
    return done.stdout[3:].decode().rstrip("\n")


def check_bits(output: bytes, weights: Weights, prefix: str) -> None:
    """Checks that open_model printed these weights: vectors in fp32, matrices in bf16."""
    for name, shape in names(prefix):
        wide = widened(*weights[name]).reshape(-1)
        if len(shape) == 1:
            kept = np.frombuffer(output, np.uint32, wide.size)
            expected, nan = wide, is_nan(wide)
            assert is_nan(kept[nan]).all()
        else:
            kept = np.frombuffer(output, np.uint16, wide.size)
            expected, nan = nearest_bf16(wide), is_nan(wide)
            assert is_nan(kept[nan].astype(np.uint32) << 16).all()
        assert (kept[~nan] == expected[~nan]).all(), name
        output = output[kept.nbytes :]
    assert output == b""


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("padding", range(4))
def test_every_bit(tmp_path: Path, dtype: str, prefix: str, padding: int) -> None:
    weights = random_weights(dtype, prefix)
    path = write_file(tmp_path / "model.safetensors", weights, padding)
    done = open_model([path])
    assert done.returncode == 0, done.stdout + done.stderr
    line, _, output = done.stdout.partition(b"\n")
    ok, mapped_bytes, owned_bytes = line.split()
    assert ok == b"ok"
    assert int(mapped_bytes) == path.stat().st_size
    # A second copy of bf16 matrices would be a defect.
    matrices = sum(2 * bits.size for _, bits in weights.values() if bits.ndim == 2)
    assert int(owned_bytes) < (matrices // 2 if dtype == "BF16" else 2 * matrices)
    check_bits(output, weights, prefix)


def test_mixed_dtypes_in_shards_with_lm_head(tmp_path: Path) -> None:
    kinds = ["BF16", "F16", "F32"]
    made = {kind: random_weights(kind) for kind in kinds}
    weights = {name: made[kinds[i % 3]][name] for i, (name, _) in enumerate(names())}
    order = np.random.default_rng(2).permutation(list(weights))
    paths = [
        write_file(tmp_path / f"{i}.safetensors", {name: weights[name] for name in order[i::3]}, i)
        for i in range(3)
    ]
    head = random_weights("F32")["model.embed_tokens.weight"]
    paths.append(write_file(tmp_path / "head.safetensors", {"lm_head.weight": head}))
    done = open_model(paths)
    assert done.returncode == 0, done.stdout + done.stderr
    check_bits(done.stdout.partition(b"\n")[2], weights, "model.")


def test_all_missing_names_the_first_and_counts(tmp_path: Path) -> None:
    weights = random_weights("BF16")
    gone = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"]
    kept = {name: value for name, value in weights.items() if name not in gone}
    message = refusal([write_file(tmp_path / "part.safetensors", kept)])
    assert message.startswith(f"{gone[0]}: missing (2 of {len(weights)} tensors are), in 1 file")
    assert "part.safetensors" in message


@pytest.mark.parametrize("name", [name for name, _ in names()])
def test_each_missing_alone(tmp_path: Path, name: str) -> None:
    weights = random_weights("BF16")
    del weights[name]
    message = refusal([write_file(tmp_path / "m.safetensors", weights)])
    assert message.startswith(f"{name}: missing (1 of ")


@pytest.mark.parametrize("name", [name for name, _ in names()])
def test_each_shape(tmp_path: Path, name: str) -> None:
    weights = random_weights("BF16")
    dtype, bits = weights[name]
    for wrong in (bits[:-1], bits.T[:-1].T, bits[..., None], bits.reshape(-1)[:0]):
        weights[name] = (dtype, np.ascontiguousarray(wrong))
        message = refusal([write_file(tmp_path / "m.safetensors", weights)])
        found = ", ".join(map(str, wrong.shape))
        expected = ", ".join(map(str, bits.shape))
        assert message.startswith(f"{name}: shape ({found}), expected ({expected}) (in m.safe")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.0.self_attn.q_proj.bias", "unknown tensor in m.safetensors"),
        ("model.layers.2.mlp.up_proj.weight", "unknown tensor in m.safetensors"),
        ("model.layers.00.mlp.up_proj.weight", "unknown tensor in m.safetensors"),
        ("layers.0.mlp.up_proj.weight", "unknown tensor in m.safetensors"),
        ("score.bias", "unknown tensor in m.safetensors"),
    ],
)
def test_unknown(tmp_path: Path, name: str, message: str) -> None:
    weights = random_weights("BF16")
    weights[name] = ("BF16", np.zeros((SHAPES["I"], SHAPES["C"]), np.uint16))
    refused = refusal([write_file(tmp_path / "m.safetensors", weights)])
    assert refused.startswith(f"{name}: {message}, expected only those of a Qwen3 text model")


def test_in_two_shards(tmp_path: Path) -> None:
    weights = random_weights("BF16")
    again = {"model.norm.weight": weights["model.norm.weight"]}
    paths = [write_file(tmp_path / "a.safetensors", weights)]
    paths.append(write_file(tmp_path / "b.safetensors", again))
    message = refusal(paths)
    assert message.startswith("model.norm.weight: found in both a.safetensors and b.safetensors")


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"]
)
def test_dtype(tmp_path: Path, name: str) -> None:
    weights = random_weights("BF16")
    shape = [SHAPES["V"], SHAPES["C"]] if "norm" not in name else [SHAPES["C"]]
    weights[name] = ("I64", np.zeros(shape, np.uint64))
    message = refusal([write_file(tmp_path / "m.safetensors", weights)])
    assert message.startswith(f"{name}: dtype I64, expected BF16, F16 or F32 (in m.safetensors)")


def test_second_shard_damaged(tmp_path: Path) -> None:
    whole = write_file(tmp_path / "a.safetensors", random_weights("BF16"))
    damaged = tmp_path / "b.safetensors"
    damaged.write_bytes(whole.read_bytes()[:-1])
    assert "b.safetensors: incomplete" in refusal([whole, damaged])


def test_no_tensors_at_all(tmp_path: Path) -> None:
    message = refusal([write_file(tmp_path / "m.safetensors", {})])
    assert message.startswith("embed_tokens.weight: missing (24 of 24 tensors are)")


@pytest.mark.parametrize("sanitize", [ASAN, ""])
def test_config_and_fork(tmp_path: Path, sanitize: str) -> None:
    path = write_file(tmp_path / "m.safetensors", random_weights("F16"))
    sources = ["tests/c/test_model.c", "tests/c/model_args.c", "csrc/adapter.c", *LOADER]
    done = run(build("test_model", sources, sanitize=sanitize), [path])
    assert done.stdout == b"ok\n", done.stdout + done.stderr


def test_promises_of_the_reader(tmp_path: Path) -> None:
    sources = ["tests/c/test_safetensors.c", *LOADER]
    program = build("test_safetensors", sources, sanitize=ASAN, link=["-Wl,--wrap=mmap"])
    done = subprocess.run([program, tmp_path], capture_output=True, check=False)
    assert done.stdout == b"ok\n", done.stdout + done.stderr
