"""Errors of point predictions: MAE, RMSE, cumulative score, linear correlation, MAE by range of the truth, calibration by decile."""

from .cumulative_score import cumulative_score
from .decile_table import DecileTable, decile_table
from .lcc import lcc
from .mae import mae
from .mae_by_interval import IntervalErrors, mae_by_interval
from .rmse import rmse

__all__ = ["DecileTable", "IntervalErrors", "cumulative_score", "decile_table", "lcc", "mae", "mae_by_interval", "rmse"]
