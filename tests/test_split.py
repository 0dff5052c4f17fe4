"""A model split over GPUs, as far as no GPU is needed: layers, micro-batches and arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from qwen3_embed import DeviceError, Embedder, Reranker
from qwen3_embed.loading import device as device_module
from qwen3_embed.loading.device import Gpu, resolve_device
from tests.support.cuda_plans import Memory, config_of, load_plans
from tests.support.engines import cpu_only

pytestmark = cpu_only
GB = 10**9


class Room(ctypes.Structure):
    """struct stage_room."""

    _fields_ = [("free_bytes", ctypes.c_size_t), ("fixed_bytes", ctypes.c_size_t)]


class Limits(ctypes.Structure):
    """struct cut_limits."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("micro_tokens", "max_rows", "max_seqs", "second_rows")),
        ("max_floats", ctypes.c_size_t),
    ]


class Micro(ctypes.Structure):
    """struct micro_batch."""

    _fields_ = [(name, ctypes.c_int) for name in ("first_seq", "n_seqs", "n_tokens", "slot")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_plans(tmp_path_factory.mktemp("plans"))


# ---- layers ----


def split(
    library: Any, rooms: Sequence[tuple[float, float]], n_layers: int, layer_gb: float
) -> list[int]:
    counts = (ctypes.c_int * len(rooms))()
    given = (Room * len(rooms))(*(Room(int(a * GB), int(b * GB)) for a, b in rooms))
    layer_bytes = ctypes.c_size_t(int(layer_gb * GB))
    library.layers_of_stages(given, len(rooms), n_layers, layer_bytes, counts)
    return list(counts)


@pytest.mark.parametrize(
    ("rooms", "n_layers", "layer_gb", "expected"),
    [
        ([(140, 2), (140, 2)], 36, 0.4, [18, 18]),
        ([(140, 2), (140, 2)], 7, 0.4, [3, 4]),  # the last layer takes less time
        ([(140, 2 + 2.0), (140, 2)], 36, 0.4, [16, 20]),  # a table as large as five layers
        ([(20, 2), (10, 1)], 30, 0.4, [20, 10]),
        ([(10.2, 3.345), (10.2, 2.1)], 36, 0.386, [17, 19]),  # two percent more, evener
        ([(9.9, 3.345), (9.9, 2.1)], 36, 0.386, [16, 20]),  # ... which would not fit
        ([(80, 1), (80, 1), (80, 1), (80, 1)], 36, 0.4, [9, 9, 9, 9]),
        ([(10, 20), (10, 1)], 4, 1.0, [1, 3]),  # nothing fits on the first: it has one
        ([(0, 1), (0, 1)], 4, 0.4, [2, 2]),
    ],
)
def test_layers_follow_free_memory(
    library: Any, rooms: Any, n_layers: int, layer_gb: float, expected: list[int]
) -> None:
    assert split(library, rooms, n_layers, layer_gb) == expected


@pytest.mark.parametrize("seed", range(20))
def test_no_split_has_a_smaller_largest_share(library: Any, seed: int) -> None:
    """Against all splits between three GPUs, but for the two percent that evenness may cost."""
    source = np.random.default_rng(seed)
    rooms = [(float(source.uniform(8, 80)), float(source.uniform(0.5, 4))) for _ in range(3)]
    n_layers, layer_gb = int(source.integers(3, 25)), float(source.uniform(0.05, 0.5))

    def largest(counts: Sequence[int]) -> float:
        return max(
            (fixed + n * layer_gb) / free for n, (free, fixed) in zip(counts, rooms, strict=True)
        )

    ours = split(library, rooms, n_layers, layer_gb)
    assert sum(ours) == n_layers
    assert min(ours) >= 1
    best = min(
        largest((a, b, n_layers - a - b))
        for a in range(1, n_layers - 1)
        for b in range(1, n_layers - a)
    )
    assert largest(ours) <= best * 1.02 * (1 + 1e-9)


@pytest.mark.parametrize(("model", "counts"), [("4B", (16, 20)), ("8B", (17, 19))])
def test_the_parts_of_a_model_are_the_whole(
    library: Any, model: str, counts: tuple[int, int]
) -> None:
    """Weights add up, the table is on the first alone, and each takes 0.56 of one GPU at most."""
    library.stage_memory.restype = Memory
    config = config_of(model, 40960)
    whole = library.memory(ctypes.byref(config), 0, 0, 16896)
    parts = [
        library.stage_memory(ctypes.byref(config), first, n, 4224)
        for first, n in zip((0, counts[0]), counts, strict=True)
    ]
    assert [part.n_layers for part in parts] == list(counts)
    assert 0 <= sum(part.weights for part in parts) - whole.weights < 100_000
    layer = library.stage_memory(ctypes.byref(config), 1, 2, 4224).weights
    layer -= library.stage_memory(ctypes.byref(config), 1, 1, 4224).weights
    table = config.vocab_size * config.hidden_size * 2
    difference = parts[0].weights - parts[1].weights - (counts[0] - counts[1]) * layer
    assert abs(difference - table) < 1000
    rooms = [(140.0, (p.weights - p.n_layers * layer + p.activations) / GB) for p in parts]
    assert tuple(split(library, rooms, sum(counts), layer / GB)) == counts
    for part in parts:
        assert (part.weights + part.activations) / (whole.weights + whole.activations) <= 0.565


# ---- micro-batches ----


class Cut(NamedTuple):
    """The micro-batches, and of each of their sequences the index in the batch and the prefix."""

    micros: list[Any]
    origins: list[int]
    prefixes: list[int]


def cut(library: Any, lengths: Any, prefixes: Any, n_out: int, limits: Limits) -> Cut:
    n = len(lengths)
    tokens: npt.NDArray[np.int32] = np.ascontiguousarray(lengths, np.int32)
    given: npt.NDArray[np.int32] = np.ascontiguousarray(prefixes, np.int32)
    micros = (Micro * n)()
    origins, found = np.zeros(2 * n, np.int32), np.zeros(2 * n, np.int32)

    def pointer(array: npt.NDArray[np.int32]) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    n_micros = library.cut_texts(
        *(pointer(tokens), pointer(given), n, n_out, ctypes.byref(limits), micros),
        *(pointer(origins), pointer(found)),
    )
    n_seqs = sum(micro.n_seqs for micro in micros[:n_micros])
    return Cut(micros[:n_micros], origins[:n_seqs].tolist(), found[:n_seqs].tolist())


H200 = Limits(4224, 32768, 4224, 4224, 2 << 20)


def check(made: Cut, lengths: Any, prefixes: Any, n_out: int, limits: Limits) -> None:
    """Every text once, in order, after its prefix, and nothing beyond the limits."""
    texts = [i for i, prefix in enumerate(prefixes) if prefix != -2]
    assert [i for i in made.origins if prefixes[i] != -2] == texts
    end = 0
    for k, micro in enumerate(made.micros):
        assert micro.first_seq == end
        end += micro.n_seqs
        own = made.origins[micro.first_seq : end]
        assert micro.n_tokens == sum(int(lengths[i]) for i in own) <= limits.max_rows
        assert len(set(own)) == len(own) <= limits.max_seqs
        n_texts = sum(prefixes[i] != -2 for i in own)
        assert n_texts >= 1
        assert n_texts * n_out <= limits.max_floats
        for place, i in enumerate(own):
            at = made.prefixes[micro.first_seq + place]
            assert at < place
            assert (own[at] if at >= 0 else -1) == (prefixes[i] if prefixes[i] >= 0 else -1)
        assert micro.slot in (0, 1)
        if micro.slot == 1:
            assert micro.n_tokens <= limits.second_rows
            assert made.micros[k - 1].slot == 0


def test_a_large_batch_keeps_both_gpus_busy(library: Any) -> None:
    """16 micro-batches of 8 texts: two GPUs take 17 stages' time for 32 stages."""
    lengths = [512] * 128
    made = cut(library, lengths, [-1] * 128, 4096, H200)
    check(made, lengths, [-1] * 128, 4096, H200)
    assert [micro.n_tokens for micro in made.micros] == [4096] * 16
    assert [micro.slot for micro in made.micros] == [0, 1] * 8


@pytest.mark.parametrize(
    ("lengths", "n_micros"), [([16], 1), ([512, 512], 1), ([100] * 80, 8), ([30_000, 16], 2)]
)
def test_small_batches(library: Any, lengths: list[int], n_micros: int) -> None:
    made = cut(library, lengths, [-1] * len(lengths), 1024, H200)
    check(made, lengths, [-1] * len(lengths), 1024, H200)
    assert len(made.micros) == n_micros


def test_results_fit_half_the_ring(library: Any) -> None:
    made = cut(library, [1] * 4000, [-1] * 4000, 4096, H200)
    check(made, [1] * 4000, [-1] * 4000, 4096, H200)
    assert max(micro.n_seqs for micro in made.micros) == 512


@pytest.mark.parametrize("seed", range(30))
def test_random_batches(library: Any, seed: int) -> None:
    source = np.random.default_rng(seed)
    n_prefixes, n_texts = int(source.integers(0, 5)), int(source.integers(1, 300))
    longest = int(source.choice([8, 500, 4000]))
    lengths = [*source.integers(1, longest + 1, n_prefixes + n_texts)]
    prefixes = [-2] * n_prefixes + [*source.integers(-1, max(n_prefixes, 1), n_texts)]
    if n_prefixes == 0:
        prefixes = [-1] * n_texts
    limits = Limits(int(source.choice([300, 4224])), 8192, 4224, 384, 2 << 20)
    made = cut(library, lengths, prefixes, 1024, limits)
    check(made, lengths, prefixes, 1024, limits)


def test_a_long_prefix_is_not_computed_for_every_few_texts(library: Any) -> None:
    """In micro-batches of 4,224 tokens half of the work would be the prefix's."""
    lengths, prefixes = [2000, *[500] * 100], [-2, *[0] * 100]
    made = cut(library, lengths, prefixes, 1024, H200)
    check(made, lengths, prefixes, 1024, H200)
    computed = sum(micro.n_tokens for micro in made.micros)
    assert computed <= sum(lengths) * 1.15
    assert len(made.micros) >= 2


# ---- arguments ----


def test_devices_of_a_split() -> None:
    two = ["cuda:0", "cuda:1"]
    assert resolve_device(two, "layers") == ("cuda:0,cuda:1",)
    assert resolve_device("cuda:0,cuda:1", "layers") == ("cuda:0,cuda:1",)
    assert resolve_device(["cuda:0", "cuda"], "layers") == ("cuda:0,cuda:0",)
    assert resolve_device("cuda:0,cuda:1") == ("cuda:0", "cuda:1")
    with pytest.raises(ValueError, match="expected each device once"):
        resolve_device("cuda:0,cuda:0")


@pytest.mark.parametrize(
    ("device", "kind", "message"),
    [
        ("cuda:0", "layers", r"device='cuda:0' is 1 of them, expected a list of 2 to 16 GPUs"),
        (["cuda:1"], "layers", r"device=\['cuda:1'\] is 1 of them"),
        (["cuda"] * 17, "layers", "is 17 of them"),
        ("cpu", "layers", "device='cpu' is one device, expected GPUs"),
        (["cuda:0", "cpu"], "layers", "or a list of CUDA devices"),
        ([], "layers", "or a list of CUDA devices"),
        (["cuda:0", "cuda:1"], "tensors", "split='tensors', expected 'layers' or None"),
        ("auto", 2, "split=2, expected 'layers' or None"),
    ],
)
def test_refused_arguments(device: Any, kind: Any, message: str) -> None:
    for model in (Embedder, Reranker):
        with pytest.raises(ValueError, match=message):
            model("mini", device=device, split=kind)


def test_auto_is_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(f"cuda:{i}", "NVIDIA H200", (9, 0), 1 << 37) for i in range(2)]
    monkeypatch.setattr(device_module, "list_gpus", lambda: gpus)
    for device in ("auto", "cuda:all", None):
        assert resolve_device(device, "layers") == ("cuda:0,cuda:1",)
    del gpus[1]
    with pytest.raises(DeviceError, match="cuda:0 is the only GPU, expected two or more"):
        resolve_device("auto", "layers")
