"""The CUDA engine's rivals: Transformers and sentence-transformers on PyTorch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import transformers

from qwen3_embed.templates import (
    DEFAULT_INSTRUCTION,
    RERANKER_PREFIX,
    RERANKER_SUFFIX,
    reranker_body,
)

BATCH_SIZES = (32, 64, 128, 256)
CROSS_BATCH_SIZES = (25, 50, 100)
FLOAT8_MAX = 448.0


def gpu_words() -> str:
    """GPU, driver and CUDA, for the results."""
    from ctypes import CDLL, byref, c_int

    driver = c_int()
    CDLL("libcuda.so.1").cuDriverGetVersion(byref(driver))
    version = Path("/proc/driver/nvidia/version")
    name = version.read_text().split("Module")[1].split()[0:4] if version.exists() else []
    number = next((word for word in name if word[:1].isdigit()), "")
    return (
        f"{torch.cuda.get_device_name()}, driver {number} (CUDA {driver.value // 1000}."
        f"{driver.value % 1000 // 10}), torch {torch.__version__}"
    )


class Transformers:
    """A Qwen3 model on the GPU as Transformers runs it, pooled at the last token."""

    def __init__(self, folder: Path, dtype: str) -> None:
        transformers.logging.disable_progress_bar()
        self.model = transformers.AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", device_map="cuda"
        ).eval()

    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, T) ids on the GPU to (n, C) unit rows there."""
        with torch.inference_mode():
            rows = self.model(ids, use_cache=False).last_hidden_state[:, -1].float()
            return torch.nn.functional.normalize(rows, dim=-1)

    def encode_each(self, texts: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float64]:
        """Each text alone, without padding."""
        rows = [self.encode(torch.from_numpy(t.astype(np.int64))[None].cuda()) for t in texts]
        return torch.cat(rows).double().cpu().numpy()

    def compile(self) -> None:
        """By torch.compile, layer by layer: one compilation serves all."""
        for layer in self.model.layers:
            layer.compile()

    def to_float8(self, fast: bool) -> Self:
        """Puts e4m3 products, scaled by row and by channel, in the place of the layers' own."""
        for layer in self.model.layers:
            for parent in (layer.self_attn, layer.mlp):
                for name, module in list(parent.named_children()):
                    if isinstance(module, torch.nn.Linear):
                        setattr(parent, name, Float8Linear(module, fast))
        return self


class Float8Linear(torch.nn.Module):
    """A product of e4m3 matrices by torch._scaled_mm, both quantised row by row.

    fast: the tensor cores add up by themselves, with fewer bits than fp32's.
    """

    def __init__(self, linear: torch.nn.Linear, fast: bool) -> None:
        super().__init__()
        self.options = {"out_dtype": torch.bfloat16, "use_fast_accum": fast}
        self.weight, self.scale = quantise_rows(linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = quantise_rows(x.reshape(-1, x.shape[-1]))
        y = torch._scaled_mm(rows, self.weight.t(), scale, self.scale.t(), **self.options)
        return y.reshape(*x.shape[:-1], -1)


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, k) as e4m3, and (m, 1) fp32 scales."""
    scale = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / FLOAT8_MAX
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


class SentenceTransformers:
    """A model folder as sentence-transformers runs it, in bf16."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        options: dict[str, Any] = {"dtype": torch.bfloat16}
        self.model = SentenceTransformer(str(folder), device="cuda", model_kwargs=options)

    def best_rate(self, texts: list[str], lengths: npt.NDArray[np.int64]) -> tuple[str, float]:
        """Tokens per second at the best batch size that fits; its first batches warm up."""
        n_tokens = int(lengths[: len(texts)].sum())
        self.model.encode(texts[:64], batch_size=32)
        rates = {}
        for batch_size in BATCH_SIZES:
            begin = time.perf_counter()
            try:
                self.model.encode(texts, batch_size=batch_size, show_progress_bar=False)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break  # larger ones need more
            rates[batch_size] = n_tokens / (time.perf_counter() - begin)
            print(f"batches of {batch_size}: {rates[batch_size]:.0f} tokens/s", flush=True)
        best = max(rates, key=lambda size: rates[size])
        return f"sentence-transformers, batches of {best}", rates[best]

    def query_ms(self, query: str) -> float:
        """The median of 20 calls."""
        times = []
        for _ in range(25):
            begin = time.perf_counter()
            self.model.encode(query)
            times.append(time.perf_counter() - begin)
        return float(np.median(times[5:])) * 1e3


class CrossEncoderRival:
    """A reranker's folder as sentence-transformers' CrossEncoder runs it, in bf16.

    The two texts of a pair are one prompt, cut where the tokenizer would: before the space that
    precedes the document. So the CrossEncoder reads the ids that ours makes.
    """

    def __init__(self, folder: Path, device: str) -> None:
        from sentence_transformers import CrossEncoder

        transformers.logging.disable_progress_bar()
        options: dict[str, Any] = {"dtype": torch.bfloat16}
        options = {"model_kwargs": options, "activation_fn": torch.nn.Identity()}
        self.model = CrossEncoder(str(folder), device=device, **options)

    @staticmethod
    def _prompt(query: str, document: str) -> tuple[str, str]:
        before = RERANKER_PREFIX + reranker_body(DEFAULT_INSTRUCTION, query, "")
        return before.removesuffix(" "), f" {document}{RERANKER_SUFFIX}"

    def tokens(self, query: str, document: str) -> list[int]:
        """The ids of a pair."""
        ids: list[int] = self.model.preprocess([self._prompt(query, document)])["input_ids"][0]
        return torch.as_tensor(ids).tolist()

    def scores(self, pairs: Sequence[tuple[str, str]], batch_size: int) -> npt.NDArray[np.float32]:
        """(n,) logits of yes minus those of no."""
        prompts = [self._prompt(*pair) for pair in pairs]
        logits = self.model.predict(prompts, batch_size=batch_size, show_progress_bar=False)
        return np.asarray(logits, np.float32)
