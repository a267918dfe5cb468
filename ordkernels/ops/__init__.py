"""The ops: thin checked functions over the torch dispatcher's `ordkernels::` kernels."""

from .increments import encode_increments, nested_min
from .planar_flow import conditional_planar_flow, planar_flow, planar_flow_inverse

__all__ = ["conditional_planar_flow", "encode_increments", "nested_min", "planar_flow", "planar_flow_inverse"]
