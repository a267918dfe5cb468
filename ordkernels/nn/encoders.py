"""Encoders of watch-time histories that come as quantiles."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._validation.flags import reject_unknown
from .._validation.numbers import one_of, positive_sizes
from .transformer import TransformerLayer

__all__ = ["QuantileEncoder"]


class QuantileEncoder(nn.Module):
    """L quantiles of a history, each one token, encoded and mean-pooled: ``[B, L]`` and a flag to ``[B, width]``.

    ``E = Transformer(Proj(q) + P)``, ``h = mean over l of E_l``. Each token is ``log1p`` of its quantile (so quantiles
    are non-negative, in any unit) and the row's flag ``has`` (1: there is a history, 0: ``q`` is a filler);
    ``P`` is a learned position per level. ``encoder="mlp"`` has two dense layers over the L values instead.

    Args:
        quantiles: L.
        width: of the tokens and of the result, a multiple of ``heads``.
        heads: of the attention.
        layers: of the Transformer.
        encoder: ``"transformer"`` or ``"mlp"``.
        dropout: of what each part of a layer adds.

    Shapes: ``q [B, L]``, ``has [B]`` (None: all ones) -> ``[B, width]``.

    Raises:
        ValueError: sizes below 1, a width that the heads do not divide, an unknown encoder, a ``q`` of another shape.

    Source: FlowTime (arXiv:2606.01352), eq. 13-14. Deviations from the paper: the flag and log1p.

    Example:
        >>> import torch
        >>> QuantileEncoder(20, width=32)(torch.rand(5, 20), torch.ones(5)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        quantiles: int,
        width: int = 32,
        *,
        heads: int = 2,
        layers: int = 1,
        encoder: Literal["transformer", "mlp"] = "transformer",
        dropout: float = 0.0,
        **renamed: Any,
    ) -> None:
        super().__init__()
        reject_unknown(renamed, {"kind": "encoder"})
        positive_sizes(quantiles=quantiles, width=width, heads=heads, layers=layers)
        one_of("encoder", encoder, ("transformer", "mlp"))
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads = {heads}, got {width}")
        self.quantiles, self.width, self.encoder = quantiles, width, encoder
        if encoder == "transformer":
            self.project = nn.Linear(2, width)
            self.position = nn.Parameter(torch.randn(quantiles, width) * 0.5)
            self.blocks = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
        else:
            self.mlp = nn.Sequential(nn.Linear(quantiles + 1, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, q: Tensor, has: Tensor | None = None) -> Tensor:
        B, L = q.shape[0], self.quantiles
        if q.dim() != 2 or q.shape[1] != L:
            raise ValueError(f"q: expected shape [B, {L}], got {list(q.shape)}")
        x = torch.log1p(q)  # [B, L]
        flag = x.new_ones(B, 1) if has is None else has.to(x.dtype).view(B, 1)
        if self.encoder == "mlp":
            pooled: Tensor = self.mlp(torch.cat((x, flag), dim=1))
            return pooled
        # Proj([x, flag]) without the [B, L, 2] input
        start = torch.addcmul(self.position + self.project.bias, x[..., None], self.project.weight[:, 0])
        e = start + (flag * self.project.weight[:, 1])[:, None]  # [B, L, width]
        for block in self.blocks:
            e = block(e)
        pooled = self.norm(e).mean(dim=1)
        return pooled
