"""The ops: thin checked functions over the torch dispatcher's `ordkernels::` kernels; scores on NumPy arrays and tensors."""

from ..scores import XAUCResult, auc, coverage, cumulative_score, histogram_jsd, lcc, mae, mae_by_interval, relaimpr, rmse, srcc, xauc
from .crps import crps, pinball
from .denoise import flow_sample, flow_step, predict_x0, q_sample, reverse_step
from .denoise_chain import denoise_chain
from .denoise_guided import guided_posterior_step
from .fusion_chain import fusion_chain
from .increments import encode_increments, nested_min
from .planar_flow import conditional_planar_flow, planar_flow, planar_flow_inverse
from .value_decode import DecodeResult, value_decode
from .value_tokens import embedding_mixup, windowed_value
from .wasserstein import wasserstein_quantile_loss

__all__ = [
    "DecodeResult", "XAUCResult", "auc", "conditional_planar_flow", "coverage", "crps", "cumulative_score",
    "denoise_chain", "embedding_mixup", "encode_increments", "flow_sample", "flow_step", "fusion_chain", "guided_posterior_step",
    "histogram_jsd", "lcc", "mae", "mae_by_interval", "nested_min", "pinball", "planar_flow", "planar_flow_inverse", "predict_x0",
    "q_sample", "relaimpr", "reverse_step", "rmse", "srcc", "value_decode", "wasserstein_quantile_loss", "windowed_value", "xauc",
]  # fmt: skip
