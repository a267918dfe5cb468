"""Predicted distributions as draws, with the method names of skpro."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..scaling.predictor import quantiles_of_draws

__all__ = ["PredictedDistribution"]

Floats = NDArray[np.float64]


class PredictedDistribution:
    """The predictive distribution of each row, as n draws of equal weight.

    Args:
        draws: ``[N, n]``, in the target's unit.

    Raises:
        ValueError: another shape, no draws.

    Example:
        >>> d = PredictedDistribution([[1.0, 3.0, 2.0, 4.0]])
        >>> d.mean(), d.ppf([0.5]), d.cdf([2.5])
        (array([2.5]), array([[2.5]]), array([0.5]))
    """

    def __init__(self, draws: ArrayLike) -> None:
        self.draws: Floats = np.sort(np.asarray(draws, dtype=np.float64), axis=-1)
        if self.draws.ndim != 2 or not self.draws.shape[1]:
            raise ValueError(f"draws: expected [N, n] with n at least 1, got {list(self.draws.shape)}")

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, rows: Any) -> PredictedDistribution:
        return PredictedDistribution(np.atleast_2d(self.draws[rows]))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.draws, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"PredictedDistribution({len(self.draws)} rows, {self.draws.shape[1]} draws)"

    def mean(self) -> Floats:
        """``[N]``."""
        return self.draws.mean(axis=1)

    def var(self) -> Floats:
        """``[N]``, of the draws."""
        return self.draws.var(axis=1)

    def ppf(self, alpha: float | ArrayLike) -> Floats:
        """Quantiles ``[N]`` of one level, ``[N, len(alpha)]`` of several; linear between the draws, the k-th of level k / (n + 1)."""
        levels = np.asarray(alpha, dtype=np.float64)
        if levels.ndim > 1 or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"alpha: expected levels strictly between 0 and 1, got {alpha!r}")
        return quantiles_of_draws(self.draws, levels)

    def cdf(self, y: float | ArrayLike) -> Floats:
        """The share of the draws that are at most y, a number or ``[N]``: ``[N]``."""
        at = np.broadcast_to(np.asarray(y, dtype=np.float64), (len(self.draws),))
        found: Floats = (self.draws <= at[:, None]).mean(axis=1)
        return found

    def interval(self, coverage: float) -> Floats:
        """Lower and upper end of the central interval of that coverage, ``[N, 2]``."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage: expected a share strictly between 0 and 1, got {coverage!r}")
        return self.ppf([0.5 - coverage / 2, 0.5 + coverage / 2])

    def sample(self, n: int | None = None, seed: int = 0) -> Floats:
        """All draws ``[N, n_draws]`` in rising order, or n of each row, with replacement, ``[N, n]``."""
        if n is None:
            return self.draws.copy()
        chosen = np.random.default_rng(seed).integers(self.draws.shape[1], size=(len(self.draws), n))
        return np.take_along_axis(self.draws, chosen, axis=1)
