"""Errors of point predictions: MAE, RMSE, cumulative score, linear correlation, and MAE by range of the truth."""

from .cumulative_score import cumulative_score
from .lcc import lcc
from .mae import mae
from .mae_by_interval import IntervalErrors, mae_by_interval
from .rmse import rmse

__all__ = ["IntervalErrors", "cumulative_score", "lcc", "mae", "mae_by_interval", "rmse"]
