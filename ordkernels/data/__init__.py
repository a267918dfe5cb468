"""Loaders for the real data sets that the benchmarks and the demo use."""

from .cdnow import cdnow, cdnow_features
from .kuairand import kuairand, kuairand_features, n_ids
from .movielens import movielens
from .ordinal import ordinal, ordinal_names
from .piecewise_linear import PiecewiseLinearEncoder
from .sessions import kuairand_sessions
from .standardiser import Standardiser

__all__ = [
    "PiecewiseLinearEncoder",
    "Standardiser",
    "cdnow",
    "cdnow_features",
    "kuairand",
    "kuairand_features",
    "kuairand_sessions",
    "movielens",
    "n_ids",
    "ordinal",
    "ordinal_names",
]
