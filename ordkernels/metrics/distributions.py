"""Metrics of distributions: CRPS, pinball loss, interval coverage, PDF (histogram divergence per group)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from .._validation import arrays
from .._validation.numbers import boolean, integer
from ..scores.streaming import Coverage, GroupedJSD, SampleScores
from ._base import AccumulatorMetric, ScoreMetric

__all__ = ["CRPS", "PDF", "HistogramJSD", "IntervalCoverage", "IntervalCoverageResult", "Pinball", "equal_mass_edges"]


class CRPS(AccumulatorMetric):
    """Mean CRPS of samples, `ordkernels.ops.crps`. ``update(samples [N, L], y [N])``; ``compute()``: a scalar.

    Args:
        fair: unbiased for the distribution that the samples come from; L at least 2.

    Raises:
        TypeError, ValueError: shapes that do not match, NaN or infinities.

    Example:
        >>> m = CRPS()
        >>> m.update([[0.0, 2.0]], [1.0])
        >>> m.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def __init__(self, fair: bool = False, **kwargs: Any) -> None:
        self.fair = boolean("fair", fair)
        super().__init__(partial(SampleScores, fair=self.fair), {"_n": "count", "_sums": "crps_sums"}, float(self.fair), **kwargs)

    def update(self, samples: Any, y: Any) -> None:
        """Add rows: samples ``[N, L]``, y ``[N]``."""
        self._accumulate(samples, y)

    def compute(self) -> Tensor:
        return self._scalar(self._accumulator().result())


class Pinball(AccumulatorMetric):
    """Mean quantile loss per level, `ordkernels.ops.pinball`.

    ``update(samples [N, L], y [N])``, samples the quantiles at `levels`; ``compute()``: ``[L]``.

    Args:
        levels: ``[L]`` in [0, 1].

    Raises:
        TypeError, ValueError: as `CRPS`; levels outside [0, 1].

    Example:
        >>> m = Pinball([0.5, 0.75])
        >>> m.update([[1.0, 4.0]], [3.0])
        >>> m.compute()
        tensor([1.0000, 0.2500], dtype=torch.float64)
    """

    def __init__(self, levels: Any, **kwargs: Any) -> None:
        checked = arrays.levels("levels", levels)
        super().__init__(partial(SampleScores, levels=checked), {"_n": "count", "_sums": "pinball_sums"}, checked, **kwargs)

    def update(self, samples: Any, y: Any) -> None:
        """Add rows: samples ``[N, L]``, y ``[N]``."""
        self._accumulate(samples, y)

    def compute(self) -> Tensor:
        return torch.as_tensor(self._accumulator().result(), device=self.device)


class IntervalCoverageResult(NamedTuple):
    coverage: Tensor
    width: Tensor


class IntervalCoverage(AccumulatorMetric):
    """Share of rows inside their interval, and mean width, `ordkernels.scores.coverage`.

    ``update(lower [N], upper [N], y [N])``; ``compute()``: ``IntervalCoverageResult(coverage, width)``, scalars.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.coverage`.

    Example:
        >>> m = IntervalCoverage()
        >>> m.update([0, 0], [1, 3], [2, 3])
        >>> float(m.compute().coverage)
        0.5
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Coverage, {"_n": "count", "_inside": "inside", "_width": "width"}, **kwargs)

    def update(self, lower: Any, upper: Any, y: Any) -> None:
        """Add rows: ``[N]`` each."""
        self._accumulate(lower, upper, y)

    def compute(self) -> IntervalCoverageResult:
        share, width = self._accumulator().result()
        return IntervalCoverageResult(self._scalar(share), self._scalar(width))


class HistogramJSD(ScoreMetric):
    """PDF-U and PDF-I: divergence between the histograms of labels and of predictions, the mean over groups (users, items).

    The Jensen-Shannon divergence, `ordkernels.scores.histogram_jsd`. ``update(prediction [N], y [N], group [N])``; ``compute()``: a
    scalar.

    Args:
        labels: training labels ``[M]``, whose `bins` bins of equal mass are the histogram's; or give
        edges: ``[B+1]``, ascending. Either way the end bins are open.
        bins: with labels; equal edges are merged, so there may be fewer.
        base: of the logarithm: with 2, the divergence is between 0 and 1.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.histogram_jsd`; both or neither of labels and edges; constant labels.

    Source: FlowTime (arXiv:2606.01352), section 5.1; open end bins and base 2 are ours.

    Example:
        >>> m = HistogramJSD(edges=[0, 2, 4])
        >>> m.update([0, 5, 1], [0, 1, 5], [7, 7, 7])
        >>> m.compute()
        tensor(0., dtype=torch.float64)
    """

    table: Any  # list[Tensor]; joined over processes, a Tensor

    def __init__(self, labels: Any = None, *, edges: Any = None, bins: int = 50, base: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (labels is None) == (edges is None):
            raise ValueError(f"labels: expected either labels or edges, got {'neither' if labels is None else 'both'}")
        empty = GroupedJSD(equal_mass_edges(labels, bins) if edges is None else edges, base)
        self.edges, self.base = empty.edges, empty.base
        self.add_state("table", [], dist_reduce_fx="cat")  # parts [G, 1 + 2 B]: id | counts of y | counts of predictions
        self.add_state("config", torch.as_tensor(np.append(self.edges, self.base)), dist_reduce_fx="max")
        self._merged_groups = 0

    def update(self, prediction: Any, y: Any, group: Any) -> None:
        """Add rows: ``[N]`` each, groups any integers."""
        histograms = GroupedJSD(self.edges, self.base).update(y, prediction, group)
        if len(histograms._ids):
            self.table.append(self._packed(histograms))
        if sum(map(len, self.table)) > 2 * self._merged_groups + 4096:  # rarely enough that merging costs a constant share
            merged = self._packed(self._unpacked())
            self.table, self._merged_groups = [merged], len(merged)

    def compute(self) -> Tensor:
        return self._scalar(self._unpacked().result())

    def reset(self) -> None:
        super().reset()
        self._merged_groups = 0

    def _packed(self, histograms: GroupedJSD) -> Tensor:
        flat = np.concatenate((histograms._ids[:, None], histograms._counts.reshape(-1, 2 * (len(self.edges) - 1))), 1)
        return torch.as_tensor(flat, device=self.device)

    def _unpacked(self) -> GroupedJSD:
        histograms = GroupedJSD(self.edges, self.base)
        parts = [self.table] if isinstance(self.table, Tensor) else self.table
        for part in parts:
            rows = part.cpu().numpy()
            ids, index = np.unique(rows[:, 0], return_inverse=True)  # joined over processes, an id may occur again
            counts = np.zeros((len(ids), rows.shape[1] - 1), np.int64)
            np.add.at(counts, index, rows[:, 1:])
            if len(ids):
                histograms._add({"_ids": ids, "_counts": counts.reshape(len(ids), 2, -1)})
        return histograms

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None) -> None:
        """A process without rows sends a table without rows, of the others' dtype and width."""
        self.table = [self._packed(self._unpacked())]
        super()._sync_dist(dist_sync_fn, process_group)


PDF = HistogramJSD


def equal_mass_edges(labels: Any, bins: int = 50) -> NDArray[np.float64]:
    """Edges of `bins` bins of equal mass: the labels' quantiles (linear interpolation), equal ones merged.

    Args:
        labels: ``[M]``.
        bins: at least 1.

    Returns:
        ``[B+1]`` in the unit of the labels, B up to bins.

    Raises:
        TypeError, ValueError: no labels, NaN or infinities, fewer than 1 bin; labels that are all equal.

    Example:
        >>> equal_mass_edges([0, 0, 0, 1, 2, 3], bins=3)
        array([0.        , 1.33333333, 3.        ])
    """
    bins = integer("bins", bins, least=1)
    a = arrays.numbers("labels", labels).astype(np.float64)
    if not len(a):
        raise ValueError("labels: expected at least one, got none")
    arrays.reject_infinite("labels", a)
    edges = np.unique(np.quantile(a, np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        raise ValueError(f"labels: expected at least two different ones, got only {a[0]:g}")
    return edges
