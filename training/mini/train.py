"""Train the student on one device within a time budget, or go on from a checkpoint.

The one idea: two stages in one loop. First the student learns to stand where the teacher
stands (English, and Chinese through translations); then contrastive pairs with mined hard
negatives take over. The clock, not a step count, drives the schedule.

    python -m training.mini.train --data CORPUS_FOLDER --out FOLDER --seconds 500
"""

from __future__ import annotations

import argparse
import json
import math
import time
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from training.mini.checkpoint import load_weights, save_weights
from training.mini.data import (
    DEFAULT_TASK,
    TASKS,
    Corpus,
    Texts,
    encoders,
    is_english,
    prompted,
    to_device,
    tokenise,
)
from training.mini.losses import DIMS, contrastive, distillation, ndcg_at_10, relational
from training.mini.model import Shape, Student
from training.mini.muon import Muon
from training.mini.teacher import MAX_TOKENS, Teacher


class Share(NamedTuple):
    """Training settings of one kind of record."""

    steps: float  # part of the steps
    n_pairs: int  # of one step
    width: int  # most tokens of a document
    contrast: float = 1.0  # weight of InfoNCE
    mined: bool = True  # whether hard negatives are looked for


RECIPE = {
    "en": Share(0.12, 2048, 192),
    "crop": Share(0.10, 2048, 160),
    "title": Share(0.05, 2048, 160),
    "long": Share(0.01, 96, 2048, mined=False),
    "zh": Share(0.03, 1024, 192),
    "crop_zh": Share(0.03, 2048, 160),
    "zh_en": Share(0.03, 1024, 160),
    "en_zh": Share(0.02, 1024, 192, mined=False),
    "parallel": Share(0.11, 4096, 96, mined=False),
    "sense": Share(0.22, 3072, 48, 0.5),
    "word": Share(0.08, 3072, 48, 0.5, mined=False),
    "related": Share(0.05, 3072, 48, 0.25, mined=False),
    "entry": Share(0.01, 1024, 96, 0.5, mined=False),
    "code": Share(0.12, 1280, 224),
    "code_named": Share(0.02, 1280, 192, mined=False),
    "code_name": Share(0.03, 1280, 192, mined=False),
}
MINED_AT = (0.3, 0.6)  # parts of the time at which hard negatives are mined anew
N_MINED = 8
CHUNK_TOKENS = 131072  # padded tokens of one forward pass
QUERY_TOKENS = 128
DEFAULT_PROMPTED, TASK_PROMPTED = 0.5, 0.8  # draws below: default, task, else bare query
DROPPED = 0.08  # part of the token vectors that a training pass does not see; fades to none


def plan_chunks(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut positions, sorted by length, into chunks of at most `budget` padded tokens."""
    order = np.argsort(-lengths, kind="stable")
    chunks, start = [], 0
    while start < len(order):
        n = max(1, budget // int(lengths[order[start]]))
        chunks.append(order[start : start + n])
        start += n
    return chunks


class Deck:
    """Draws records in random order, each once before any comes again."""

    def __init__(self, records: np.ndarray, random: np.random.Generator) -> None:
        self.records, self.random, self.at = records, random, len(records)

    def draw(self, n: int) -> np.ndarray:
        """Return `n` records (all of them if there are fewer)."""
        n = min(n, len(self.records))
        if self.at + n > len(self.records):
            self.random.shuffle(self.records)
            self.at = 0
        self.at += n
        return self.records[self.at - n : self.at].copy()


class Trainer:
    """Everything that lives on the device, and one method for each part of a step."""

    def __init__(self, args: argparse.Namespace, log: TextIO) -> None:
        self.args, self.log = args, log
        self.start = time.time()
        pool = encoders()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        torch.set_float32_matmul_precision("high")
        self.random = np.random.default_rng(args.seed)
        self.corpus = Corpus(args.data / "corpus.jsonl.xz", args.limit)
        sizes = {kind: len(pairs.query) for kind, pairs in self.corpus.kinds.items()}
        self.say(f"corpus: {len(self.corpus.texts)} texts, records {sizes}")
        self.words = args.data / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(self.words))
        self.end = tokenizer.token_to_id("<|endoftext|>")
        self.texts = tokenise(pool, self.words, self.corpus.texts, 2048, self.device)
        self.queries = self._prompted(pool, TASKS)
        self.default_queries = self._prompted(pool, dict.fromkeys(TASKS, DEFAULT_TASK))
        self.say(f"tokens: {len(self.texts.tokens)}")
        self.student = Student(Shape(vocab_size=tokenizer.get_vocab_size()), self.device)
        if args.resume:
            load_weights(self.student, args.resume)
        self.targets, self.target_of = self._targets(pool, tokenizer)
        pool.terminate()
        if args.compile:
            torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
            self.student.compile_layers()
        self.say(f"parameters: {sum(p.numel() for p in self.student.parameters())}")
        self.negatives: dict[str, np.ndarray] = {}
        self.decks = {
            kind: Deck(np.flatnonzero(~pairs.validation), self.random)
            for kind, pairs in self.corpus.kinds.items()
        }
        self.optimizers = self._optimizers()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = [p for p in self.student.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.student.parameters() if id(p) not in chosen]
        fused = self.device.type == "cuda"
        return [
            Muon(matrices, lr=self.args.lr, decay=0.05),
            torch.optim.AdamW(
                rest, lr=self.args.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=fused
            ),
        ]

    def say(self, text: str) -> None:
        """Write one line to the log and to the terminal."""
        line = f"{time.time() - self.start:7.1f} s  {text}"
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def _prompted(self, pool: Pool, tasks: dict[str, str]) -> dict[str, Texts]:
        found = {}
        for kind, pairs in self.corpus.kinds.items():
            prompts = [prompted(tasks[kind], self.corpus.texts[i]) for i in pairs.query]
            found[kind] = tokenise(pool, self.words, prompts, QUERY_TOKENS, self.device)
        return found

    def _targets(self, pool: Pool, tokenizer: Tokenizer) -> tuple[Tensor, np.ndarray]:
        """Return teacher vectors cut by principal directions to (n, C), and text -> row."""
        teacher = Teacher(self.args.data / "teacher", self.device)
        row_of = np.full(len(self.corpus.texts), -1, dtype=np.int64)
        english = [i for i, text in enumerate(self.corpus.texts) if is_english(text)]
        row_of[english] = np.arange(len(english))
        read = [self.corpus.texts[i][:1500] for i in english]
        pieces = tokenise(pool, teacher.tokenizer, read, MAX_TOKENS, self.device)
        self.say(f"teacher's tokens: {len(pieces.tokens)}")
        vectors = teacher.encode(pieces)
        sample = vectors[torch.randperm(len(vectors), device=self.device)[:200_000]]
        # Uncentred, so that dot products survive the cut; ordered, so that dims nest.
        _, basis = torch.linalg.eigh(sample.T.double() @ sample.double())
        basis = basis.flip(1)[:, : DIMS[-1]].float()
        targets = vectors @ basis
        kept = float((targets.norm(dim=1) ** 2).mean())
        self.say(f"teacher: {len(vectors)} vectors, {kept:.3f} of their square kept")
        if self.args.resume:
            self._turn(targets, np.array(english))
        else:
            self._init_words(pool, tokenizer, teacher, basis)
        pairs = self.corpus.kinds.get("parallel")
        if pairs is not None:  # a translation stands where its original stands
            chinese = row_of[pairs.document] < 0
            row_of[pairs.document[chinese]] = row_of[pairs.query[chinese]]
        return targets, row_of

    @torch.no_grad()
    def _turn(self, targets: Tensor, english: np.ndarray) -> None:
        """Give the columns of targets (n, C), in place, the signs that the student knows.

        A principal direction has no sign of its own, and the student of a resumed run has
        learnt that of the run before.
        """
        rows = np.unique(np.linspace(0, len(english) - 1, 8192).astype(np.int64))
        student = F.normalize(self.encode(self.texts, english[rows], 128, 0.0))
        agreement = (student * targets[to_device(rows, self.device)]).sum(0)
        targets *= torch.where(agreement < 0, -1.0, 1.0)
        self.say(f"directions turned to the student's: {int((agreement < 0).sum())}")

    @torch.no_grad()
    def _init_words(
        self, pool: Pool, tokenizer: Tokenizer, teacher: Teacher, basis: Tensor
    ) -> None:
        """Start the token table from the teacher's vectors of the tokens' texts."""
        words = [tokenizer.decode([i]).strip() for i in range(tokenizer.get_vocab_size())]
        chosen = [i for i, w in enumerate(words) if len(w) > 1 and w.isascii() and w.isalpha()]
        read = [words[i] for i in chosen]
        pieces = tokenise(pool, teacher.tokenizer, read, MAX_TOKENS, self.device)
        vectors = teacher.encode(pieces) @ basis
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
        return torch.cat(parts)[to_device(back, self.device)]

    def step_loss(self, kind: str, later: float, drop: float) -> Tensor:
        """Draw one batch of `kind`; return its loss and the loss's three parts, (4,).

        `later` goes from 0 (mostly distillation) to 1 (mostly contrast); `drop` is the part
        of the token vectors hidden, the same in every text: where only some texts miss
        tokens, the student learns to tell those apart.
        """
        share, pairs = RECIPE[kind], self.corpus.kinds[kind]
        chosen = self.decks[kind].draw(share.n_pairs)
        draw = self.random.random()
        if draw < DEFAULT_PROMPTED:
            query = self.encode(self.default_queries[kind], chosen, QUERY_TOKENS, drop)
        elif draw < TASK_PROMPTED:
            query = self.encode(self.queries[kind], chosen, QUERY_TOKENS, drop)
        else:
            query = self.encode(self.texts, pairs.query[chosen], QUERY_TOKENS, drop)
        width = share.width
        if kind != "long" and self.random.random() < 0.4:  # see shorter cuts of documents
            width = int(self.random.integers(width // 2, width))
        rows = pairs.document[chosen]
        document = self.encode(self.texts, rows, width, drop)
        group = to_device(pairs.group[chosen], self.device)
        negative = negative_group = None
        if kind in self.negatives:  # half of the pairs bring one: the whole would cost time
            found = self.negatives[kind][chosen[: len(chosen) // 2]]
            found = found[np.arange(len(found)), self.random.integers(0, N_MINED, len(found))]
            negative = self.encode(self.texts, pairs.document[found], width, drop)
            negative_group = to_device(pairs.group[found], self.device)
        nce = contrastive(query, document, negative, group, negative_group)
        near, order = self._distilled(query, document, pairs.query[chosen], rows)
        contrast = share.contrast * (0.5 + 0.5 * later)
        loss = contrast * nce + (10 - 8 * later) * near + (1.5 - 0.75 * later) * order
        return torch.stack([loss, nce.detach(), near.detach(), order.detach()])

    def _distilled(
        self, query: Tensor, document: Tensor, asked: np.ndarray, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return the cosine and the ranking loss to the teacher, where it knows the texts."""
        targets, near = [], []
        at_query, at_document = self.target_of[asked], self.target_of[rows]
        for vectors, at in ((query, at_query), (document, at_document)):
            known = np.flatnonzero(at >= 0)
            if len(known) > 8:
                targets.append(self.targets[to_device(at[known], self.device)])
                near.append(distillation(vectors[to_device(known, self.device)], targets[-1]))
        both = np.flatnonzero((at_query >= 0) & (at_document >= 0))
        order = query.new_zeros(())
        if len(both) > 8:
            index = to_device(both, self.device)
            wanted = [
                self.targets[to_device(at[both], self.device)] for at in (at_query, at_document)
            ]
            order = relational(query[index], document[index], *wanted)
        return torch.stack(near).mean() if near else query.new_zeros(()), order

    @torch.no_grad()
    def mine(self) -> None:
        """Find for every record documents of its kind that score high and are not its own."""
        for kind, pairs in self.corpus.kinds.items():
            if not RECIPE[kind].mined or len(pairs.query) < 32:
                continue
            width = RECIPE[kind].width
            every = np.arange(len(pairs.query))
            query = self.encode(self.default_queries[kind], every, QUERY_TOKENS, 0.0)
            document = self.encode(self.texts, pairs.document, width, 0.0)
            query, document = F.normalize(query), F.normalize(document)
            group = to_device(pairs.group, self.device)
            text = to_device(pairs.document, self.device)
            aside = to_device(pairs.validation, self.device)
            found = []
            for start in range(0, len(query), 4096):
                rows = slice(start, start + 4096)
                scores = query[rows] @ document.T
                own = (query[rows] * document[rows]).sum(1, keepdim=True)
                bad = (group[rows, None] == group[None]) | (text[rows, None] == text[None])
                # What scores almost as high as the answer is often an answer too.
                bad |= (scores > 0.95 * own) | aside[None]
                found.append(scores.masked_fill(bad, -1).topk(N_MINED, dim=1).indices)
            self.negatives[kind] = torch.cat(found).cpu().numpy()
        self.say("hard negatives mined")

    @torch.no_grad()
    def validate(self, pool: int = 1500) -> dict[str, float]:
        """Return nDCG@10 of the validation records of each kind, full and at 32 dims."""
        figures = {}
        for kind, pairs in self.corpus.kinds.items():
            asked = np.flatnonzero(pairs.validation)[:1000]
            if len(asked) < 5 or kind in ("long", "code_named"):
                continue
            _, first = np.unique(pairs.document[asked], return_index=True)
            asked = asked[np.sort(first)]
            rest = np.setdiff1d(np.arange(len(pairs.query)), asked)[: max(0, pool - len(asked))]
            documents = np.concatenate([pairs.document[asked], pairs.document[rest]])
            query = self.encode(self.default_queries[kind], asked, QUERY_TOKENS, 0.0)
            document = self.encode(self.texts, documents, RECIPE[kind].width, 0.0)
            for dim in (DIMS[-1], 32):
                scores = F.normalize(query[:, :dim]) @ F.normalize(document[:, :dim]).T
                relevant = torch.arange(len(asked), device=self.device)
                figures[f"{kind}/{dim}"] = round(100 * ndcg_at_10(scores, relevant), 1)
        return figures

    def rate(self, part: float) -> float:
        """Learning rate factor at `part` (0 to 1) of the training time: up, flat, to zero."""
        warm = min(1.0, (part - self.args.first_part) / 0.02 + 0.01)
        return warm * max(0.005, min(1.0, (1 - part) / 0.7))

    def step(self, kind: str, part: float) -> Tensor:
        """Make one update from a batch of `kind`; return the loss and its parts, (4,)."""
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.args.lr * self.rate(part)
            optimizer.zero_grad(set_to_none=True)
        later = min(1.0, max(0.0, (part - 0.1) / 0.3))
        losses = self.step_loss(kind, later, DROPPED * (1 - part))
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return losses.detach()

    def report(self, step: int, part: float, sums: dict[str, list[Tensor]]) -> None:
        """Log the mean losses since the last report, and the validation figures."""
        means = {kind: torch.stack(values).mean(0).tolist() for kind, values in sums.items()}
        if not all(math.isfinite(value[0]) for value in means.values()):
            raise FloatingPointError(f"step {step}: the loss is not finite: {means}")
        line = " ".join(
            f"{kind} {nce:.2f}/{near:.3f}/{order:.3f}"
            for kind, (_, nce, near, order) in means.items()
        )
        self.say(f"step {step} part {part:.3f} nce/near/order: {line}")
        self.say(f"validation {json.dumps(self.validate())}")

    def run(self) -> None:
        """Train until the time is used up; validate and save on the way."""
        begin = time.time()
        budget = self.start + self.args.seconds - begin
        kinds = [kind for kind in RECIPE if kind in self.corpus.kinds]
        odds = np.array([RECIPE[kind].steps for kind in kinds])
        first = self.args.first_part  # a resumed run starts at this part of the schedule
        mined = [at for at in MINED_AT if at > first]
        shown, saved, step = begin, begin, 0
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
            kind = kinds[self.random.choice(len(kinds), p=odds / odds.sum())]
            sums.setdefault(kind, []).append(self.step(kind, part))
            step += 1
            if time.time() - shown > self.args.every:
                self.report(step, part, sums)
                shown, sums = time.time(), {}
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
    parser.add_argument("--seconds", type=float, default=560, help="time, preparation too")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=20, help="seconds between log lines")
    parser.add_argument("--resume", type=Path, help="folder with weights to go on from")
    parser.add_argument("--first-part", type=float, default=0.0, help="place in the schedule")
    parser.add_argument("--compile", action="store_true", help="fuse each block's operations")
    parser.add_argument("--limit", type=int, help="records of each kind (smoke runs)")
    parser.add_argument("--max-steps", type=int, default=10**9)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "train.log").open("a") as log:
        Trainer(args, log).run()


if __name__ == "__main__":
    main()
