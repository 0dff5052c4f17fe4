"""A model split over GPUs: the bits of one GPU, its memory, its failures.

With one GPU both stages are on it, which is the same code but for the way between peers.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_embed import DeviceError, DeviceMemoryError, Embedder, NonFiniteError, Reranker
from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.loading.device import list_gpus
from qwen3_embed.loading.device_memory import memory_needs
from qwen3_embed.loading.files import HubOptions, find_model
from tests.conftest import TEXTS, ModelMaker
from tests.cuda.reference_cuda import change_weights, needs_gpu, open_cuda
from tests.cuda.test_cuda_adapters import save_all_else, with_adapter
from tests.cuda.test_int8_weights import all_memory_but, free_bytes
from tests.support.engines import DEVICE, embed, engine_config, random_texts
from tests.support.make_adapter import make_adapter
from tests.support.make_model import make_model
from tests.support.rerankers import make_reranker

pytestmark = needs_gpu

ROOT = Path(__file__).resolve().parents[2]
ONE = "cuda:0,cuda:0"
PLACES = [ONE]
if DEVICE != "cpu" and len(list_gpus()) > 1:
    PLACES.append("cuda:0,cuda:1")

# Stops one GPU's context by a trap while a job is under way; prints what the next calls say.
FAIL = r"""
import ctypes, sys, time
from pathlib import Path
import numpy as np
from tests.cuda.reference_cuda import open_cuda
from tests.support.engines import embed, random_texts
engine = open_cuda(Path(sys.argv[1]), device=sys.argv[2])
embed(engine, random_texts([5, 300]), 64)
driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
module, function = ctypes.c_void_p(), ctypes.c_void_p()
device = int(sys.argv[2][-1])
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
assert driver.cuCtxSetCurrent(context) == 0
code = b".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry f() { trap; }\n\0"
assert driver.cuModuleLoadData(ctypes.byref(module), code) == 0
assert driver.cuModuleGetFunction(ctypes.byref(function), module, b"f") == 0
long = random_texts([2000] * 5000)
cu_seqlens = np.cumsum([0, *map(len, long)], dtype=np.int32)
job = engine.submit(np.concatenate(long), cu_seqlens, engine.rows(len(long), 64), 0, True)
time.sleep(0.05)
assert not job.done(), "the job is over before the GPU fails"
assert driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 0
for call in (job.wait, lambda: embed(engine, random_texts([5]), 64)):
    try: call()
    except Exception as error: print(type(error).__name__, flush=True)
engine.close()
print("closed", flush=True)
"""

LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": shape} for shape in ("tiny64", "tiny128", "odd64", "odd128", "small")),
        {"shape": "tiny64", "head_dim": 256},
    ],
    ids=str,
)
def test_the_bits_of_one_gpu(models: ModelMaker, changes: dict[str, Any], place: str) -> None:
    """Alone, repeatedly (as graphs), together, in many micro-batches and in small passes."""
    texts = random_texts(LENGTHS)
    with_one = open_cuda(models(**changes))
    expected = embed(with_one, texts, 64)
    for batch_tokens in (0, 300):
        engine = open_cuda(models(**changes), device=place, batch_tokens=batch_tokens)
        assert engine.info["device"] == place
        for _ in range(3):
            for row, text in zip(expected, texts, strict=True):
                np.testing.assert_array_equal(embed(engine, [text], 64), [row])
        np.testing.assert_array_equal(embed(engine, texts, 64), expected)
        np.testing.assert_array_equal(embed(engine, texts[::-1], 64), expected[::-1])
        np.testing.assert_array_equal(embed(engine, texts * 60, 64), np.tile(expected, (60, 1)))
        engine.close()
    with_one.close()


@pytest.mark.parametrize("place", PLACES)
def test_three_stages_and_long_texts(models: ModelMaker, place: str) -> None:
    """A stage may have one layer; texts beyond a micro-batch go through the first slot alone."""
    texts = random_texts([4096, 5, 4000, 700, 4096, 4096, 300, 2, 3000, *[900] * 40, 4096])
    with_one = open_cuda(models("tiny64"))
    expected = embed(with_one, texts, 128)
    engine = open_cuda(models("tiny64"), device=f"{place},cuda:0", batch_tokens=60_000)
    np.testing.assert_array_equal(embed(engine, texts, 128), expected)
    np.testing.assert_array_equal(embed(engine, texts[:1], 128), expected[:1])
    np.testing.assert_array_equal(embed(engine, texts[::-1], 128), expected[::-1])
    engine.close()
    short = open_cuda(models("tiny64"), device=place, batch_tokens=512)
    np.testing.assert_array_equal(embed(short, texts, 128), expected)


@pytest.mark.parametrize("place", PLACES)
def test_shared_prefixes(models: ModelMaker, place: str) -> None:
    prefix, other, *tails = random_texts([300, 700, *[1, 2, 17, 63, 64, 65, 150] * 40])
    texts = [np.concatenate([(prefix, other)[i % 2], tail]) for i, tail in enumerate(tails)]
    expected = embed(open_cuda(models("tiny128")), texts, 64)
    for batch_tokens in (0, 4000):
        engine = open_cuda(models("tiny128"), device=place, batch_tokens=batch_tokens)
        np.testing.assert_array_equal(embed(engine, texts, 64), expected)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "options",
    [{"dtype": "int8-weights"}, {"dtype": "float8"}, {"embedding": "host"}],
    ids=str,
)
def test_other_kinds_of_weights(models: ModelMaker, options: dict[str, str], place: str) -> None:
    if options.get("dtype") == "float8" and list_gpus()[0].capability[0] != 9:
        pytest.skip("float8 needs compute capability 9")
    texts = random_texts(LENGTHS * 20)
    for shape in ("small", "odd64"):
        expected = embed(open_cuda(models(shape), **options), texts, 64)
        engine = open_cuda(models(shape), device=place, **options)
        np.testing.assert_array_equal(embed(engine, texts, 64), expected)
        for text, row in zip(texts[: len(LENGTHS)], expected[: len(LENGTHS)], strict=True):
            np.testing.assert_array_equal(embed(engine, [text], 64), [row])


def test_more_results_than_the_ring_has(models: ModelMaker) -> None:
    folder = models("tiny64", hidden_size=4096)
    texts = random_texts([1, 2] * 1500)
    expected = embed(open_cuda(folder), texts, 4096)
    for place in PLACES:
        np.testing.assert_array_equal(embed(open_cuda(folder, device=place), texts, 4096), expected)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("options", [{}, {"embedding": "host"}, {"dtype": "int8-weights"}], ids=str)
def test_adapters(models: ModelMaker, tmp_path: Path, options: dict[str, str], place: str) -> None:
    """Of matrices in every layer, and of the embedding and the norms; each in turns."""
    base = models("tiny64")
    folders = [make_adapter(tmp_path / "a", base), save_all_else(tmp_path / "whole", base)]
    tensors = [Adapter(folder, "a", find_model(base, HubOptions())).tensors() for folder in folders]
    texts = random_texts(LENGTHS)
    engines = [open_cuda(base, **options), open_cuda(base, device=place, **options)]
    for engine in engines:
        assert [engine.add_adapter(own) for own in tensors] == [1, 2]
    seen = set()
    for number in (0, 1, 2, 1, 0, 2) * 2:
        for chosen in (texts, texts[:1]):
            rows = [with_adapter(engine, chosen, number, 128) for engine in engines]
            np.testing.assert_array_equal(rows[1], rows[0])
        seen.add(rows[0].tobytes())
    assert len(seen) == 3


def test_threads_share_it(models: ModelMaker) -> None:
    """And it closes while calls are under way: each has its rows, or is told."""
    folder = models("small")
    with Embedder(folder, device="cuda") as one:
        expected = one.encode(TEXTS)
    for place in PLACES:
        model = Embedder(folder, device=place.split(","), split="layers")
        assert model.device == place
        with ThreadPoolExecutor(8) as pool:
            for made in pool.map(model.encode, [TEXTS] * 64):
                np.testing.assert_array_equal(made, expected)
            calls = [pool.submit(model.encode, TEXTS * 40) for _ in range(16)]
            calls[0].result(timeout=60)
            model.close()
            for call in calls:
                if (error := call.exception(timeout=60)) is None:
                    np.testing.assert_array_equal(call.result(), np.tile(expected, (40, 1)))
                else:
                    assert isinstance(error, ValueError)
                    assert "closed" in str(error)


def test_a_reranker(tmp_path: Path) -> None:
    folder = make_reranker(tmp_path / "ranker")
    pairs = [(f"query {i % 3}", text) for i, text in enumerate(TEXTS * 20)]
    with Reranker(folder, device="cuda") as one:
        expected = one.predict(pairs)
    for place in PLACES:
        with Reranker(folder, device=place, split="layers") as ranker:
            np.testing.assert_array_equal(ranker.predict(pairs), expected)


def test_failures_are_one_error_and_leave_it_usable(models: ModelMaker, tmp_path: Path) -> None:
    broken = make_model(tmp_path / "nan", "tiny64")
    change_weights(broken, "layers.2.mlp.up_proj.weight", np.nan)  # on the last stage
    for place in PLACES:
        devices = place.split(",")
        with Embedder(broken, device=devices, split="layers") as model:
            for _ in range(2):
                with pytest.raises(NonFiniteError) as failure:
                    model.encode(["one", "two"])
                assert failure.value.index == 0
        engine = open_cuda(models("small"), device=place)
        expected = embed(engine, random_texts(LENGTHS), 64)
        long = random_texts([2000] * 300)
        cu_seqlens = np.cumsum([0, *map(len, long)], dtype=np.int32)
        rows = engine.rows(len(long), 64)
        job = engine.submit(np.concatenate(long), cu_seqlens, rows, 0, True)
        job.cancel()
        with pytest.raises(RuntimeError, match="cancelled"):
            job.wait()
        np.testing.assert_array_equal(embed(engine, random_texts(LENGTHS), 64), expected)
    with pytest.raises(ValueError, match="split: 3 layers, expected one for each of 4 devices"):
        open_cuda(models("tiny64"), device=f"{ONE},{ONE}")
    with pytest.raises(DeviceError, match="cuda:99: not found"):
        open_cuda(models("tiny64"), device="cuda:0,cuda:99")


@pytest.mark.parametrize("place", PLACES)
def test_a_gpu_that_fails_hangs_nobody(models: ModelMaker, place: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAIL, str(models("small")), place],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.split() == ["DeviceError", "DeviceError", "closed"], done.stderr


@pytest.mark.parametrize("embedding", ["device", "host"])
def test_the_plan_of_its_memory(models: ModelMaker, embedding: str) -> None:
    """Every layer is on one GPU, the table on the first; and the engine's open takes that much."""
    folder = models("small", vocab_size=100_000, max_position_embeddings=2048)
    options: dict[str, Any] = {"dtype": "bfloat16", "embedding": embedding}
    for place in PLACES:
        needs = memory_needs(engine_config(folder), place, **options)
        assert sum(need.n_layers for need in needs) == 6
        assert [need.host for need in needs] == [100_000 * 512 if embedding == "host" else 0, 0]
        if embedding == "device":
            assert needs[0].n_layers <= needs[1].n_layers
        engine = open_cuda(folder, device=place, embedding=embedding)
        assert engine.info["batch_tokens"] == needs[0].batch_tokens
        assert np.isfinite(embed(engine, random_texts([16]), 64)).all()


def test_it_takes_less_memory_than_promised(models: ModelMaker) -> None:
    """And with less than that, the table goes to the host, or one error has both figures."""
    folder = models("small", vocab_size=300_000, max_position_embeddings=2048)
    config, texts = engine_config(folder), random_texts([2048, 1, 700, 64, 16] * 4)
    open_cuda(folder, device=ONE).close()  # loads the kernels, once per process
    needs = {
        place: memory_needs(config, ONE, dtype="bfloat16", embedding=place)
        for place in ("device", "host")
    }
    most = {place: 2 * max(n.device_bytes for n in own) for place, own in needs.items()}
    before = free_bytes()
    engine = open_cuda(folder, device=ONE)
    expected = embed(engine, texts, 256)
    assert before - free_bytes() <= sum(need.device_bytes for need in needs["device"])
    engine.close()
    assert most["device"] - most["host"] > 150e6
    with all_memory_but((most["device"] + most["host"]) // 2):
        engine = open_cuda(folder, device=ONE)
        assert "table of embeddings is in host memory" in engine.info["note"]
        np.testing.assert_array_equal(embed(engine, texts, 256), expected)
        engine.close()
    with (
        all_memory_but(most["host"] // 2),
        pytest.raises(DeviceMemoryError, match=r"device cuda:0: .* GB needed.*GB free"),
    ):
        open_cuda(folder, device=ONE)
