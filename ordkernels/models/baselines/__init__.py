"""Baselines: models that the four systems are compared with."""

from .historical_median import HistoricalMedian
from .pooling import PooledFusion
from .quantile_regression import QuantileRegression
from .tabular import TableClassifier, TableRegression
from .value_regression import ValueRegression
from .watch_time import CREAD, D2Q, EGMN, TPM, WLR

__all__ = [
    "CREAD",
    "D2Q",
    "EGMN",
    "TPM",
    "WLR",
    "HistoricalMedian",
    "PooledFusion",
    "QuantileRegression",
    "TableClassifier",
    "TableRegression",
    "ValueRegression",
]
