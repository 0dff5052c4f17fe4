"""OpenVINO as a rival of benchmarks/int8.py: a process of its own, with packages of its own.

    pip install openvino nncf torch transformers      # in a virtual environment
    python benchmarks/openvino_rival.py FOLDER int8 THREADS

Reads lines of JSON, [texts, tokens, clock], and answers each with a line: the seconds of one pass
over that many texts of that many random ids, by the wall ("wall") or of this process ("cpu").
"int8" is its weight compression (a scale per row) with activations quantised in groups of 128;
"bf16" its default precision. ONEDNN_MAX_CPU_ISA bounds the instructions.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def torch_module(folder: Path) -> Any:
    """Qwen3 as a plain torch module, ids (texts, tokens) -> unit rows; Transformers' own does not
    convert."""
    import safetensors.torch
    import torch
    from torch import nn
    from torch.nn import functional

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim, eps = config["head_dim"], config["rms_norm_eps"]
    weights = safetensors.torch.load_file(folder / "model.safetensors")

    class Norm(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.weight = nn.Parameter(weights[f"{name}.weight"].float())

        def forward(self, x: Any) -> Any:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self.weight

    def linear(name: str) -> Any:
        weight = weights[f"{name}.weight"].float()
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        module.weight.data = weight
        return module

    class Layer(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            attention = f"{name}.self_attn"
            self.q, self.k, self.v, self.o = (linear(f"{attention}.{n}_proj") for n in "qkvo")
            self.q_norm, self.k_norm = Norm(f"{attention}.q_norm"), Norm(f"{attention}.k_norm")
            self.gate, self.up, self.down = (
                linear(f"{name}.mlp.{n}_proj") for n in ("gate", "up", "down")
            )
            self.norm = Norm(f"{name}.input_layernorm")
            self.post_norm = Norm(f"{name}.post_attention_layernorm")

        def forward(self, h: Any, cos: Any, sin: Any) -> Any:
            def rotate(x: Any) -> Any:
                left, right = x.chunk(2, -1)
                return x * cos + torch.cat([-right, left], -1) * sin

            x = self.norm(h)
            n, t = h.shape[0], h.shape[1]
            q = rotate(self.q_norm(self.q(x).view(n, t, heads, dim)).transpose(1, 2))
            k = rotate(self.k_norm(self.k(x).view(n, t, kv_heads, dim)).transpose(1, 2))
            v = self.v(x).view(n, t, kv_heads, dim).transpose(1, 2)
            group = heads // kv_heads
            k, v = (each.repeat_interleave(group, dim=1) for each in (k, v))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + self.o(y.transpose(1, 2).reshape(n, t, heads * dim))
            x = self.post_norm(h)
            return h + self.down(functional.silu(self.gate(x)) * self.up(x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding.from_pretrained(weights["embed_tokens.weight"].float())
            self.layers = nn.ModuleList(
                Layer(f"layers.{i}") for i in range(config["num_hidden_layers"])
            )
            self.norm = Norm("norm")
            exponents = torch.arange(0, dim, 2).float() / dim
            self.register_buffer("frequencies", config["rope_theta"] ** -exponents)

        def forward(self, ids: Any) -> Any:
            angles = torch.arange(ids.shape[1])[:, None].float() * self.frequencies
            angles = torch.cat([angles, angles], -1)
            h = self.embed(ids)
            for layer in self.layers:
                h = layer(h, angles.cos(), angles.sin())
            return functional.normalize(self.norm(h[:, -1]), dim=-1)

    return Model().eval()


def open_model(folder: Path, precision: str, n_threads: int) -> Any:
    """A compiled model: ids (texts, tokens) -> the last token's unit row of each."""
    import openvino
    import torch

    with torch.no_grad():
        example = torch.arange(32).reshape(2, 16)
        model = openvino.convert_model(torch_module(folder), example_input=(example,))
    model.reshape([-1, -1])
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": n_threads, "NUM_STREAMS": 1}
    if precision == "int8":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        # Where bf16 is the default precision, dynamic quantisation is off.
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}
    return openvino.Core().compile_model(model, "CPU", settings)


def main() -> None:
    import numpy as np

    folder, precision, n_threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = open_model(folder, precision, n_threads)
    print("ready", flush=True)
    for line in sys.stdin:
        n_texts, n_tokens, clock = json.loads(line)
        source = np.random.default_rng(n_texts + n_tokens)
        ids = source.integers(0, vocab_size, (n_texts, n_tokens))
        begin = CLOCKS[clock]()
        row = model(ids)[0][0]
        assert np.isfinite(row).all()
        print(CLOCKS[clock]() - begin, flush=True)


if __name__ == "__main__":
    main()
