"""Baseline of FlowTime: regression on the same encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._validation.flags import with_flags
from ..._validation.numbers import one_of
from ...nn._eval_mode import eval_mode, inference
from .._base import TargetModel
from .._checks import check_batch
from .._encoders import EncoderConfig, FeatureEncoder

__all__ = ["ValueRegression"]


class ValueRegression(TargetModel):
    """One number per row from FlowTime's encoder, by squared error ("value regression"), Huber or absolute error.

    ``objective="squared"`` and ``"huber"`` (delta 1) act on ``y / std(y)``, ``"absolute"`` on ``log1p(y)``, whose
    minimiser is the median in any space. Batches as ``FlowTime``.

    Args:
        n_users: rows of the user embedding.
        n_items: rows of the item embedding.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: L, of the histories.
        objective: ``"squared"``, ``"huber"`` or ``"absolute"``.
        dropout: of the feature encoder.
        encoder_config: of ids and histories.
        flags: its fields as plain keywords.

    Raises:
        ValueError: an unknown objective or a malformed batch.
        TypeError: unknown flags.

    Example:
        >>> ValueRegression(n_users=5, n_items=9, dense_width=2, objective="absolute", encoder="mlp").objective
        'absolute'
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
        dropout: float = 0.2,
        encoder_config: EncoderConfig | None = None,
        **flags: Any,
    ) -> None:
        super().__init__()
        (config,) = with_flags(flags, encoder_config or EncoderConfig())
        self.dense_width, self.quantiles = dense_width, quantiles
        self.objective = one_of("objective", objective, ("squared", "huber", "absolute"))
        self.encoder = FeatureEncoder(
            n_users, n_items, dense_width, hidden=hidden, quantiles=quantiles, dropout=dropout, config=config, patterns=False
        )  # fmt: skip
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.direct = nn.Linear(hidden, 1)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` on one batch."""
        check_batch(batch, self.dense_width, self.quantiles, target=True)
        self._prepare_on_first_batch(batch)
        y, out = batch["y"].to(self.scale.dtype), self._out(batch)
        if self.objective == "absolute":
            loss = F.l1_loss(F.softplus(out), torch.log1p(y / self.unit))
        elif self.objective == "huber":
            loss = F.huber_loss(self._value(out) / self.scale, y / self.scale, delta=1.0)
        else:
            loss = F.mse_loss(self._value(out) / self.scale, y / self.scale)
        return {"loss": loss}

    @inference
    def predict(self, x: dict[str, Tensor], *, batch_size: int = 8192) -> Tensor:
        """Predictions ``[B]``, non-negative, in the target's unit."""
        check_batch(x, self.dense_width, self.quantiles, target=False)
        B = len(x["user"])
        with eval_mode(self):
            parts = [self._value(self._out({k: v[i : i + batch_size] for k, v in x.items()})) for i in range(0, B, batch_size)]
            return torch.cat(parts) if parts else x["dense"].new_empty(0)

    def _out(self, batch: dict[str, Tensor]) -> Tensor:
        context = self.encoder(batch)[0]
        out: Tensor = (self.head(context) + self.direct(context))[:, 0] + 1.0
        return out

    def _value(self, out: Tensor) -> Tensor:
        """A median is read from log space; a mean must not be, or its errors would grow with it."""
        if self.objective != "absolute":
            return F.softplus(out) * self.scale
        top = torch.log1p(2 * self.largest / self.unit)
        return torch.expm1(F.softplus(out).clamp(max=top)) * self.unit
