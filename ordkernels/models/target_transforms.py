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
    share is mapped to the middle of its share. ``read`` gives that value for all of its share, so that it can be drawn;
    ``inverse`` goes through it in one point, so that it has a slope everywhere. ``transform="linear"``: from the least to the
    largest training target. Values outside the training range go to its ends. Buffers, of the same shapes whatever the data:
    ``values``, ``ranks``, ``shares``.

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
        tensor([0.2500, 0.6250, 0.7500, 0.8750, 0.8750])
        >>> m.inverse(m(torch.tensor([1.0, 5.0]))).round(decimals=4)
        tensor([1., 5.])
        >>> m.read(torch.tensor([0.0, 0.4, 0.5, 1.0]))
        tensor([0., 0., 0., 9.])
    """

    values: Tensor
    ranks: Tensor
    shares: Tensor  # of the training rows, of values that many have; 0 elsewhere

    def __init__(self, transform: Literal["quantile", "linear"] = "quantile", knots: int = 512, **renamed: Any) -> None:
        super().__init__()
        reject_unknown(renamed, {"kind": "transform"})
        self.transform = one_of("transform", transform, ("quantile", "linear"))
        integer("knots", knots, least=2)
        self.register_buffer("values", torch.linspace(0, 1, knots))
        self.register_buffer("ranks", torch.linspace(0, 1, knots))
        self.register_buffer("shares", torch.zeros(knots))
        self.register_load_state_dict_pre_hook(_without_shares)  # type: ignore[no-untyped-call]

    def fit(self, y: Tensor) -> None:
        """Takes the knots from training targets ``[N]``."""
        v, count = np.unique(y.detach().double().cpu().numpy(), return_counts=True)
        share = count / count.sum()
        r = np.cumsum(share) - share / 2
        share[(count < 2) | (share < 2 / len(self.values))] = 0.0
        if self.transform == "linear":
            v, r, share = v[[0, -1]], np.array([0.0, 1.0]), np.zeros(2)
        elif len(v) > len(self.values):
            chosen = self._knots(r, share)
            v, r, share = v[chosen], r[chosen], share[chosen]
        for buffer, knots in ((self.values, v), (self.ranks, r), (self.shares, share)):
            padded = np.append(knots, np.full(len(buffer) - len(knots), knots[-1]))
            buffer.copy_(torch.from_numpy(padded))

    def _knots(self, r: np.ndarray[Any, Any], share: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Numbers of the values to keep: the ends, those with a share of their own, the others evenly spaced in rank."""
        own = np.union1d(np.flatnonzero(share), [0, len(r) - 1])
        spaced = np.searchsorted(r, np.linspace(0, 1, len(self.values) - len(own) + 1)[:-1])
        return np.union1d(own, spaced)

    def forward(self, y: Tensor) -> Tensor:
        return _interpolate(y, self.values, self.ranks)

    def inverse(self, rank: Tensor) -> Tensor:
        """Targets at mapped values in [0, 1], with a slope between all knots: for losses."""
        return _interpolate(rank, self.ranks, self.values)

    def read(self, rank: Tensor) -> Tensor:
        """Targets at mapped values in [0, 1], a shared value for the whole of its share: for predictions."""
        return _interpolate(rank, self.ranks, self.values, self.shares / 2)

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


def _interpolate(x: Tensor, at: Tensor, out: Tensor, flat: Tensor | None = None) -> Tensor:
    """Piecewise linear, clamped at the ends, level within ``flat`` of a knot; at ascends (equal knots at its end), NaN stays NaN."""
    x = x.to(at.dtype)
    i = torch.searchsorted(at, x.contiguous(), right=True).clamp(1, len(at) - 1)
    low, high = at[i - 1], at[i]
    if flat is not None:
        low, high = low + flat[i - 1], high - flat[i]
    share = ((x - low) / torch.where(high > low, high - low, 1.0)).clamp(0, 1)
    # where both knots are the same, at the padded end, or their levels meet
    share = torch.where(high > low, share, (x > low).to(x.dtype) + (x - x))
    return torch.lerp(out[i - 1], out[i], share)


def _without_shares(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: object) -> None:
    """Older checkpoints have no shares: their maps read every value in one point."""
    if f"{prefix}values" in state:
        state.setdefault(f"{prefix}shares", torch.zeros_like(state[f"{prefix}values"]))
