"""Features on a common scale, learnt from the training rows alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._validation.numbers import real

__all__ = ["Standardiser"]


class Standardiser:
    """Columns with mean 0 and deviation 1 on the rows that it was fitted on; missing values become those rows' median.

    Fit it on training rows alone: a median or a deviation that has seen test rows is a leak.

    Args:
        clip: values outside the fitted rows' range go to its ends (a count that keeps growing must not leave what a model knows).
        least_deviation: a smaller deviation counts as this one, or a flag set on one row in a thousand would become a 30.

    Attributes:
        mean, deviation, median, low, high: ``[F]`` float64, of the fitted rows; of a column without any value 0, 1, 0, 0, 0.

    Raises:
        ValueError: arrays that are not ``[N, F]``, another F than fitted, infinite values, no rows to fit on, numbers below 0.

    Example:
        >>> scale = Standardiser().fit([[1.0, 5.0], [3.0, float("nan")]])
        >>> scale.transform([[2.0, float("nan")], [9.0, 5.0]])
        array([[0., 0.],
               [1., 0.]], dtype=float32)
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __init__(self, *, clip: bool = True, least_deviation: float = 0.0) -> None:
        self.clip, self.least_deviation = clip, real("least_deviation", least_deviation, least=0)

    def fit(self, x: ArrayLike) -> Standardiser:
        """Learns from ``[N, F]``; returns itself."""
        rows = checked_table(x)
        if not len(rows):
            raise ValueError("x: expected at least one row to fit on, got none")
        self.median, self.low, self.high = np.zeros((3, rows.shape[1]))
        for j, column in enumerate(rows.T):
            known = column[~np.isnan(column)]
            if len(known):
                self.median[j], self.low[j], self.high[j] = np.median(known), known.min(), known.max()
        filled = np.where(np.isnan(rows), self.median, rows)
        self.mean = filled.mean(axis=0)
        deviation = np.maximum(filled.std(axis=0), self.least_deviation)
        self.deviation = np.where(deviation > 0, deviation, 1.0)
        return self

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``[N, F]`` on the fitted scale, float32, finite."""
        if not hasattr(self, "mean"):
            raise ValueError("Standardiser: expected fit before transform")
        rows = checked_table(x)
        if rows.shape[1] != len(self.mean):
            raise ValueError(f"x: expected the {len(self.mean)} columns of the fit, got {rows.shape[1]}")
        filled = np.where(np.isnan(rows), self.median, rows)
        if self.clip:
            filled = np.clip(filled, self.low, self.high)
        out: NDArray[np.float32] = ((filled - self.mean) / self.deviation).astype(np.float32)
        return out

    def fit_transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``fit(x).transform(x)``."""
        return self.fit(x).transform(x)


def checked_table(x: ArrayLike) -> NDArray[np.float64]:
    """``x`` as float64 ``[N, F]``, NaN for missing values; ``ValueError`` for other shapes and infinite values."""
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"x: expected [N, F], got {list(rows.shape)}")
    if np.isinf(rows).any():
        row, column = (int(i) for i in np.argwhere(np.isinf(rows))[0])
        raise ValueError(f"x: expected finite values, or NaN for missing ones, got {rows[row, column]} in row {row}, column {column}")
    return rows
