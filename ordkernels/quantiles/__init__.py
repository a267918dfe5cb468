"""Quantiles of ragged groups of values: how the past of a user or an item becomes a fixed number of features.

NumPy in, NumPy out; torch tensors come back as tensors. No gradients, and no torch unless a tensor comes in.
"""

from .history_quantiles import history_quantiles
from .leave_one_out_quantiles import leave_one_out_quantiles
from .out_of_fold_quantiles import out_of_fold_quantiles
from .segment_quantiles import segment_quantiles

__all__ = ["history_quantiles", "leave_one_out_quantiles", "out_of_fold_quantiles", "segment_quantiles"]
