"""What iFusion is compared with: the very same encoders and heads, their interests pooled."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..nn import SessionFilters
from ..samplers.fusion import InterestSampler
from .interests import InterestModel, Interests

__all__ = ["PooledFusion"]


class Pooled(NamedTuple):
    parts: Interests
    fused: Tensor  # [B, D]


class PooledFusion(InterestModel):
    """Long-term interest and sessions fused by pooling, under iFusion's encoders and heads.

    ``kind="average"``: the mean of the long-term interest and the average-pooled sessions, through an MLP. ``kind="attention"``:
    a sum of the long-term interest and the attention-pooled sessions with learned attention weights, through an MLP. What is not
    there has no weight; a row with nothing is pooled to zeros. Like iFusion's, the fused interest does not depend on the row's item.
    Batches, and the arguments that it has too, are ``IFusion``'s; the sessions read are the last K.

    Errors: ``TypeError`` and ``ValueError`` naming the argument or the batch's key.

    Example::

        >>> model = PooledFusion(n_users, n_items, train["dense"].shape[1], kind="attention")
        >>> ordkernels.models.fit(model, train, epochs=1, batch_size=256, lr=1e-3)
        >>> model.predict_click(test)
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        latent: int = 64,
        hidden: int = 64,
        sessions: int = 4,
        quantiles: int = 20,
        *,
        kind: Literal["average", "attention"] = "average",
        click_weight: float = 1.0,
        number_weight: float = 1.0,
        fusion_hidden: int = 256,
        long: int = 50,
        feedback_width: int = 3,
        heads: int = 4,
        levels: int = 32,
        context: bool = True,
        dropout: float = 0.1,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
    ) -> None:
        super().__init__(
            n_users, n_items, dense_width, latent, hidden, sessions, quantiles, long=long, feedback_width=feedback_width, heads=heads,
            levels=levels, click_weight=click_weight, number_weight=number_weight, context=context, dropout=dropout,
            id_dropout=id_dropout, history_dropout=history_dropout,
        )  # fmt: skip
        if kind not in ("average", "attention"):
            raise ValueError(f"kind: expected 'average' or 'attention', got {kind!r}")
        self.kind = kind
        self.filters = SessionFilters(latent)
        self.score = nn.Sequential(nn.Linear(latent, latent), nn.Tanh(), nn.Linear(latent, 1, bias=False))
        self.mlp = nn.Sequential(nn.Linear(latent, fusion_hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(fusion_hidden, latent))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` (the total) and its parts, ``click`` and ``number``, on one batch."""
        self.check(batch, target=True)
        self._prepare_if_new(batch)
        parts, fused = self._pooled(batch)
        found = self._prediction_loss(fused, parts, batch)
        return {"loss": self._total(found), **{name: value.detach() for name, value in found.items()}}

    def _pooled(self, batch: dict[str, Tensor]) -> Pooled:
        parts = self.interests(batch, self.session_count)
        vectors = self.filters(parts.items, parts.mask)[self.kind == "attention"]
        all_of_it = torch.cat((parts.long[:, None], vectors), dim=1)  # [B, 1 + P, D]
        there = torch.cat((parts.has_long[:, None], parts.there), dim=1)[..., None]
        if self.kind == "attention":
            weight = torch.where(there, (self.score(all_of_it)).clamp(-30, 30).exp(), 0.0)
        else:
            weight = there.to(all_of_it.dtype)
        pooled = (weight * torch.where(there, all_of_it, 0.0)).sum(1) / weight.sum(1).clamp(min=1e-20)
        return Pooled(parts, pooled + self.mlp(pooled))

    def condition(self, x: dict[str, Tensor]) -> Pooled:
        self.check(x, target=False)
        return self._pooled(x)

    def sampler(self) -> InterestSampler:
        return _PooledSampler(self)  # type: ignore[arg-type]


class _PooledSampler(InterestSampler):
    def _fused(self, condition: Any, n: int, seed: int, ids: Tensor) -> Tensor:
        return condition.fused[:, None].expand(-1, n, -1)
