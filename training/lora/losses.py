"""InfoNCE over a batch's documents, with false negatives masked, at several dims at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    queries: Tensor,
    documents: Tensor,
    same: Tensor,
    temperature: float,
    margin: float,
) -> Tensor:
    """Mean cross-entropy of each query's own document among all of the batch.

    queries (n, C) and documents (m, C), m >= n, are unit rows in fp32; document i is the
    positive of query i, the others are those of other queries and hard negatives. same
    (n, m) marks documents that are the positive's text again. A document that lies closer
    to the query than its positive by more than `margin` is taken for a false negative too.
    """
    cosines = queries @ documents.T
    n = len(queries)
    own = cosines[:, :n].diagonal().detach()
    masked = same | (cosines.detach() > own[:, None] + margin)
    masked[torch.arange(n), torch.arange(n)] = False
    logits = (cosines / temperature).masked_fill(masked, float("-inf"))
    return F.cross_entropy(logits, torch.arange(n, device=logits.device))


def matryoshka(
    queries: Tensor,
    documents: Tensor,
    same: Tensor,
    dims: Sequence[int],
    temperature: float,
    margin: float,
) -> Tensor:
    """Mean of `info_nce` over the first d elements of raw rows, each cut normalised."""
    losses = [
        info_nce(
            F.normalize(queries[:, :d], dim=-1),
            F.normalize(documents[:, :d], dim=-1),
            same,
            temperature,
            margin,
        )
        for d in dims
    ]
    return torch.stack(losses).mean()
