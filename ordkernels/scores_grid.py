"""Alias of `ordkernels.scores.grid`."""

from .scores.grid import *  # noqa: F403
