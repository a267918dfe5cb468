"""Alias of `ordkernels.scores.streaming`."""

from .scores.streaming import *  # noqa: F403
