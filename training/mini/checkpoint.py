"""Student weights on disk: bf16 safetensors in two files, official tensor names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

N_FILES = 2  # each stays below the 16 MiB that a run on a lent machine may hand back


def save_weights(student: nn.Module, folder: Path) -> None:
    """Write part0.safetensors and part1.safetensors into `folder`."""
    state = {n: p.detach().to(torch.bfloat16).cpu() for n, p in student.named_parameters()}
    table = {n: p for n, p in state.items() if n.startswith("embed_tokens")}
    rest = {n: p for n, p in state.items() if n not in table}
    for i, part in enumerate((table, rest)):
        temporary = folder / f"part{i}.tmp"
        save_file(part, temporary, metadata={"format": "pt"})
        temporary.replace(folder / f"part{i}.safetensors")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return name -> bf16 tensor of both parts in `folder`."""
    state: dict[str, torch.Tensor] = {}
    for i in range(N_FILES):
        state |= load_file(folder / f"part{i}.safetensors")
    return state


def load_weights(student: nn.Module, folder: Path) -> None:
    """Fill `student` from the parts in `folder`; every tensor must be there."""
    student.load_state_dict({n: p.float() for n, p in read_weights(folder).items()})
