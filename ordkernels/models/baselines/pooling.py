"""Baselines of iFusion: the same encoders and heads, their interests pooled."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..._validation.flags import with_flags
from ..._validation.numbers import one_of
from ...nn import SessionFilters
from ...nn._mlp import MLP
from ...samplers.fusion import FusedInterests, InterestSampler
from .._encoders import EncoderConfig
from .._interest import InterestModel, Interests, PredictionLoss, SequenceConfig

__all__ = ["PooledFusion"]


class Pooled(NamedTuple):
    parts: Interests
    fused: Tensor  # [B, D]


class PooledFusion(InterestModel):
    """Long-term interest and sessions fused by pooling, under iFusion's encoders and heads.

    ``pooling="average"``: the mean of the long-term interest and the average-pooled sessions, through an MLP. ``pooling="attention"``:
    a sum of the long-term interest and the attention-pooled sessions with learned attention weights, through an MLP. What is
    missing has no weight; a row with nothing is pooled to zeros. Like iFusion's, the fused interest does not depend on the row's item.
    Batches are ``IFusion``'s; the sessions read are the last K.

    Args:
        n_users: rows of the user embedding.
        n_items: rows of the item embedding.
        dense_width: columns of ``dense``.
        latent: D.
        hidden: width of the context and of half the heads' layers.
        sessions: K.
        quantiles: L of the history quantiles.
        pooling: ``"average"`` or ``"attention"``.
        fusion_hidden: hidden units of the MLP.
        dropout: of all networks.
        sequence_config: what is read of histories and sessions, and the heads.
        loss_config: weights of the loss.
        encoder_config: of ids and histories.
        flags: fields of the three configs as plain keywords: ``PooledFusion(..., long=20)``.

    Raises:
        ValueError: naming the argument or the batch's key.
        TypeError: likewise, and unknown flags.

    Example:
        >>> PooledFusion(n_users=5, n_items=9, dense_width=2, pooling="attention").pooling
        'attention'
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
        pooling: Literal["average", "attention"] = "average",
        fusion_hidden: int = 256,
        dropout: float = 0.1,
        sequence_config: SequenceConfig | None = None,
        loss_config: PredictionLoss | None = None,
        encoder_config: EncoderConfig | None = None,
        **flags: Any,
    ) -> None:
        sequence, loss, encoder = with_flags(
            flags,
            sequence_config or SequenceConfig(),
            loss_config or PredictionLoss(),
            encoder_config or EncoderConfig(),
            renamed={"heads": "attention_heads", "kind": "pooling"},
        )
        super().__init__(
            n_users, n_items, dense_width, latent, hidden, sessions, quantiles, dropout=dropout, sequence=sequence, loss=loss,
            encoder=encoder,
        )  # fmt: skip
        self.pooling = one_of("pooling", pooling, ("average", "attention"))
        self.filters = SessionFilters(latent)
        self.score = nn.Sequential(nn.Linear(latent, latent), nn.Tanh(), nn.Linear(latent, 1, bias=False))
        self.mlp = MLP(latent, fusion_hidden, latent, dropout)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` (the total) and its parts, ``click`` and ``number``, on one batch."""
        self.check(batch, target=True)
        self._prepare_on_first_batch(batch)
        parts, fused = self._pooled(batch)
        found = self._prediction_loss(fused, parts, batch)
        return {"loss": self._total(found), **{name: value.detach() for name, value in found.items()}}

    def _pooled(self, batch: dict[str, Tensor]) -> Pooled:
        parts = self.interests(batch, self.session_count)
        sessions = parts.read_by(self.filters)[self.pooling == "attention"]
        vectors = torch.cat((parts.long[:, None], sessions), dim=1)  # [B, 1 + P, D]
        present = torch.cat((parts.has_long[:, None], parts.present), dim=1)[..., None]
        if self.pooling == "attention":
            weight = torch.where(present, self.score(vectors).clamp(-30, 30).exp(), 0.0)
        else:
            weight = present.to(vectors.dtype)
        pooled = (weight * torch.where(present, vectors, 0.0)).sum(1) / weight.sum(1).clamp(min=1e-20)
        return Pooled(parts, pooled + self.mlp(pooled))

    def condition(self, x: dict[str, Tensor]) -> Pooled:
        """The row's interests and their pool, for the sampler."""
        self.check(x, target=False)
        return self._pooled(x)

    def sampler(self) -> InterestSampler[PooledFusion]:
        """Draws numbers from the pooled interest of a row."""
        return _PooledSampler(self)


class _PooledSampler(InterestSampler[PooledFusion]):
    def _fused(self, condition: Any, n: int, seed: int, ids: Tensor) -> FusedInterests:
        b = ids.shape[0]
        return FusedInterests(condition.fused, None, torch.arange(b, device=ids.device)[:, None].expand(b, n))
