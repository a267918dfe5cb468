"""Samplers: row-keyed noise in, predictive draws out, in bounded memory."""

from .diffor import DiffoRSampler
from .flow import FlowSampler
from .fusion import FusionSampler
from .value import ValueSampler

__all__ = ["DiffoRSampler", "FlowSampler", "FusionSampler", "ValueSampler"]
