"""Train the student on one device within a time budget, or go on from a checkpoint.

The one idea: two stages in one loop. First the student learns to stand where the teacher
stands (English, and Chinese through translations); then contrastive pairs with mined hard
negatives take over. The clock, not a step count, drives the schedule.

    python train.py --data CORPUS_FOLDER --out FOLDER --seconds 400
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint import load_weights, save_weights
from data import DEFAULT_TASK, TASKS, Corpus, Texts, is_english, prompted, tokenise
from losses import DIMS, contrastive, distillation, ndcg_at_10
from model import Shape, Student
from teacher import Teacher

# part of the steps, pairs a step, most tokens of a document
RECIPE = {
    "en": (0.22, 1792, 160),
    "zh": (0.05, 1024, 192),
    "zh_en": (0.06, 1024, 160),
    "en_zh": (0.03, 1024, 192),
    "parallel": (0.22, 3072, 96),
    "sense": (0.13, 3072, 64),
    "entry": (0.05, 2048, 128),
    "title": (0.08, 2048, 160),
    "long": (0.01, 96, 2048),
    "code": (0.11, 1280, 224),
    "code_named": (0.04, 1280, 192),
}
MINED_AT = (0.42, 0.70)  # parts of the time at which hard negatives are mined anew
CHUNK_TOKENS = 65536  # padded tokens of one forward pass
PROMPTED, DEFAULT_PROMPTED = 0.45, 0.75  # draws below: task, default, else bare query


def plan_chunks(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut positions, sorted by length, into chunks of at most `budget` padded tokens."""
    order = np.argsort(-lengths, kind="stable")
    chunks, start = [], 0
    while start < len(order):
        n = max(1, budget // int(lengths[order[start]]))
        chunks.append(order[start : start + n])
        start += n
    return chunks


class Trainer:
    """Everything that lives on the device, and one method for each part of a step."""

    def __init__(self, args: argparse.Namespace, log: TextIO) -> None:
        self.args, self.log = args, log
        self.start = time.time()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        torch.set_float32_matmul_precision("high")
        self.random = np.random.default_rng(args.seed)
        self.corpus = Corpus(args.data / "corpus.jsonl.xz", args.limit)
        self.say(f"corpus: {len(self.corpus.texts)} texts")
        tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
        self.end = tokenizer.token_to_id("<|endoftext|>")
        self.texts, self.queries, self.default_queries = self._tokenise(tokenizer)
        self.say(f"tokens: {len(self.texts.tokens)}")
        self.student = Student(Shape(vocab_size=tokenizer.get_vocab_size())).to(self.device)
        self.targets, self.target_of = self._targets(tokenizer)
        if args.resume:
            load_weights(self.student, args.resume)
        self.say(f"parameters: {sum(p.numel() for p in self.student.parameters())}")
        self.negatives: dict[str, np.ndarray] = {}
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=args.lr,
            betas=(0.9, 0.98),
            weight_decay=0.02,
            fused=self.device.type == "cuda",
        )

    def say(self, text: str) -> None:
        """Write one line to the log and to the terminal."""
        line = f"{time.time() - self.start:7.1f} s  {text}"
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def _tokenise(self, tokenizer: Tokenizer) -> tuple[Texts, dict[str, Texts], dict[str, Texts]]:
        texts = tokenise(tokenizer, self.corpus.texts, 2048, self.device)
        task, default = {}, {}
        for kind, pairs in self.corpus.kinds.items():
            queries = [self.corpus.texts[i] for i in pairs.query]
            for found, instruction in ((task, TASKS[kind]), (default, DEFAULT_TASK)):
                prompts = [prompted(instruction, query) for query in queries]
                found[kind] = tokenise(tokenizer, prompts, 256, self.device)
        return texts, task, default

    def _targets(self, tokenizer: Tokenizer) -> tuple[Tensor, np.ndarray]:
        """Return teacher vectors cut by principal directions to (n, C), and text -> row."""
        teacher = Teacher(self.args.data / "teacher", self.device)
        row_of = np.full(len(self.corpus.texts), -1, dtype=np.int64)
        english = [i for i, text in enumerate(self.corpus.texts) if is_english(text)]
        row_of[english] = np.arange(len(english))
        vectors = teacher.encode([self.corpus.texts[i][:1500] for i in english])
        sample = vectors[torch.randperm(len(vectors), device=self.device)[:200_000]]
        # Uncentred, so that dot products survive the cut; ordered, so that dims nest.
        _, basis = torch.linalg.eigh(sample.T.double() @ sample.double())
        basis = basis.flip(1)[:, : DIMS[-1]].float()
        targets = vectors @ basis
        kept = float((targets.norm(dim=1) ** 2).mean())
        self.say(f"teacher: {len(vectors)} vectors, {kept:.3f} of their square kept")
        if not self.args.resume:
            self._init_words(tokenizer, teacher, basis)
        pairs = self.corpus.kinds.get("parallel")
        if pairs is not None:  # a translation stands where its original stands
            chinese = row_of[pairs.document] < 0
            row_of[pairs.document[chinese]] = row_of[pairs.query[chinese]]
        return targets, row_of

    @torch.no_grad()
    def _init_words(self, tokenizer: Tokenizer, teacher: Teacher, basis: Tensor) -> None:
        """Start the token table from the teacher's vectors of the tokens' texts."""
        words = [tokenizer.decode([i]).strip() for i in range(tokenizer.get_vocab_size())]
        chosen = [i for i, w in enumerate(words) if len(w) > 1 and w.isascii() and w.isalpha()]
        vectors = teacher.encode([words[i] for i in chosen]) @ basis
        vectors = F.normalize(vectors - vectors.mean(0), dim=1)
        table = self.student.embed_tokens.weight
        at = torch.tensor(chosen, device=self.device)
        table[at] = 0.5 * table[at] + vectors * 0.02 * math.sqrt(table.shape[1])

    def encode(self, texts: Texts, index: np.ndarray, width: int, drop: float) -> Tensor:
        """Return the pooled vectors (n, C) of the texts `index`, in order."""
        lengths = np.minimum(texts.lengths[index], width)
        chunks = plan_chunks(lengths, CHUNK_TOKENS)
        parts = []
        for chunk in chunks:
            ids, n_tokens = texts.rows(index[chunk], width, self.end)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=ids.is_cuda):
                parts.append(self.student(ids, n_tokens, drop).float())
        back = np.empty(len(index), dtype=np.int64)
        back[np.concatenate(chunks)] = np.arange(len(index))
        return torch.cat(parts)[torch.from_numpy(back).to(self.device)]

    def step_loss(self, kind: str, weights: tuple[float, float]) -> tuple[Tensor, float, float]:
        """Draw one batch of `kind` and return its loss and the two parts as numbers."""
        _, n_pairs, width = RECIPE[kind]
        pairs = self.corpus.kinds[kind]
        usable = np.flatnonzero(~pairs.validation)
        chosen = self.random.choice(usable, min(n_pairs, len(usable)), replace=False)
        draw = self.random.random()
        if draw < PROMPTED:
            query = self.encode(self.queries[kind], chosen, 128, 0.05)
        elif draw < DEFAULT_PROMPTED:
            query = self.encode(self.default_queries[kind], chosen, 128, 0.05)
        else:
            query = self.encode(self.texts, pairs.query[chosen], 128, 0.05)
        if kind != "long" and self.random.random() < 0.4:  # see shorter cuts of documents
            width = int(self.random.integers(width // 2, width))
        rows = pairs.document[chosen]
        document = self.encode(self.texts, rows, width, 0.05)
        group = torch.from_numpy(pairs.group[chosen]).to(self.device)
        negative = negative_group = None
        if kind in self.negatives:  # half of the pairs bring one: the whole would cost memory
            found = self.negatives[kind][chosen[: len(chosen) // 2]]
            found = found[np.arange(len(found)), self.random.integers(0, 8, len(found))]
            negative = self.encode(self.texts, pairs.document[found], width, 0.0)
            negative_group = torch.from_numpy(pairs.group[found]).to(self.device)
        nce = contrastive(query, document, negative, group, negative_group)
        distilled = []
        for vectors, at in (
            (query, self.target_of[pairs.query[chosen]]),
            (document, self.target_of[rows]),
        ):
            known = np.flatnonzero(at >= 0)
            if len(known) > 8:
                target = self.targets[torch.from_numpy(at[known]).to(self.device)]
                distilled.append(
                    distillation(vectors[torch.from_numpy(known).to(self.device)], target)
                )
        near = torch.stack(distilled).mean() if distilled else nce.new_zeros(())
        return weights[0] * nce + weights[1] * near, nce.detach(), near.detach()

    @torch.no_grad()
    def mine(self) -> None:
        """Find for every record documents of its kind that score high and are not its own."""
        self.student.eval()
        for kind, pairs in self.corpus.kinds.items():
            if kind == "long" or len(pairs.query) < 32:
                continue
            width = RECIPE[kind][2]
            query = F.normalize(
                self.encode(self.default_queries[kind], np.arange(len(pairs.query)), 128, 0.0)
            )
            document = F.normalize(self.encode(self.texts, pairs.document, width, 0.0))
            group = torch.from_numpy(pairs.group).to(self.device)
            text = torch.from_numpy(pairs.document).to(self.device)
            aside = torch.from_numpy(pairs.validation).to(self.device)
            found = np.empty((len(query), 8), dtype=np.int64)
            for start in range(0, len(query), 4096):
                rows = slice(start, start + 4096)
                scores = query[rows] @ document.T
                own = (query[rows] * document[rows]).sum(1, keepdim=True)
                bad = (group[rows, None] == group[None]) | (text[rows, None] == text[None])
                # What scores almost as high as the answer is often an answer too.
                bad |= (scores > 0.95 * own) | aside[None]
                top = scores.masked_fill(bad, -1).topk(8, dim=1).indices
                found[rows] = top.cpu().numpy()
            self.negatives[kind] = found
        self.student.train()
        self.say("hard negatives mined")

    @torch.no_grad()
    def validate(self, pool: int = 1500) -> dict[str, float]:
        """Return nDCG@10 of the validation records of each kind, full and at 32 dims."""
        self.student.eval()
        figures = {}
        for kind, pairs in self.corpus.kinds.items():
            asked = np.flatnonzero(pairs.validation)[:1000]
            if len(asked) < 5 or kind in ("long", "code_named"):
                continue
            _, first = np.unique(pairs.document[asked], return_index=True)
            asked = asked[np.sort(first)]
            rest = np.setdiff1d(np.arange(len(pairs.query)), asked)[: max(0, pool - len(asked))]
            documents = np.concatenate([pairs.document[asked], pairs.document[rest]])
            query = self.encode(self.default_queries[kind], asked, 128, 0.0)
            document = self.encode(self.texts, documents, RECIPE[kind][2], 0.0)
            for dim in (DIMS[-1], 32):
                scores = F.normalize(query[:, :dim]) @ F.normalize(document[:, :dim]).T
                relevant = torch.arange(len(asked), device=self.device)
                figures[f"{kind}/{dim}"] = round(100 * ndcg_at_10(scores, relevant), 1)
        self.student.train()
        return figures

    def rate(self, part: float) -> float:
        """Learning rate factor at `part` (0 to 1) of the training time."""
        warm = min(1.0, part / 0.03)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))

    def run(self) -> None:
        """Train until the time is used up; validate and save on the way."""
        begin, budget = time.time(), self.args.seconds
        kinds = [k for k in RECIPE if k in self.corpus.kinds]
        odds = np.array([RECIPE[k][0] for k in kinds])
        first = self.args.first_part  # a resumed run starts at this part of the schedule
        mined = [at for at in MINED_AT if at > first]
        shown, saved, step, skipped = begin, begin, 0, 0
        sums: dict[str, list[Tensor]] = {}
        if first > MINED_AT[0]:
            self.mine()
        while True:
            part = first + (1 - first) * (time.time() - begin) / budget
            if part >= 1 or step >= self.args.max_steps:
                break
            if mined and part > mined[0]:
                mined.pop(0)
                self.mine()
            later = min(1.0, max(0.0, (part - 0.15) / 0.35))
            weights = (0.5 + 0.5 * later, 10.0 - 8.5 * later)
            kind = kinds[self.random.choice(len(kinds), p=odds / odds.sum())]
            for settings in self.optimizer.param_groups:
                settings["lr"] = self.args.lr * self.rate(part)
            loss, nce, near = self.step_loss(kind, weights)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            if math.isfinite(float(norm)):
                self.optimizer.step()
            else:
                skipped += 1
            sums.setdefault(kind, []).append(torch.stack([nce, near]))
            step += 1
            if time.time() - shown > self.args.every:
                shown = time.time()
                means = {k: torch.stack(v).mean(0).tolist() for k, v in sums.items()}
                line = " ".join(f"{k} {a:.3f}/{b:.3f}" for k, (a, b) in means.items())
                self.say(f"step {step} part {part:.3f} skipped {skipped} nce/near: {line}")
                self.say(f"validation {json.dumps(self.validate())}")
                if self.device.type == "cuda":
                    self.say(f"most memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
                sums = {}
            if time.time() - saved > 4 * self.args.every:
                saved = time.time()
                save_weights(self.student, self.args.out)
        self.say(f"end: step {step}; validation {json.dumps(self.validate())}")
        save_weights(self.student, self.args.out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and log")
    parser.add_argument("--seconds", type=float, default=400, help="training time")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=20, help="seconds between log lines")
    parser.add_argument("--resume", type=Path, help="folder with weights to go on from")
    parser.add_argument("--first-part", type=float, default=0.0, help="place in the schedule")
    parser.add_argument("--limit", type=int, help="records of each kind (smoke runs)")
    parser.add_argument("--max-steps", type=int, default=10**9)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "train.log").open("a") as log:
        Trainer(args, log).run()


if __name__ == "__main__":
    main()
