"""The ops: thin checked functions over the torch dispatcher's `ordkernels::` kernels; scores on NumPy arrays and tensors."""

import torch.fx

from ..scores import (
    XAUCResult,
    auc,
    coverage,
    cumulative_score,
    decile_table,
    histogram_jsd,
    kendall_tau,
    lcc,
    mae,
    mae_by_interval,
    normalized_gini,
    relaimpr,
    rmse,
    srcc,
    xauc,
)  # fmt: skip
from ._weights import DecoderWeights, MLPWeights, SequenceWeights, SessionWeights
from .conditional_planar_flow import conditional_planar_flow
from .crps import crps
from .denoise_chain import denoise_chain
from .embedding_mixup import embedding_mixup
from .encode_increments import encode_increments
from .flow_sample import flow_sample
from .flow_step import flow_step
from .fusion_chain import fusion_chain
from .guided_posterior_step import guided_posterior_step
from .interval_score import interval_score
from .mlp import mlp
from .nested_min import nested_min
from .pinball import pinball
from .planar_flow import planar_flow
from .planar_flow_inverse import planar_flow_inverse
from .predict_x0 import predict_x0
from .q_sample import q_sample
from .reverse_step import reverse_step
from .sequence_layer import sequence_layer
from .value_decode import DecodeResult, value_decode
from .wasserstein_quantile_loss import wasserstein_quantile_loss
from .windowed_value import windowed_value

__all__ = [
    "DecodeResult", "DecoderWeights", "MLPWeights", "SequenceWeights", "SessionWeights", "XAUCResult", "auc", "conditional_planar_flow",
    "coverage", "crps", "cumulative_score", "decile_table", "denoise_chain", "embedding_mixup", "encode_increments", "flow_sample",
    "flow_step", "fusion_chain", "guided_posterior_step", "histogram_jsd", "interval_score", "kendall_tau", "lcc", "mae",
    "mae_by_interval", "mlp", "nested_min", "normalized_gini", "pinball", "planar_flow", "planar_flow_inverse", "predict_x0", "q_sample",
    "relaimpr", "reverse_step", "rmse", "sequence_layer", "srcc", "value_decode", "wasserstein_quantile_loss", "windowed_value", "xauc",
]  # fmt: skip

# A call of `ops.<name>` with a proxy is one node of `torch.fx.symbolic_trace`'s graph: a proxy is no tensor to check.
for _name in (
    "conditional_planar_flow", "crps", "denoise_chain", "embedding_mixup", "encode_increments", "flow_sample", "flow_step", "fusion_chain",
    "guided_posterior_step", "interval_score", "mlp", "nested_min", "pinball", "planar_flow", "planar_flow_inverse", "predict_x0",
    "q_sample", "reverse_step", "sequence_layer", "value_decode", "wasserstein_quantile_loss", "windowed_value",
):  # fmt: skip
    torch.fx.wrap(_name)
