"""Published systems as modules with ``loss``, ``sample``, ``predict`` and ``interval``, and their training loop."""

from .baselines import HistoricalMedian, ValueRegression
from .diffor import DiffoR
from .field import CREAD, D2Q, EGMN, TPM, WLR
from .flowtime import FlowTime
from .gr import GenerativeRegression
from .ifusion import IFusion
from .pooling import PooledFusion
from .tabular import ContextEncoder, TableClassifier, TableRegression
from .targets import TargetMap
from .training import fit

__all__ = [
    "CREAD",
    "D2Q",
    "EGMN",
    "TPM",
    "WLR",
    "ContextEncoder",
    "DiffoR",
    "FlowTime",
    "GenerativeRegression",
    "HistoricalMedian",
    "IFusion",
    "PooledFusion",
    "TableClassifier",
    "TableRegression",
    "TargetMap",
    "ValueRegression",
    "fit",
]
