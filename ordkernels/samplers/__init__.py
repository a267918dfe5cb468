"""Samplers: row-keyed noise in, draws from the predictive distribution out, in bounded memory."""

from ._base import Sampler
from .diffor import DiffoRSampler
from .flow import FlowSampler
from .fusion import FusionSampler
from .scoring import ScoringModule
from .value import ValueSampler

__all__ = ["DiffoRSampler", "FlowSampler", "FusionSampler", "Sampler", "ScoringModule", "ValueSampler"]
