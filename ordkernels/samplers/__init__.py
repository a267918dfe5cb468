"""Samplers: row-keyed noise in, predictive draws out, in bounded memory."""

from .flow import FlowSampler

__all__ = ["FlowSampler"]
