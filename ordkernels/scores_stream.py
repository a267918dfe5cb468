"""Alias of `ordkernels.scores.streaming`."""

from ._backend import host_module  # noqa: F401 (was importable from here)
from .scores.streaming import *  # noqa: F403
