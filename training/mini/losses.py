"""Losses over nested (Matryoshka) dims, and the ranking measure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DIMS = (32, 64, 128, 256)
WEIGHTS = (0.4, 0.25, 0.175, 0.175)  # of the losses at DIMS: short vectors have most to lose
TEMPERATURE = 0.04
TEACHER_TEMPERATURE = 0.05


def contrastive(
    query: Tensor,
    document: Tensor,
    negative: Tensor | None,
    group: Tensor,
    negative_group: Tensor | None,
    symmetric: bool = True,
) -> Tensor:
    """InfoNCE of query (B, C) against document (B, C) and hard negatives (N, C).

    Every document of the batch is a negative of every other query, except those of the
    same group (B,). Summed over DIMS with WEIGHTS.
    """
    pool = document if negative is None else torch.cat([document, negative])
    pool_group = group if negative_group is None else torch.cat([group, negative_group])
    target = torch.arange(len(query), device=query.device)
    same = group[:, None] == pool_group[None]
    same[target, target] = False
    total = query.new_zeros(())
    for dim, weight in zip(DIMS, WEIGHTS, strict=True):
        q = F.normalize(query[:, :dim], dim=1)
        scores = q @ F.normalize(pool[:, :dim], dim=1).T / TEMPERATURE
        scores = scores.masked_fill(same, -1e4)
        total = total + weight * F.cross_entropy(scores, target)
        if symmetric:
            back = scores[:, : len(query)].T
            total = total + weight * F.cross_entropy(back, target)
    return total / (2 if symmetric else 1)


def distillation(student: Tensor, target: Tensor) -> Tensor:
    """Return 1 - cosine between student (n, C) and target (n, C), each cut: mean by WEIGHTS."""
    parts = [1 - F.cosine_similarity(student[:, :d], target[:, :d], dim=1).mean() for d in DIMS]
    return torch.stack([w * part for w, part in zip(WEIGHTS, parts, strict=True)]).sum()


def relational(query: Tensor, document: Tensor, query_at: Tensor, document_at: Tensor) -> Tensor:
    """Divergence of the student's ranking of a batch from the teacher's, mean by WEIGHTS.

    Student vectors `query`, `document` and teacher vectors `query_at`, `document_at` are
    (n, C); the teacher's are taken whole for every cut of the student's.
    """
    teacher = F.normalize(query_at, dim=1) @ F.normalize(document_at, dim=1).T
    log_wanted = F.log_softmax(teacher / TEACHER_TEMPERATURE, dim=1)
    parts = []
    for dim, weight in zip(DIMS, WEIGHTS, strict=True):
        q, d = F.normalize(query[:, :dim], dim=1), F.normalize(document[:, :dim], dim=1)
        found = F.log_softmax(q @ d.T / TEACHER_TEMPERATURE, dim=1)
        apart = F.kl_div(found, log_wanted, reduction="batchmean", log_target=True)
        parts.append(weight * apart)
    return torch.stack(parts).sum()


def ndcg_at_10(scores: Tensor, relevant: Tensor) -> float:
    """Mean nDCG@10 with one relevant column (n,) for each row of scores (n, m).

    A tie counts against the relevant document: its rank is one plus the number of other
    documents that score at least as much.
    """
    at = scores.gather(1, relevant[:, None])
    rank = (scores >= at).sum(1).clamp(min=1)
    gain = 1 / torch.log2(1 + rank.double())
    return float(gain.masked_fill(rank > 10, 0.0).mean())
