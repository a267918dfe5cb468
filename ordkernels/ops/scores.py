"""Scores of predictions: those of `ordkernels.scores`, and the two that are losses as well, `crps` and `pinball`."""

from ..scores import XAUCResult, auc, coverage, cumulative_score, histogram_jsd, lcc, mae, relaimpr, rmse, srcc, xauc
from ..scores_intervals import mae_by_interval
from .crps import crps, pinball

__all__ = [
    "XAUCResult", "auc", "coverage", "crps", "cumulative_score", "histogram_jsd", "lcc", "mae", "mae_by_interval",
    "pinball", "relaimpr", "rmse", "srcc", "xauc",
]  # fmt: skip
