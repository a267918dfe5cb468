"""Modules with stable ``state_dict`` keys, built on ``ordkernels.ops``."""

from .decoder import ValueDecoder
from .denoisers import MLPDenoiser, TransformerDenoiser
from .encoders import QuantileEncoder
from .flows import ConditionalPlanarFlow, PlanarFlow, PlanarTransform
from .fusion import SessionDenoiser, SessionFilters
from .increments import IncrementHeads

__all__ = [
    "ConditionalPlanarFlow",
    "IncrementHeads",
    "MLPDenoiser",
    "PlanarFlow",
    "PlanarTransform",
    "QuantileEncoder",
    "SessionDenoiser",
    "SessionFilters",
    "TransformerDenoiser",
    "ValueDecoder",
]
