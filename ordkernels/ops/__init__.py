"""The ops: thin checked functions over the torch dispatcher's `ordkernels::` kernels."""

from .planar_flow import conditional_planar_flow, planar_flow, planar_flow_inverse
from .wasserstein import wasserstein_quantile_loss

__all__ = ["conditional_planar_flow", "planar_flow", "planar_flow_inverse", "wasserstein_quantile_loss"]
