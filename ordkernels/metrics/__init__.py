"""The scores as `torchmetrics.Metric`s: update per batch, sync over processes, compute. Needs the extra ``ordkernels[metrics]``.

Arguments come in torchmetrics' order, predictions first, so that a `MetricCollection` takes them. States are fp64 and int64;
updates run on the CPU, in the compiled data-side kernels, except that exact pair scores keep their rows on the metric's device.
"""

try:
    import torchmetrics as _torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"ordkernels.metrics: expected torchmetrics, got {error}. It is an optional extra: pip install 'ordkernels[metrics]'. "
        "The same scores are in ordkernels.scores and ordkernels.ops, and as accumulators in ordkernels.scores.streaming, without it."
    ) from error

from .distributions import CRPS, PDF, HistogramJSD, IntervalCoverage, IntervalCoverageResult, Pinball, equal_mass_edges
from .errors import LCC, MAE, RMSE, CumulativeScore
from .ranking import AUC, SRCC, XAUC, BoundedXAUC, KendallTau, NormalizedGini, RelaImpr

__all__ = [
    "AUC", "CRPS", "LCC", "MAE", "PDF", "RMSE", "SRCC", "XAUC", "BoundedXAUC", "CumulativeScore", "HistogramJSD", "IntervalCoverage",
    "IntervalCoverageResult", "KendallTau", "NormalizedGini", "Pinball", "RelaImpr", "equal_mass_edges",
]  # fmt: skip
