"""Models of plain tables (``dense`` and ``y`` alone): their encoder, and the baselines that a generative model has to beat."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation.numbers import positive_sizes
from .features import FeatureEncoder, check_batch, check_target

__all__ = ["ContextEncoder", "TableClassifier", "TableRegression"]


class ContextEncoder(nn.Module):
    """One vector per row, ``[B, width]``, from whatever a batch holds.

    With ids, histories and dense features (``n_users``, ``n_items`` above 0): ``FeatureEncoder``. With none (both 0):
    two dense layers on ``dense`` alone. ``keys`` names what is read; ``check(batch)`` raises ``ValueError``, naming the
    key, for what is missing or misshapen, and for NaN or negative targets.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        hidden: int = 64,
        quantiles: int = 20,
        *,
        kind: Literal["transformer", "mlp"] = "transformer",
        user_history: bool = True,
        item_history: bool = True,
        pattern_width: int = 16,
        id_width: int = 8,
        dropout: float = 0.1,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        positive_sizes(dense_width=dense_width, hidden=hidden)
        self.width = hidden
        self.dense_width, self.quantiles, self.plain = dense_width, quantiles, n_users == n_items == 0
        if self.plain:
            self.keys: tuple[str, ...] = ("dense",)
            self.net: nn.Module = nn.Sequential(
                nn.Linear(dense_width, 2 * hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden)
            )
            return
        self.keys = ("user", "item", "dense", "q_user", "q_item", "has_user", "has_item")
        self.net = FeatureEncoder(
            n_users, n_items, dense_width, hidden=hidden, quantiles=quantiles, id_width=id_width, pattern_width=pattern_width,
            encoder=kind, user_history=user_history, item_history=item_history, dropout=dropout, id_dropout=id_dropout,
            history_dropout=history_dropout,
        )  # fmt: skip

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        if self.plain:
            return F.silu(self.net(batch["dense"]))
        return F.silu(self.net(batch)[0])

    def check(self, batch: dict[str, Tensor], *, target: bool) -> None:
        if not self.plain:
            return check_batch(batch, self.dense_width, self.quantiles, target=target)
        for name in ("dense", "y") if target else ("dense",):
            if name not in batch:
                raise ValueError(f"batch: expected the key {name!r}, got {', '.join(sorted(batch)) or 'no keys'}")
        B = len(batch["dense"])
        if list(batch["dense"].shape) != [B, self.dense_width]:
            raise ValueError(f"dense: expected shape [B, {self.dense_width}], got {list(batch['dense'].shape)}")
        if target:
            check_target(batch["y"], B)


class _TableModel(nn.Module):
    """An encoder, and a head of two layers; what ``fit`` and ``predict`` need."""

    batch_keys = ("dense", "y")

    def __init__(self, dense_width: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder = ContextEncoder(0, 0, dense_width, hidden, dropout=dropout)
        self.head = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * hidden, outputs))

    def _out(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.encoder(batch))

    @torch.inference_mode()
    def _eval(self, x: dict[str, Tensor]) -> Tensor:
        self.encoder.check(x, target=False)
        training = self.training
        self.eval()
        try:
            return self._out(x)
        finally:
            self.train(training)


class TableRegression(_TableModel):
    """One number per row of a table by squared error (value regression) or absolute error, on standardised targets.

    Batches: ``dense [B, F]``, ``y [B]``. Errors: ``ValueError`` for an unknown objective or a malformed batch.

    Example::

        >>> model = TableRegression(train["dense"].shape[1])
        >>> ordkernels.models.fit(model, train)
        >>> model.predict(test)
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, dense_width: int, hidden: int = 64, *, objective: Literal["squared", "absolute"] = "squared", dropout: float = 0.1
    ) -> None:
        super().__init__(dense_width, 1, hidden, dropout)
        if objective not in ("squared", "absolute"):
            raise ValueError(f"objective: expected 'squared' or 'absolute', got {objective!r}")
        self.objective = objective
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def prepare(self, train: dict[str, Tensor]) -> None:
        self.mean.fill_(float(train["y"].double().mean()))
        self.spread.fill_(max(float(train["y"].double().std(correction=0)), 1e-6))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.encoder.check(batch, target=True)
        error = self._out(batch)[:, 0] - (batch["y"] - self.mean) / self.spread
        return {"loss": (error.square() if self.objective == "squared" else error.abs()).mean()}

    def predict(self, x: dict[str, Tensor]) -> Tensor:
        return self._eval(x)[:, 0] * self.spread + self.mean


class TableClassifier(_TableModel):
    """Cross-entropy over the labels as classes, which knows nothing of their order.

    ``labels`` are the distinct training labels. ``predict(x, statistic)``: ``"mode"``, the likeliest label (plain
    classification), or the ``"median"`` or ``"mean"`` of the predicted distribution.

    Batches: ``dense [B, F]``, ``y [B]``. Errors: ``ValueError`` for fewer than two labels, a batch with another label, an
    unknown statistic or a malformed batch.

    Example::

        >>> model = TableClassifier(train["dense"].shape[1], train["y"].unique())
        >>> ordkernels.models.fit(model, train)
        >>> model.predict(test)
    """

    labels: Tensor

    def __init__(self, dense_width: int, labels: Tensor, hidden: int = 64, *, dropout: float = 0.1) -> None:
        labels = torch.unique(labels.float())
        if len(labels) < 2:
            raise ValueError(f"labels: expected at least 2 distinct labels, got {labels.tolist()}")
        super().__init__(dense_width, len(labels), hidden, dropout)
        self.register_buffer("labels", labels)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.encoder.check(batch, target=True)
        index = torch.searchsorted(self.labels, batch["y"].float()).clamp(max=len(self.labels) - 1)
        if not torch.equal(self.labels[index], batch["y"].float()):
            raise ValueError(f"y: expected labels among {self.labels.tolist()}, got others")
        return {"loss": F.cross_entropy(self._out(batch), index)}

    def predict(self, x: dict[str, Tensor], statistic: Literal["mode", "median", "mean"] = "mode") -> Tensor:
        if statistic not in ("mode", "median", "mean"):
            raise ValueError(f"statistic: expected 'mode', 'median' or 'mean', got {statistic!r}")
        p = self._eval(x).softmax(dim=1)
        if statistic == "mean":
            return p @ self.labels
        return self.labels[p.argmax(dim=1) if statistic == "mode" else (p.cumsum(dim=1) >= 0.5).to(torch.uint8).argmax(dim=1)]
