"""Loaders for the real data sets that the benchmarks and the demo use."""

from .cdnow import cdnow, cdnow_features
from .kuairand import kuairand, kuairand_features, n_ids
from .ordinal import ordinal, ordinal_names

__all__ = ["cdnow", "cdnow_features", "kuairand", "kuairand_features", "n_ids", "ordinal", "ordinal_names"]
