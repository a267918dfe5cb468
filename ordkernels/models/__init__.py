"""Published systems as modules with ``loss``, ``sample``, ``predict`` and ``interval``, and their training loop.

The arguments of a model are grouped in small dataclasses, whose fields may also be given as plain keywords:
``DiffoR(dense_width=3, loss_config=DiffoRLoss(rho=0.3))`` is ``DiffoR(dense_width=3, rho=0.3)``.
"""

from ._encoders import ContextEncoder, EncoderConfig
from ._interest import PredictionLoss, SequenceConfig
from .baselines import (
    CREAD,
    D2Q,
    EGMN,
    TPM,
    WLR,
    HistoricalMedian,
    PooledFusion,
    QuantileRegression,
    TableClassifier,
    TableRegression,
    ValueRegression,
)
from .diffor import DiffoR, DiffoRLoss, DiffusionConfig, IncrementConfig
from .flowtime import FlowTime, FlowTimeLoss, PriorConfig
from .gr import DecodingConfig, GenerativeRegression, GRLoss, VocabularyConfig
from .ifusion import GuidedChainConfig, IFusion, IFusionLoss
from .target_transforms import TargetMap
from .training import fit

__all__ = [
    "CREAD",
    "D2Q",
    "EGMN",
    "TPM",
    "WLR",
    "ContextEncoder",
    "DecodingConfig",
    "DiffoR",
    "DiffoRLoss",
    "DiffusionConfig",
    "EncoderConfig",
    "FlowTime",
    "FlowTimeLoss",
    "GRLoss",
    "GenerativeRegression",
    "GuidedChainConfig",
    "HistoricalMedian",
    "IFusion",
    "IFusionLoss",
    "IncrementConfig",
    "PooledFusion",
    "PredictionLoss",
    "PriorConfig",
    "QuantileRegression",
    "SequenceConfig",
    "TableClassifier",
    "TableRegression",
    "TargetMap",
    "ValueRegression",
    "VocabularyConfig",
    "fit",
]
