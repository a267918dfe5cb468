"""Scoring many rows: on one machine by `Predictor`."""

from .predictor import Predictor

__all__ = ["Predictor"]
