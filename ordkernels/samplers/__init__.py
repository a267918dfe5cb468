"""Samplers: row-keyed noise in, predictive draws out, in bounded memory."""

from .diffor import DiffoRSampler
from .flow import FlowSampler
from .value import ValueSampler

__all__ = ["DiffoRSampler", "FlowSampler", "ValueSampler"]
