"""The processes of a data-parallel training: those of torch.distributed's group where there is one, else this process alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["are_grouped", "count", "from_first", "mean", "parallel_loss", "rank"]


def are_grouped() -> bool:
    """Whether there is a group, be it of one process."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def count() -> int:
    return torch.distributed.get_world_size() if are_grouped() else 1


def rank() -> int:
    """From 0; the first process prints and writes."""
    return torch.distributed.get_rank() if are_grouped() else 0


def from_first(value: Tensor) -> Tensor:
    """The first process's value in all of them; where clocks and random states may differ, they decide alike."""
    if count() > 1:
        torch.distributed.broadcast(value, 0)
    return value


def mean(value: Tensor) -> Tensor:
    """Over the processes."""
    if count() > 1:
        torch.distributed.all_reduce(value)
        value /= count()
    return value


def parallel_loss(model: Any) -> Any:
    """``model.loss``, whose backward pass averages the gradients over the processes."""
    if count() == 1:
        return model.loss
    return nn.parallel.DistributedDataParallel(_Loss(model), find_unused_parameters=True)  # ablations leave parameters out


class _Loss(nn.Module):
    """What DDP wraps, for a model's own forward need not be its loss."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.model.loss(batch)
        return parts
