"""The C engine (csrc/python/py_*.c). Private: `qwen3_embed.Embedder` is the interface."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

@final
class Job:
    """Sequences that are waiting for, or in, a forward pass."""

    def wait(self) -> None:
        """Returns when every row is written; raises what went wrong.

        The GIL is free meanwhile. On a signal whose handler raises (Ctrl-C), the job is
        cancelled and the exception leaves within 250 ms. Idempotent.
        """
    def cancel(self) -> None:
        """Asks the engine to stop; `wait` then raises RuntimeError("cancelled")."""
    def done(self) -> bool: ...

@final
class Engine:
    """Weights, a device and the one worker thread that runs forward passes."""

    def __init__(
        self,
        paths: Sequence[str],
        config: dict[str, Any],
        /,
        *,
        device: str = "cpu",
        num_threads: int = 0,
        batch_tokens: int = 0,
        dtype: str = "bfloat16",
        embedding: str = "auto",
        cuda_library: str | None = None,
        cublas_folder: str | None = None,
        cache_folder: str | None = None,
        places: Mapping[str, tuple[str, tuple[int, ...], int, int]] | None = None,
    ) -> None:
        """Maps the safetensors files and checks every weight; copies them to a CUDA device.

        `config` holds the ints hidden_size, intermediate_size, n_layers, n_heads,
        n_kv_heads, head_dim, vocab_size, max_length; the floats rms_norm_eps, rope_scale;
        and rope_inv_freq, a float32 buffer of head_dim / 2. 0 lets the engine choose
        num_threads and batch_tokens. device is "cpu", "cuda", "cuda:1", or "cuda:0,cuda:1",
        which splits the layers; dtype "int8" is for the CPU, "float8" and "int8-weights" for
        CUDA; embedding "device" or "host" too: where the table of embeddings lies. cuda_library is
        None where the build has none, cublas_folder None for the system's. In cache_folder the
        CUDA engine keeps what it measured.
        `places`, as of `tensor_places`, are those of the only path, if that is a GGUF file.
        """
    def rows(self, n: int, dim: int, /) -> npt.NDArray[np.float32]:
        """A new (n, dim) array over engine memory, not yet written; it outlives the engine."""
    def submit(
        self,
        tokens: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        out: npt.NDArray[np.float32],
        first_row: int,
        normalize: bool,
        adapter: int = 0,
        waits: bool = False,
        /,
    ) -> Job:
        """Queues len(cu_seqlens) - 1 sequences; row i goes to out[first_row + i].

        tokens and cu_seqlens are C-contiguous int32 buffers; both are copied and checked
        (ids in [0, vocab_size), lengths in [1, max_length]) before this returns.
        out is C-contiguous float32 (n, dim) with dim <= hidden_size.
        `adapter` is 0, the model itself, or a number that add_adapter returned. `waits` says that
        Job.wait() is the caller's next step, where a short job may then be computed.
        NonFiniteError.index and the message of a refused sequence count from first_row.
        """
    def done_fd(self) -> int:
        """A descriptor that becomes readable when jobs are done: an eventfd, the engine's own."""
    def counts(self) -> dict[str, float]:
        """Since it was opened: batches, their texts, the tokens computed for them, forward_s."""
    def pending_tokens(self) -> int:
        """Tokens submitted and not yet done: how busy the engine is."""
    def measure(self) -> tuple[float, float]:
        """The device's ceilings, measured now: FLOP/s of its best product of matrices in bf16 or
        int8, and bytes/s of its memory. Takes seconds and 1 GiB; not while another thread closes.
        """
    def add_adapter(self, tensors: dict[str, npt.NDArray[Any]], /) -> int:
        """Adds weights that stand in for some of the model's, by name without "model.".

        Matrices are bf16 as uint16, vectors float32. The CPU multiplies by the matrices where
        they lie and keeps them; a GPU gets copies, or DeviceMemoryError says what is missing.
        """
    def close(self) -> None:
        """Finishes the running batch, fails queued jobs with ValueError("closed"). Idempotent."""

    # device, kernels: str; num_threads, batch_tokens, mapped_bytes, owned_bytes: int;
    # note: str, empty or why passes are slower than they should be; closed: bool
    info: dict[str, Any]

def instruction_sets() -> list[str]:
    """CPU kernels this machine can run, best first: of amx_bf16, avx512_bf16, avx512_vnni,
    avx512, avx_vnni, avx2, portable; on aarch64 of neon_bf16, neon_i8, portable."""

def tensor_places(path: str, /) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """(dtype, shape, first byte in the file, bytes) of every tensor of a safetensors file.

    The header is parsed as strictly as a model's; ModelFileError or OSError otherwise.
    """

def equalise_begin(
    config: dict[str, Any], embed_tokens: npt.NDArray[np.uint16], /
) -> npt.NDArray[np.float64]:
    """Mean squares of the embedding's channels, (C,): the `stream` of the first layer.

    `config` is as for `Engine`; embed_tokens (V, C) is bf16.
    """

def quantize_layer(
    config: dict[str, Any],
    tensors: dict[str, npt.NDArray[Any]],
    stream: npt.NDArray[np.float64],
    num_threads: int,
    /,
) -> dict[str, npt.NDArray[Any]]:
    """A layer in int8, with the bits that an Engine with dtype "int8" computes at open.

    `tensors` are the layer's, by name without "layers.N.": matrices bf16 as uint16, vectors
    float32. `stream` is moved past the layer, so layers come in order. Returns by name the seven
    matrices in int8, their weight_scale (rows, 1), the two layer norms divided; and, of what
    columns were multiplied by, attention_input, value, output, mlp_input and activation.
    """

def cuda_memory(
    config: dict[str, Any],
    indices: tuple[int, ...],
    dtype: str,
    embedding: str,
    batch_tokens: int,
    cuda_library: str | None,
    cublas_folder: str | None,
    /,
) -> list[dict[str, int]]:
    """The bytes that Engine would take of each GPU, with these options, without opening it.

    Of several, each has n_layers of the layers. On the device: weights, activations (all that a
    pass writes) and spare (of CUDA itself, an estimate); host (pinned host memory); free and
    total of the device now; batch_tokens, as given or chosen. "auto" counts as "device".
    DeviceError as of cuda_devices.
    """

def cuda_devices(
    cuda_library: str | None, cublas_folder: str | None, /
) -> list[tuple[str, int, int, int]]:
    """(name, major, minor, memory_bytes) of each GPU, at least one.

    Raises DeviceError with one sentence on what is missing: CUDA in this build, the driver,
    cuBLAS or a GPU.
    """
