"""Encoders of watch-time histories that come as quantiles."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation.numbers import positive_sizes

__all__ = ["QuantileEncoder"]


class QuantileEncoder(nn.Module):
    """L quantiles of a history, each one token, encoded and mean-pooled: ``[B, L]`` and a flag to ``[B, width]``.

    ``E = Transformer(Proj(q) + P)``, ``h = mean over l of E_l``. Each token is ``log1p`` of its quantile (so quantiles
    are non-negative, in any unit) and the row's flag ``has`` (1: there is a history, 0: ``q`` only fills the gap);
    ``P`` is a learned position per level. ``kind="mlp"`` has two dense layers over the L values instead.

    Shapes: ``q [B, L]``, ``has [B]`` (None: all ones) -> ``[B, width]``.
    Errors: ``ValueError`` for sizes below 1, a width that the heads do not divide, an unknown kind, or a ``q`` of
    another shape.

    Source: FlowTime (arXiv:2606.01352), eq. 13-14; the flag is ours, and so is log1p.

    Example::

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
        kind: Literal["transformer", "mlp"] = "transformer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        positive_sizes(quantiles=quantiles, width=width, heads=heads, layers=layers)
        if kind not in ("transformer", "mlp"):
            raise ValueError(f"kind: expected 'transformer' or 'mlp', got {kind!r}")
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads = {heads}, got {width}")
        self.quantiles, self.width, self.kind = quantiles, width, kind
        if kind == "transformer":
            self.project = nn.Linear(2, width)
            self.position = nn.Parameter(torch.randn(quantiles, width) * 0.5)
            self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
        else:
            self.mlp = nn.Sequential(nn.Linear(quantiles + 1, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, q: Tensor, has: Tensor | None = None) -> Tensor:
        B, L = q.shape[0], self.quantiles
        if q.dim() != 2 or q.shape[1] != L:
            raise ValueError(f"q: expected shape [B, {L}], got {list(q.shape)}")
        x = torch.log1p(q)  # [B, L]
        flag = x.new_ones(B, 1) if has is None else has.to(x.dtype).view(B, 1)
        if self.kind == "mlp":
            return self.mlp(torch.cat((x, flag), dim=1))
        # Proj([x, flag]) without the [B, L, 2] input
        start = torch.addcmul(self.position + self.project.bias, x[..., None], self.project.weight[:, 0])
        e = start + (flag * self.project.weight[:, 1])[:, None]  # [B, L, width]
        for block in self.blocks:
            e = block(e)
        return self.norm(e).mean(dim=1)


class _Block(nn.Module):
    """A pre-norm Transformer layer on a few tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, e: Tensor) -> Tensor:
        B, L, W = e.shape
        q, k, v = self.qkv(self.norm1(e)).view(B, L, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v)  # [B, heads, L, W / heads]
        e = e + F.dropout(self.out(a.transpose(1, 2).reshape(B, L, W)), self.dropout, self.training)
        return e + F.dropout(self.ffn(self.norm2(e)), self.dropout, self.training)
