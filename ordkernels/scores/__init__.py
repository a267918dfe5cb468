"""Scores of predictions: errors, the order of pairs, and distributions of labels.

They take lists, NumPy arrays and torch tensors of any numeric dtype, and need torch for tensors alone. Sums run in fp64, in a fixed
tree of blocks, and counts in integers: no result depends on the number of threads. `num_threads` is by default
``ORDKERNELS_NUM_THREADS``, or every core.

`ordkernels.scores.streaming` and `.grid` score more rows than fit into memory, `.files` the columns of a file.
"""

from .distributions import coverage, histogram_jsd
from .errors import DecileTable, IntervalErrors, cumulative_score, decile_table, lcc, mae, mae_by_interval, rmse
from .ranking import XAUCResult, auc, kendall_tau, normalized_gini, relaimpr, srcc, xauc

__all__ = [
    "DecileTable", "IntervalErrors", "XAUCResult", "auc", "coverage", "cumulative_score", "decile_table", "histogram_jsd", "kendall_tau",
    "lcc", "mae", "mae_by_interval", "normalized_gini", "relaimpr", "rmse", "srcc", "xauc",
]  # fmt: skip
