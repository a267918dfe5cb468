"""Monotone transforms of targets, fitted on the training split, and the edges of a model's intervals."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._validation.flags import reject_unknown
from .._validation.numbers import integer, one_of

__all__ = ["TargetMap", "interval_widths"]


class TargetMap(nn.Module):
    """A monotone, piecewise linear map of targets onto [0, 1], and its inverse.

    ``transform="quantile"``: the knots are training targets (all distinct ones, or ``knots`` of them, evenly spaced in rank)
    at their mid-ranks, so equal shares of the training rows fall into equal parts of [0, 1], and a value that many rows
    share is mapped to the middle of its share. ``transform="linear"``: from the least to the largest training target.
    Values outside the training range go to its ends. Buffers, of the same shapes whatever the data: ``values``, ``ranks``.

    Args:
        transform: ``"quantile"`` or ``"linear"``.
        knots: their largest number.

    Raises:
        ValueError: fewer than two knots, an unknown transform.

    Example:
        >>> import torch
        >>> m = TargetMap()
        >>> m.fit(torch.tensor([0.0, 0.0, 1.0, 9.0]))
        >>> m(torch.tensor([0.0, 1.0, 5.0, 9.0, 99.0]))
        tensor([0.0000, 0.6000, 0.8000, 1.0000, 1.0000])
        >>> m.inverse(m(torch.tensor([1.0, 5.0]))).round(decimals=4)
        tensor([1., 5.])
    """

    values: Tensor
    ranks: Tensor

    def __init__(self, transform: Literal["quantile", "linear"] = "quantile", knots: int = 512, **renamed: Any) -> None:
        super().__init__()
        reject_unknown(renamed, {"kind": "transform"})
        self.transform = one_of("transform", transform, ("quantile", "linear"))
        integer("knots", knots, least=2)
        self.register_buffer("values", torch.linspace(0, 1, knots))
        self.register_buffer("ranks", torch.linspace(0, 1, knots))

    def fit(self, y: Tensor) -> None:
        """Takes the knots from training targets ``[N]``."""
        v, count = np.unique(y.detach().double().cpu().numpy(), return_counts=True)
        if self.transform == "linear":
            v, r = v[[0, -1]], np.array([0.0, 1.0])
        else:
            r = np.cumsum(count) - count / 2
            r = (r - r[0]) / max(r[-1] - r[0], 1e-12)
            if len(v) > len(self.values):
                chosen = np.unique(np.append(np.searchsorted(r, np.linspace(0, 1, len(self.values) - 1)), len(r) - 1))
                v, r = v[chosen], r[chosen]
        for buffer, knots in ((self.values, v), (self.ranks, r)):
            padded = np.append(knots, np.full(len(buffer) - len(knots), knots[-1]))
            buffer.copy_(torch.from_numpy(padded))

    def forward(self, y: Tensor) -> Tensor:
        return _interpolate(y, self.values, self.ranks)

    def inverse(self, rank: Tensor) -> Tensor:
        """Targets at mapped values in [0, 1]."""
        return _interpolate(rank, self.ranks, self.values)

    def nearest(self, y: Tensor) -> Tensor:
        """The knot nearest to y: its label, where the training targets have no more distinct values than there are knots."""
        i = torch.searchsorted(self.values, y.contiguous()).clamp(1, len(self.values) - 1)
        low, high = self.values[i - 1], self.values[i]
        return torch.where(y.isnan(), y, torch.where(y - low <= high - y, low, high))


def interval_widths(u: Tensor, K: int, kind: Literal["uniform", "quantile"]) -> Tensor:
    """Widths ``[K]``, of sum K, of K intervals of [0, 1] for mapped targets u: equal ones, or between their quantiles.

    Quantiles that coincide (a value that many rows share) are merged, and the widest intervals are halved instead.
    """
    if kind == "uniform":
        return torch.ones(K)
    inner = np.quantile(u.detach().double().cpu().numpy(), np.arange(1, K) / K)
    edges = np.unique(np.concatenate(([0.0], inner, [1.0])))
    while len(edges) <= K:
        i = int(np.diff(edges).argmax())
        edges = np.insert(edges, i + 1, (edges[i] + edges[i + 1]) / 2)
    return torch.from_numpy(K * np.diff(edges)).float()


def _interpolate(x: Tensor, at: Tensor, out: Tensor) -> Tensor:
    """Piecewise linear, clamped at the ends; at ascends (equal knots at its end), NaN stays NaN."""
    x = x.to(at.dtype)
    i = torch.searchsorted(at, x.contiguous(), right=True).clamp(1, len(at) - 1)
    low, high = at[i - 1], at[i]
    share = ((x - low) / torch.where(high > low, high - low, 1.0)).clamp(0, 1)
    share = torch.where(high > low, share, x - x)  # at the padded end both knots are the same
    return torch.lerp(out[i - 1], out[i], share)
