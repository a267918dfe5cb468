"""What FlowTime is compared with: regression on the very same encoder, and medians of histories."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .features import FeatureEncoder, TargetModel, check_batch

__all__ = ["HistoricalMedian", "ValueRegression"]


class ValueRegression(TargetModel):
    """One number per row from FlowTime's encoder, by squared error ("value regression"), Huber or absolute error.

    ``objective="squared"`` and ``"huber"`` (delta 1) act on ``y / std(y)``, ``"absolute"`` on ``log1p(y)``, whose
    minimiser is the median in any space. The rest of the arguments are ``FlowTime``'s. Batches as ``FlowTime``.

    Errors: ``ValueError`` for an unknown objective or a malformed batch.

    Example::

        >>> model = ValueRegression(n_users, n_items, train["dense"].shape[1])
        >>> ordkernels.models.fit(model, train)
        >>> model.predict(test)
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        hidden: int = 64,
        quantiles: int = 20,
        *,
        objective: Literal["squared", "huber", "absolute"] = "squared",
        encoder: Literal["transformer", "mlp"] = "transformer",
        user_history: bool = True,
        item_history: bool = True,
        pattern_width: int = 16,
        id_width: int = 8,
        dropout: float = 0.2,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if objective not in ("squared", "huber", "absolute"):
            raise ValueError(f"objective: expected 'squared', 'huber' or 'absolute', got {objective!r}")
        self.dense_width, self.quantiles, self.objective = dense_width, quantiles, objective
        self.encoder = FeatureEncoder(
            n_users,
            n_items,
            dense_width,
            hidden=hidden,
            quantiles=quantiles,
            id_width=id_width,
            pattern_width=pattern_width,
            encoder=encoder,
            user_history=user_history,
            item_history=item_history,
            dropout=dropout,
            id_dropout=id_dropout,
            history_dropout=history_dropout,
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.direct = nn.Linear(hidden, 1)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        check_batch(batch, self.dense_width, self.quantiles, target=True)
        self._prepare_if_new(batch)
        y, out = batch["y"].to(self.scale.dtype), self._out(batch)
        if self.objective == "absolute":
            loss = F.l1_loss(F.softplus(out), torch.log1p(y / self.unit))
        elif self.objective == "huber":
            loss = F.huber_loss(self._value(out) / self.scale, y / self.scale, delta=1.0)
        else:
            loss = F.mse_loss(self._value(out) / self.scale, y / self.scale)
        return {"loss": loss}

    @torch.inference_mode()
    def predict(self, x: dict[str, Tensor], *, batch_size: int = 8192) -> Tensor:
        """Predictions ``[B]``, non-negative, in the target's unit."""
        check_batch(x, self.dense_width, self.quantiles, target=False)
        training = self.training
        self.eval()
        try:
            B = len(x["user"])
            parts = [self._value(self._out({k: v[i : i + batch_size] for k, v in x.items()})) for i in range(0, B, batch_size)]
            return torch.cat(parts) if parts else x["dense"].new_empty(0)
        finally:
            self.train(training)

    def _out(self, batch: dict[str, Tensor]) -> Tensor:
        context = self.encoder(batch)[0]
        return (self.head(context) + self.direct(context))[:, 0] + 1.0

    def _value(self, out: Tensor) -> Tensor:
        """A median is read from log space; a mean must not be, or its errors would grow with it."""
        if self.objective != "absolute":
            return F.softplus(out) * self.scale
        top = torch.log1p(2 * self.largest / self.unit)
        return torch.expm1(F.softplus(out).clamp(max=top)) * self.unit


class HistoricalMedian(nn.Module):
    """The median of the user's (or item's) earlier targets, read off the batch's history quantiles; nothing to train.

    Example::

        >>> HistoricalMedian("user").predict(test)
    """

    def __init__(self, side: Literal["user", "item"] = "user") -> None:
        super().__init__()
        if side not in ("user", "item"):
            raise ValueError(f"side: expected 'user' or 'item', got {side!r}")
        self.side = side

    @torch.inference_mode()
    def predict(self, x: dict[str, Tensor]) -> Tensor:
        q = x[f"q_{self.side}"]  # [B, L], at levels (l - 0.5) / L
        L = q.shape[1]
        return (q[:, (L - 1) // 2] + q[:, L // 2]) / 2
