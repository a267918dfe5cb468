"""Calibration by deciles of the prediction."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays
from .._validation.numbers import integer, positive_sizes
from ..reference._range import binned_sums
from ._inputs import finite_columns, float64

__all__ = ["DecileTable", "decile_table"]

Floats = NDArray[np.float64]


class DecileTable(NamedTuple):
    """A line for each bin of the predictions, from the lowest to the highest; means are NaN in a bin without rows."""

    rows: NDArray[np.int64]
    mean_prediction: Floats
    mean_y: Floats
    share_of_y: Floats  # of the sum of y

    @property
    def mape(self) -> float:
        """The mean of ``|mean_y - mean_prediction| / mean_y`` over the bins that have rows; infinite where such a bin's mean y is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.abs(self.mean_y - self.mean_prediction) / np.abs(self.mean_y)
        return float(np.mean(np.where(self.mean_y == self.mean_prediction, 0.0, each)[self.rows > 0]))


def decile_table(y: Any, prediction: Any, *, bins: int = 10) -> DecileTable:
    """Mean label against mean prediction, in bins of the predictions with as many rows each.

    Bin k begins at the prediction of rank ``floor(k N / bins)``. Rows of equal predictions are in one bin, the highest that begins
    with them: the table does not depend on the order of rows, and bins may be larger than others, or empty.

    Args:
        y: ``[N]``, finite, such as lifetime values.
        prediction: ``[N]``, finite.
        bins: how many, up to 2^20.

    Returns:
        ``DecileTable(rows, mean_prediction, mean_y, share_of_y)``, ``[bins]`` each; its ``.mape`` is the mean absolute percentage error
        of the bins' means.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN or infinity (how many, and the first); bins below 1.

    Source: Wang, Liu and Miao, "A Deep Probabilistic Model for Customer Lifetime Value Prediction" (arXiv:1912.07753), section 3.3.

    Example:
        >>> table = decile_table([0, 2, 10, 30], [1, 1, 12, 20], bins=2)
        >>> table.mean_prediction.tolist(), table.mean_y.tolist()
        ([1.0, 16.0], [1.0, 20.0])
        >>> round(table.mape, 12)
        0.1
    """
    bins = integer("bins", bins, most=2**20)
    positive_sizes(bins=bins)
    labels = arrays.numbers("y", y)
    order = arrays.same_order(p := arrays.numbers("prediction", prediction))
    a, b = float64(*finite_columns(labels, p))
    starts = np.sort(order)[np.arange(1, bins) * len(order) // bins]
    code = np.searchsorted(starts, order, side="right")
    rows = np.bincount(code, minlength=bins)
    (of_b, scale_b), (of_a, scale_a) = (binned_sums(code, x, bins) for x in (b, a))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean_prediction, mean_y = np.ldexp(of_b / rows, scale_b), np.ldexp(of_a / rows, scale_a)
        of_all = np.ldexp(of_a, scale_a - scale_a[of_a != 0].max(initial=-2000))
        return DecileTable(rows.astype(np.int64), mean_prediction, mean_y, of_all / of_all.sum())
