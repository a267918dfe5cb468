"""Samplers: row-keyed noise in, predictive draws out, in bounded memory."""

from .diffor import DiffoRSampler
from .flow import FlowSampler

__all__ = ["DiffoRSampler", "FlowSampler"]
