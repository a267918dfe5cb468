"""Baseline of watch-time models: the median of a history."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..._validation.numbers import one_of
from ...nn._eval_mode import inference
from .._base import SavedModel

__all__ = ["HistoricalMedian"]


class HistoricalMedian(SavedModel):
    """The median of the user's (or item's) earlier targets, read off the batch's history quantiles; nothing to train.

    Args:
        side: ``"user"`` or ``"item"``.

    Raises:
        ValueError: another side.

    Example:
        >>> import torch
        >>> HistoricalMedian("user").predict({"q_user": torch.tensor([[1.0, 2.0, 4.0, 9.0]])})
        tensor([3.])
    """

    def __init__(self, side: Literal["user", "item"] = "user") -> None:
        super().__init__()
        self.side = one_of("side", side, ("user", "item"))

    @inference
    def predict(self, x: dict[str, Tensor]) -> Tensor:
        """Predictions ``[B]`` from ``q_user`` or ``q_item`` ``[B, L]``."""
        q = x[f"q_{self.side}"]  # [B, L], at levels (l - 0.5) / L
        L = q.shape[1]
        return (q[:, (L - 1) // 2] + q[:, L // 2]) / 2
