"""The processes of a data-parallel training: those of torch.distributed's group where there is one, else this process alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["are_grouped", "check_same_rows", "count", "from_first", "mean", "parallel_loss", "rank"]


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


def check_same_rows(y: Tensor, device: torch.device) -> None:
    """ValueError in all processes where they do not have the same labels ``[N]``: each takes its share of a step's rows itself."""
    if count() == 1:
        return
    own = torch.stack((torch.tensor(len(y)), y.double().sum().cpu())).to(device)
    found = [torch.empty_like(own) for _ in range(count())]
    torch.distributed.all_gather(found, own)
    for k, (rows, total) in enumerate(torch.stack(found).tolist()):
        if [rows, total] != found[0].tolist():
            raise ValueError(
                f"train: expected the same rows in all {count()} processes, each of which takes its share of a step, got {rows:.0f} rows "
                f"with labels of sum {total:g} in process {k}, {found[0][0]:.0f} with {found[0][1]:g} in process 0"
            )


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
