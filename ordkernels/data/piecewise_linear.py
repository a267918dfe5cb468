"""Piecewise linear encodings of numbers: how far a value lies into each quantile bin of its column."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._validation.numbers import integer
from .standardiser import checked_table

__all__ = ["PiecewiseLinearEncoder"]

MOST_BINS = 8
ROWS_PER_BIN = 2000  # fewer, and a network learns the rows of a bin by heart
LEAST_DISTINCT = 20  # values of a column; flags and small counts are left as they are


class PiecewiseLinearEncoder:
    """Adds to numeric columns, for each quantile bin of those with many values, how far the value lies into it, from -1 to 1.

    A network bends a feature anywhere by its weights on the bins, where a plain column gives it one slope to start with; values beyond
    the fitted rows' range count as its ends. Put it after :class:`Standardiser`: the columns themselves stay as they are.

    Args:
        bins: of each column; by default one for every 2,000 fitted rows, at most 8, and none at all (``transform`` adds nothing)
            below 4,000 rows, where they make a network fit noise.

    Attributes:
        edges: of the bins, rising, one float64 array for each column of the fit; empty where a column has fewer than 20 values.

    Raises:
        ValueError: arrays that are not ``[N, F]``, another F than fitted, infinite values, no rows to fit on, fewer than 2 bins.

    Source: Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022, section 3.2.

    Example:
        >>> x = np.arange(100.0)[:, None]
        >>> PiecewiseLinearEncoder(bins=2).fit(x).transform([[0.0], [24.75], [99.0]])
        array([[ 0.  , -1.  , -1.  ],
               [24.75,  0.  , -1.  ],
               [99.  ,  1.  ,  1.  ]], dtype=float32)
    """

    edges: list[NDArray[np.float64]]

    def __init__(self, bins: int | None = None) -> None:
        self.bins = None if bins is None else integer("bins", bins, least=2)

    def fit(self, x: ArrayLike) -> PiecewiseLinearEncoder:
        """Learns the edges from ``[N, F]``, NaN left out; returns itself."""
        rows = checked_table(x)
        if not len(rows):
            raise ValueError("x: expected at least one row to fit on, got none")
        bins = bins_for(len(rows)) if self.bins is None else self.bins
        self.edges = [quantile_edges(column[~np.isnan(column)], bins) for column in rows.T]
        return self

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``[N, F + bins of all columns]`` float32: x, then the bins of each column in turn. NaN stays, its bins are 0."""
        if not hasattr(self, "edges"):
            raise ValueError("PiecewiseLinearEncoder: expected fit before transform")
        rows = checked_table(x)
        if rows.shape[1] != len(self.edges):
            raise ValueError(f"x: expected the {len(self.edges)} columns of the fit, got {rows.shape[1]}")
        return np.hstack([rows.astype(np.float32), *(piecewise_linear(column, e) for column, e in zip(rows.T, self.edges, strict=True))])

    def fit_transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """``fit(x).transform(x)``."""
        return self.fit(x).transform(x)


def with_bins(train: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both splits of a data set, their dense columns with the bins that those of training have by default."""
    encoder = PiecewiseLinearEncoder().fit(train["dense"])
    binned = [rows | {"dense": torch.from_numpy(encoder.transform(rows["dense"]))} for rows in (train, other)]
    return binned[0], binned[1]


def bins_for(n_rows: int) -> int:
    """How many bins that many training rows bear, 0 for none."""
    bins = min(MOST_BINS, n_rows // ROWS_PER_BIN)
    return bins if bins > 1 else 0


def quantile_edges(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """The ends of bins with equally many values, each once; empty where there are no bins or few values."""
    if not bins or len(np.unique(values)) < LEAST_DISTINCT:
        return np.empty(0)
    return np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))


def piecewise_linear(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """``[N, len(edges) - 1]``, from -1 (below a bin) to 1 (above it); 0 for NaN."""
    begin, width = edges[:-1], np.diff(edges)
    share = np.clip((values[:, None] - begin) / width, 0, 1)
    return np.nan_to_num(2 * share - 1, nan=0.0).astype(np.float32)
