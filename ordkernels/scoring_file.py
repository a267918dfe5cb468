"""Alias of `ordkernels.scores.files`."""

from .scores.files import *  # noqa: F403
