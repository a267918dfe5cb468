"""The ops: thin checked functions over the torch dispatcher's `ordkernels::` kernels."""

from .denoise import flow_sample, flow_step, predict_x0, q_sample, reverse_step
from .increments import encode_increments, nested_min
from .planar_flow import conditional_planar_flow, planar_flow, planar_flow_inverse

__all__ = [
    "conditional_planar_flow",
    "encode_increments",
    "flow_sample",
    "flow_step",
    "nested_min",
    "planar_flow",
    "planar_flow_inverse",
    "predict_x0",
    "q_sample",
    "reverse_step",
]
