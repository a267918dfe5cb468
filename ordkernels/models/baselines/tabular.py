"""Baselines for plain tables (``dense`` and ``y`` alone)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..._validation.numbers import one_of
from ...nn._eval_mode import eval_mode, inference
from ...nn._mlp import MLP
from .._base import SavedModel
from .._encoders import ContextEncoder

__all__ = ["TableClassifier", "TableRegression"]


class _TableModel(SavedModel):
    """An encoder, and a head of two layers; what ``fit`` and ``predict`` need."""

    batch_keys = ("dense", "y")

    def __init__(self, dense_width: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder = ContextEncoder(0, 0, dense_width, hidden, dropout=dropout)
        self.head = MLP(hidden, 2 * hidden, outputs, dropout)

    def _out(self, batch: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.head(self.encoder(batch))
        return out

    @inference
    def _predicted(self, x: dict[str, Tensor]) -> Tensor:
        self.encoder.check(x, target=False)
        with eval_mode(self):
            return self._out(x)


class TableRegression(_TableModel):
    """One number per row of a table by squared error (value regression) or absolute error, on standardised targets.

    Batches: ``dense [B, F]``, ``y [B]``.

    Args:
        dense_width: F.
        hidden: width of the networks.
        objective: ``"squared"`` or ``"absolute"``.
        dropout: of the hidden layers.

    Raises:
        ValueError: an unknown objective or a malformed batch.

    Example:
        >>> model = TableRegression(2)
        >>> model.prepare({"y": torch.tensor([1.0, 3.0])})
        >>> model.predict({"dense": torch.zeros(5, 2)}).shape
        torch.Size([5])
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, dense_width: int, hidden: int = 64, *, objective: Literal["squared", "absolute"] = "squared", dropout: float = 0.1
    ) -> None:
        super().__init__(dense_width, 1, hidden, dropout)
        self.objective = one_of("objective", objective, ("squared", "absolute"))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Takes the targets' mean and standard deviation from the training split."""
        self.mean.fill_(float(train["y"].double().mean()))
        self.spread.fill_(max(float(train["y"].double().std(correction=0)), 1e-6))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` on one batch."""
        self.encoder.check(batch, target=True)
        error = self._out(batch)[:, 0] - (batch["y"] - self.mean) / self.spread
        return {"loss": (error.square() if self.objective == "squared" else error.abs()).mean()}

    def predict(self, x: dict[str, Tensor]) -> Tensor:
        """Predictions ``[B]``."""
        return self._predicted(x)[:, 0] * self.spread + self.mean


class TableClassifier(_TableModel):
    """Cross-entropy over the labels as classes, which knows nothing of their order.

    ``labels`` are the distinct training labels. ``predict(x, statistic)``: ``"mode"``, the likeliest label (plain
    classification), or the ``"median"`` or ``"mean"`` of the predicted distribution.

    Batches: ``dense [B, F]``, ``y [B]``.

    Args:
        dense_width: F.
        labels: training labels, repeated or not.
        hidden: width of the networks.
        dropout: of the hidden layers.

    Raises:
        ValueError: fewer than two labels, a batch with another label, an unknown statistic or a malformed batch.

    Example:
        >>> TableClassifier(2, torch.tensor([3.0, 1.0, 3.0])).labels
        tensor([1., 3.])
    """

    labels: Tensor

    def __init__(self, dense_width: int, labels: Tensor, hidden: int = 64, *, dropout: float = 0.1) -> None:
        labels = torch.unique(labels.float())
        if len(labels) < 2:
            raise ValueError(f"labels: expected at least 2 distinct labels, got {labels.tolist()}")
        super().__init__(dense_width, len(labels), hidden, dropout)
        self.register_buffer("labels", labels)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` on one batch."""
        self.encoder.check(batch, target=True)
        index = torch.searchsorted(self.labels, batch["y"].float()).clamp(max=len(self.labels) - 1)
        if not torch.equal(self.labels[index], batch["y"].float()):
            raise ValueError(f"y: expected labels among {self.labels.tolist()}, got others")
        return {"loss": F.cross_entropy(self._out(batch), index)}

    def predict(self, x: dict[str, Tensor], statistic: Literal["mode", "median", "mean"] = "mode") -> Tensor:
        """The likeliest label, or a statistic of the predicted distribution, ``[B]``."""
        one_of("statistic", statistic, ("mode", "median", "mean"))
        p = self._predicted(x).softmax(dim=1)
        if statistic == "mean":
            return p @ self.labels
        return self.labels[p.argmax(dim=1) if statistic == "mode" else (p.cumsum(dim=1) >= 0.5).to(torch.uint8).argmax(dim=1)]
