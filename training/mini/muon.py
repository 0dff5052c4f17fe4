"""Muon: momentum whose matrix updates are brought to (nearly) orthogonal matrices.

The one idea: matrices of one shape are updated together, as one batch, so that the
orthogonalisation costs a handful of kernels and not hundreds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Quintic iteration that drives all singular values towards 1, tuned for few steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices (b, r, c) with their singular values driven to about 1."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum 0.95 (Nesterov) with orthogonal updates, scaled to Adam's usual step size."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "momentum": 0.95})
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in self.param_groups[0]["params"]:
            by_shape[parameter.shape].append(parameter)
        self._stacks = [
            (list(same), torch.stack([torch.zeros_like(p) for p in same]))
            for same in by_shape.values()
        ]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix from its gradient."""
        group = self.param_groups[0]
        for parameters, momentum in self._stacks:
            gradient = torch.stack([p.grad for p in parameters])
            momentum.lerp_(gradient, 1 - group["momentum"])
            update = orthogonalised(gradient.lerp(momentum, group["momentum"])).float()
            # An orthogonal r x c matrix has entries of about 1 / sqrt(max(r, c)); Adam's
            # steps are about 0.2 a coordinate, so one learning rate serves both.
            scale = 0.2 * max(update.shape[1:]) ** 0.5 * group["lr"]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["decay"])
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-scale)
