"""Predictions beside the truth, and what is said of them: in print, and on a page."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import scores

__all__ = ["Predictions", "shown"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Of N rows, in the target's unit.

    Args:
        y: the truth ``[N]``.
        point: predictions ``[N]``.
        quantiles: predicted quantiles ``[N]`` by their levels, which ascend.
        samples: ``[N, n]``, or None.
        group: ``[N]``, or None.
    """

    y: Floats
    point: Floats
    quantiles: dict[float, Floats] = field(default_factory=dict)
    samples: Floats | None = None
    group: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def of(self, rows: NDArray[Any]) -> Predictions:
        """Some of the rows."""
        quantiles = {level: q[rows] for level, q in self.quantiles.items()}
        return Predictions(self.y[rows], self.point[rows], quantiles, None if self.samples is None else self.samples[rows])

    def scores(self) -> dict[str, float]:
        """By name; what there are no quantiles for, or no two different targets, is left out."""
        y, point = self.y, self.point
        found = {"MAE": scores.mae(y, point), "RMSE": scores.rmse(y, point), "bias": float((point - y).mean())}
        if y.min() != y.max():
            found["XAUC"] = scores.xauc(y, point).value
        if self.quantiles:
            found["pinball"] = float(np.mean([np.maximum(q * (y - at), (q - 1) * (y - at)).mean() for q, at in self.quantiles.items()]))
        for low, high in self.intervals()[:1]:
            covered, width = scores.coverage(self.quantiles[low], self.quantiles[high], y)
            found |= {f"{high - low:.0%} covers": covered, "width": width}
        return found

    def intervals(self) -> list[tuple[float, float]]:
        """Pairs of levels, from the widest to the narrowest."""
        levels = list(self.quantiles)
        return list(zip(levels[: len(levels) // 2], levels[::-1], strict=False))

    def shares_below(self) -> Floats:
        """The share of targets at most the predicted quantile, of each level; ties count half, as of targets that are often 0."""
        return np.array([(self.y < at).mean() + 0.5 * (self.y == at).mean() for at in self.quantiles.values()])

    def pit(self) -> tuple[Floats, Floats]:
        """Edges in [0, 1] and the density of the probability integral transform between them, 1 where predictions are calibrated.

        From the places of the targets among at least 20 samples; else from the quantiles, between whose levels the edges lie.
        """
        if self.samples is None or self.samples.shape[1] < 20:
            levels, below = np.array([0.0, *self.quantiles, 1.0]), np.array([0.0, *self.shares_below(), 1.0])
            return levels, np.diff(below) / np.diff(levels)
        y = self.y[:, None]
        n = self.samples.shape[1]
        low, high = (self.samples < y).sum(axis=1) / (n + 1), ((self.samples <= y).sum(axis=1) + 1) / (n + 1)
        edges = np.linspace(0, 1, 11)  # each target's mass is spread over its place among the samples
        mass = np.clip((edges[None] - low[:, None]) / (high - low)[:, None], 0, 1)
        return edges, np.diff(mass, axis=1).mean(axis=0) / np.diff(edges)

    def by_target(self, bins: int = 8) -> list[tuple[str, Predictions]]:
        """Intervals of the target with about as many rows each; of a target of few values, the values."""
        values = np.unique(self.y)
        if len(values) <= bins:
            return [(f"{value:.6g}", self.of(self.y == value)) for value in values]
        edges = np.unique(np.quantile(self.y, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
        if len(edges) < 2:  # nearly all are one value
            edges = np.array([values[0], values[-1]])
        which = np.clip(np.searchsorted(edges, self.y, side="right") - 1, 0, len(edges) - 2)
        names = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)]
        return [(name, self.of(which == k)) for k, name in enumerate(names) if (which == k).any()]

    def by_prediction(self, bins: int = 10) -> list[Predictions]:
        """Rows in the order of their predictions, as many in each part."""
        order = np.argsort(self.point, kind="stable")
        return [self.of(rows) for rows in np.array_split(order, min(bins, len(order)))]

    def by_group(self, most: int) -> list[tuple[str, Predictions]]:
        """The groups with the most rows."""
        assert self.group is not None
        names, which, counts = np.unique(self.group.astype(str), return_inverse=True, return_counts=True)
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(counts)
        largest = np.argsort(-counts, kind="stable")[:most]
        return [(str(names[k]), self.of(order[ends[k] - counts[k] : ends[k]])) for k in largest]


def shown(name: str, value: float | None) -> str:
    """A score of that name in print."""
    if value is None or np.isnan(value):
        return "-"
    if name.endswith("covers"):
        return f"{value:.1%}"
    sign = "+" if name == "bias" else ""
    return f"{value:{sign},.0f}" if abs(value) >= 1e4 else f"{value:{sign}.4g}"
