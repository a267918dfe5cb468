"""Published systems as modules with ``loss``, ``sample``, ``predict`` and ``interval``, and their training loop."""

from .baselines import HistoricalMedian, ValueRegression
from .flowtime import FlowTime
from .training import fit

__all__ = ["FlowTime", "HistoricalMedian", "ValueRegression", "fit"]
