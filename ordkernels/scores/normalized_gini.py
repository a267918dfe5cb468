"""Normalized Gini coefficient."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import arrays
from ._inputs import finite_columns

__all__ = ["normalized_gini"]


def normalized_gini(y: Any, prediction: Any) -> float:
    """The Gini coefficient of y ordered by the prediction, over that of y in its own order: 1 if the order is right, 0 by chance.

    ``sum(y_i (r_i - (n + 1) / 2)) / sum(y_i (s_i - (n + 1) / 2))`` with the ranks r of the predictions and s of y. Rows of equal
    predictions share their mean rank, as if they came in any order: the value does not depend on the order of rows. NaN where y is
    constant.

    Args:
        y: ``[N]``, finite, such as lifetime values.
        prediction: ``[N]``, finite.

    Raises:
        TypeError, ValueError: no rows, shapes that differ, NaN or infinity (how many, and the first).

    Source: Wang, Liu and Miao, "A Deep Probabilistic Model for Customer Lifetime Value Prediction" (arXiv:1912.07753), section 3.2.

    Example:
        >>> normalized_gini([0, 0, 10, 30], [1, 2, 4, 3])
        0.6
        >>> normalized_gini([0, 0, 10, 30], [1, 1, 1, 1])
        0.0
    """
    labels, p = arrays.numbers("y", y), arrays.numbers("prediction", prediction)
    a = finite_columns(labels, p, rounded="shifted")[0].astype(np.float64)
    if a.min() == a.max():
        return math.nan
    scaled = np.ldexp(a, -np.frexp(np.abs(a).max())[1])
    share = scaled - scaled.min()  # the ranks' sum is 0: the same value, with less to cancel
    return float(share @ _centred_ranks(arrays.same_order(p))) / float(share @ _centred_ranks(arrays.same_order(labels)))


def _centred_ranks(x: NDArray[Any]) -> NDArray[np.float64]:
    """Twice the mean ranks less n + 1: whole numbers, whose sum is 0."""
    _, code, count = np.unique(x, return_inverse=True, return_counts=True)
    centred = (2 * np.cumsum(count) - count - len(x)).astype(np.float64)
    return centred[code]
