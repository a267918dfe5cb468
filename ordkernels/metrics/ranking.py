"""Metrics of the order of rows: XAUC (exact, grouped, binned), AUC and RelaImpr, SRCC, Kendall's tau, normalized Gini."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import scores
from .._validation.numbers import integer, number, one_of
from ..scores.grid import GridXAUC
from ..scores.xauc import Ties, options
from ._base import RowsMetric

__all__ = ["AUC", "SRCC", "XAUC", "BoundedXAUC", "KendallTau", "NormalizedGini", "RelaImpr"]


class BoundedXAUC(NamedTuple):
    """The exact XAUC of all rows is within `bound` of `value`."""

    value: Tensor
    bound: Tensor


class XAUC(RowsMetric):
    """The share of pairs that the prediction orders as y does, `ordkernels.scores.xauc`, of all rows of all processes.

    ``update(prediction [N], y [N], weight [N] = None, group [N] = None)``, weights or groups in every update or in none.
    ``compute()``: a scalar; binned: ``BoundedXAUC(value, bound)``.

    Args:
        mode: ``"exact"`` keeps the rows (and gathers them: 8 to 16 bytes a row, and the workspace of `ordkernels.scores.xauc`);
            ``"binned"`` a joint histogram that merges by addition, `ordkernels.scores.grid.GridXAUC`: value and guaranteed bound
            do not depend on batches or processes.
        ties, average: as `ordkernels.scores.xauc`, exact only. ``ties="reference"`` and ``"cwm"`` depend on the order of rows, and
            so of processes.
        bins: of each side of the histogram, ``8 bins^2`` bytes.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.xauc`, and for a binned one with weights, groups, or ties other than "half".

    Example:
        >>> m = XAUC()
        >>> m.update([0.1, 0.3], [1.0, 2.0])
        >>> m.update([0.3], [3.0])
        >>> m.compute()
        tensor(0.8333, dtype=torch.float64)
        >>> m = XAUC(mode="binned", bins=64)
        >>> m.update([0.1, 0.3, 0.2], [1.0, 2.0, 3.0])
        >>> value, bound = m.compute()
        >>> abs(float(value) - 2 / 3) <= float(bound)
        True
    """

    _columns: tuple[str, ...] = ("prediction", "y", "weight", "group")
    grid: Tensor

    def __init__(
        self,
        mode: Literal["exact", "binned"] = "exact",
        *,
        ties: Ties = "half",
        average: Literal["group", "pair"] = "group",
        bins: int = 4096,
        **kwargs: Any,
    ) -> None:
        self.mode: Literal["exact", "binned"] = one_of("mode", mode, ("exact", "binned"))
        self.ties, self.average = options(ties, average)
        if mode == "binned" and ties != "half":
            raise ValueError(f"ties: expected 'half' with mode='binned', got {ties!r}")
        self.bins = integer("bins", bins)
        if mode == "binned":
            self._columns = ()
        super().__init__(**kwargs)
        if mode == "binned":
            # ranges and counts only merge together: one state
            self.add_state("grid", torch.as_tensor(_packed(GridXAUC(bins))), dist_reduce_fx=_merge_grids)

    def update(self, prediction: Any, y: Any, weight: Any = None, group: Any = None) -> None:
        """Add rows: ``[N]`` each; tensors, arrays or lists."""
        for name, x in (("weight", weight), ("group", group)):
            if self.mode == "binned" and x is not None:
                raise ValueError(f"{name}: expected None with mode='binned', got {type(x).__name__}")
        if self.mode == "binned":
            self._count(y, prediction)
            return
        columns: dict[str, Any] = {"prediction": prediction, "y": y}
        for name, x in (("weight", weight), ("group", group)):
            if self.y_rows and (x is None) != (not getattr(self, f"{name}_rows")):
                raise ValueError(f"{name}: expected {'an array' if x is None else 'None'}, as in earlier updates, got {type(x).__name__}")
            if x is not None:
                columns[name] = x
        self._append(**columns)

    def _count(self, y: Any, prediction: Any) -> None:
        state = self.grid.cpu()
        grid = _unpacked(state)
        joint = grid._joint
        grid.update(y, prediction)
        if grid._joint is joint:  # counted in place: the grid did not widen
            state[:6] = torch.as_tensor(grid._range.reshape(-1))
        else:
            state = torch.as_tensor(_packed(grid))
        self.grid = state.to(self.device)

    def compute(self) -> Any:
        if self.mode == "binned":
            binned = _unpacked(self.grid.cpu()).result()
            return BoundedXAUC(self._scalar(binned.value), self._scalar(binned.bound))
        p, y = self._prediction_and_y()
        weight, group = self._rows("weight"), self._rows("group")
        return self._scalar(scores.xauc(y, p, ties=self.ties, average=self.average, weight=weight, group=group).value)


class SRCC(RowsMetric):
    """Spearman's rank correlation, `ordkernels.scores.srcc`. ``update(prediction [N], y [N])``; keeps the rows, as exact `XAUC`.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.srcc`.

    Example:
        >>> m = SRCC()
        >>> m.update([1, 10, 100], [1, 2, 3])
        >>> m.compute()
        tensor(1., dtype=torch.float64)
    """

    def update(self, prediction: Any, y: Any) -> None:
        """Add rows: ``[N]`` each; tensors, arrays or lists."""
        self._append(prediction=prediction, y=y)

    def compute(self) -> Tensor:
        p, y = self._prediction_and_y()
        return self._scalar(scores.srcc(y, p))


class KendallTau(SRCC):
    """Kendall's rank correlation, `ordkernels.scores.kendall_tau`. States and update as `SRCC`.

    Args:
        variant: ``"a"``, ``"b"`` or ``"c"``, as `ordkernels.scores.kendall_tau`.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.kendall_tau`.

    Example:
        >>> m = KendallTau()
        >>> m.update([1, 2, 3, 3], [1, 2, 2, 3])
        >>> m.compute()
        tensor(0.8000, dtype=torch.float64)
    """

    def __init__(self, variant: Literal["a", "b", "c"] = "b", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant: Literal["a", "b", "c"] = one_of("variant", variant, ("a", "b", "c"))

    def compute(self) -> Tensor:
        p, y = self._prediction_and_y()
        return self._scalar(scores.kendall_tau(y, p, variant=self.variant))


class NormalizedGini(SRCC):
    """Normalized Gini coefficient, `ordkernels.scores.normalized_gini`. States and update as `SRCC`.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.normalized_gini`.

    Example:
        >>> m = NormalizedGini()
        >>> m.update([1, 2, 4, 3], [0, 0, 10, 30])
        >>> m.compute()
        tensor(0.6000, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        p, y = self._prediction_and_y()
        return self._scalar(scores.normalized_gini(y, p))


class AUC(SRCC):
    """Area under the ROC curve, `ordkernels.scores.auc`: y is 0 or 1. States and update as `SRCC`.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.auc`.

    Example:
        >>> m = AUC()
        >>> m.update([0.2, 0.1, 0.9], [0, 1, 1])
        >>> m.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        p, y = self._prediction_and_y()
        return self._scalar(scores.auc(y, p))


class RelaImpr(AUC):
    """RelaImpr over a base model's AUC, `ordkernels.scores.relaimpr`, as a fraction. States and update as `AUC`.

    Args:
        base: the AUC to compare with, other than 0.5.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.auc` and `ordkernels.scores.relaimpr`.

    Example:
        >>> m = RelaImpr(base=0.75)
        >>> m.update([0.1, 0.2], [0, 1])
        >>> m.compute()
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, base: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.base = number("base", base)
        scores.relaimpr(self.base, self.base)  # raises for 0.5 here rather than after an epoch

    def compute(self) -> Tensor:
        return self._scalar(scores.relaimpr(float(super().compute()), self.base))


def _packed(grid: GridXAUC) -> NDArray[np.int64]:
    return np.concatenate((grid._range.reshape(-1), grid._joint.reshape(-1)))


def _unpacked(state: Tensor) -> GridXAUC:
    """An accumulator that counts into `state`."""
    flat = state.numpy()
    grid = GridXAUC(round((len(flat) - 6) ** 0.5))
    grid._range, grid._joint = flat[:6].reshape(2, 3).copy(), flat[6:].reshape(grid.bins, grid.bins)
    return grid


def _merge_grids(states: Tensor) -> Tensor:
    total = _unpacked(states[0].cpu().clone())
    for state in states[1:]:
        total.merge(_unpacked(state.cpu()))
    return torch.as_tensor(_packed(total), device=states.device)
