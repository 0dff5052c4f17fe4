"""Fine-tunes a LoRA adapter on pairs of a query and its answer.

    python -m training.lora.train pairs.jsonl -o adapter --model mini --evaluate held_out.jsonl

Writes a PEFT folder that `Embedder(model, adapter=folder)` opens, and a checkpoint beside
it from which the same command line goes on after an interruption.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel

from qwen3_embed import Embedder
from qwen3_embed.loading.tokenizer import Tokenizer
from training.lora.losses import matryoshka
from training.lora.pairs import Pair, batches, read_pairs
from training.lora.ranking import mine, ndcg_at_10

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHECKPOINT = "checkpoint.pt"


class Trainer:
    """The network with its adapter, the optimiser, and the step they have reached."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.device = torch.device(options.device)
        self.dtype = getattr(torch, options.dtype)
        torch.manual_seed(options.seed)
        base = AutoModel.from_pretrained(folder, dtype=self.dtype)
        if options.checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.enable_input_require_grads()
        config = LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank,
            lora_dropout=options.dropout,
            target_modules=LINEAR,
            use_rslora=options.rslora,
            use_dora=options.dora,
        )
        self.model = get_peft_model(base, config).to(self.device).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=options.lr, weight_decay=0.01)
        self.step = 0  # optimiser steps done

    def rows(self, texts: Sequence[str]) -> Tensor:
        """(n, C) raw last-token rows in fp32: right-padded, which causal attention ignores."""
        batch = self.tokenizer.encode(texts)
        lengths = torch.from_numpy(np.diff(batch.cu_seqlens)).long()
        ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
        for i, n in enumerate(lengths.tolist()):
            start = int(batch.cu_seqlens[i])
            ids[i, :n] = torch.from_numpy(batch.tokens[start : start + n].astype(np.int64))
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        with torch.autocast(self.device.type, torch.bfloat16, self.dtype == torch.bfloat16):
            hidden = self.model(
                input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False
            ).last_hidden_state
        last = (lengths - 1).to(self.device)
        return hidden[torch.arange(len(texts), device=self.device), last].float()

    def loss(self, pairs: Sequence[Pair]) -> Tensor:
        """In-batch and hard negatives; a text that is a query's positive again is masked."""
        source = np.random.default_rng([self.options.seed, self.step])
        documents = [pair.positive for pair in pairs]
        for pair in pairs:
            n = min(len(pair.negatives), self.options.negatives)
            documents += [pair.negatives[i] for i in source.permutation(len(pair.negatives))[:n]]
        same = torch.tensor([[d == pair.positive for d in documents] for pair in pairs])
        rows = self.rows([pair.prompted for pair in pairs] + documents)
        return matryoshka(
            rows[: len(pairs)],
            rows[len(pairs) :],
            same.to(self.device),
            self.options.dims,
            self.options.temperature,
            self.options.margin,
        )

    def save(self, folder: Path) -> None:
        """The adapter as PEFT saves it, then the state to go on from, each whole or absent."""
        self.model.save_pretrained(folder)
        state: dict[str, Any] = {"step": self.step, "optimizer": self.optimizer.state_dict()}
        state |= {"adapter": get_peft_model_state_dict(self.model), "random": torch.get_rng_state()}
        part = folder / (CHECKPOINT + ".part")
        torch.save(state, part)
        part.replace(folder / CHECKPOINT)

    def resume(self, folder: Path) -> None:
        """Nothing happens without a checkpoint."""
        if (folder / CHECKPOINT).exists():
            state = torch.load(folder / CHECKPOINT, weights_only=True)
            set_peft_model_state_dict(self.model, state["adapter"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            self.step = state["step"]
            print(f"going on from step {self.step}")

    def run(self, pairs: Sequence[Pair], folder: Path) -> None:
        """Trains to the end of the last epoch; a checkpoint every `save_every` steps."""
        options = self.options
        size = min(options.batch_size, len(pairs))
        per_epoch = len(pairs) // size // options.accumulate
        if per_epoch == 0:
            raise SystemExit("error: fewer pairs than batch_size * accumulate")
        total = options.epochs * per_epoch
        bar = tqdm(total=total, initial=self.step, unit="step", mininterval=1.0)
        while self.step < total:
            epoch, done = divmod(self.step, per_epoch)
            parts = list(batches(pairs, size, options.seed, epoch))
            for k in range(done, per_epoch):
                now = parts[k * options.accumulate : (k + 1) * options.accumulate]
                bar.set_postfix(loss=f"{self._step(now, total):.3f}", refresh=False)
                bar.update()
                if self.step % options.save_every == 0 and self.step < total:
                    self.save(folder)
        bar.close()
        self.save(folder)

    def _step(self, parts: Sequence[Sequence[Pair]], total: int) -> float:
        warmup = max(1, total // 10)
        rise, fall = (self.step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * self.step / total)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * min(rise, fall)
        loss_sum = 0.0
        for part in parts:
            loss = self.loss(part) / len(parts)
            loss.backward()
            loss_sum += float(loss)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss_sum


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="mini", help="as Embedder takes it")
    parser.add_argument("--evaluate", type=Path, nargs="*", default=[], help="held-out pairs")
    parser.add_argument("--mine", type=int, default=0, help="hard negatives to mine for each pair")
    parser.add_argument("--negatives", type=int, default=2, help="used of each pair in a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rslora", action="store_true")
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--dims", type=int, nargs="+", help="default: the whole, half, quarter")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--margin", type=float, default=0.1, help="of a false negative's cosine")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--accumulate", type=int, default=1, help="batches per step")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--max-length", type=int, default=256, help="tokens of a text")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpointing", action="store_true", help="memory for time")
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    pairs = read_pairs(options.pairs)
    held_out = {path: read_pairs(path) for path in options.evaluate}
    options.output.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    with Embedder(options.model, max_length=options.max_length) as short:
        tokenizer = short.tokenizer  # cuts what is trained on, not what is evaluated
    with Embedder(options.model) as model:
        options.dims = options.dims or [model.dim, model.dim // 2, model.dim // 4]
        before = {path: ndcg_at_10(model, held) for path, held in held_out.items()}
        if options.mine:
            pairs = mine(model, pairs, options.mine)
        trainer = Trainer(model.folder, tokenizer, options)
        trainer.resume(options.output)
        trainer.run(pairs, options.output)
        model.add_adapter("new", options.output)
        model.set_adapter("new")
        for path, held in held_out.items():
            after = ndcg_at_10(model, held)
            print(
                f"{path.name}: nDCG@10 {before[path]:.4f} -> {after:.4f} "
                f"({after / before[path] - 1:+.1%}), {len(held)} pairs"
            )
    print(f"{options.output}: step {trainer.step}, {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
