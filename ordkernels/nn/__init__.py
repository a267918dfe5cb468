"""Modules with stable ``state_dict`` keys, built on ``ordkernels.ops``."""

from .encoders import QuantileEncoder
from .flows import ConditionalPlanarFlow, PlanarFlow, PlanarTransform

__all__ = ["ConditionalPlanarFlow", "PlanarFlow", "PlanarTransform", "QuantileEncoder"]
