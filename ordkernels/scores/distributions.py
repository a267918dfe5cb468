"""Scores of distributions. CRPS and pinball loss, which are differentiable losses too, are in `ordkernels.ops`."""

from .coverage import coverage
from .histogram_jsd import histogram_jsd

__all__ = ["coverage", "histogram_jsd"]
