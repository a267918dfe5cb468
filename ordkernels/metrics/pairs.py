"""Metrics of the order of rows: XAUC (exact, grouped, binned), AUC and RelaImpr, SRCC."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import scores
from ..scores_grid import GridXAUC
from ._base import Rows, scalar

__all__ = ["AUC", "SRCC", "XAUC", "BoundedXAUC", "RelaImpr"]


class BoundedXAUC(NamedTuple):
    """The exact XAUC of all rows is within `bound` of `value`."""

    value: Tensor
    bound: Tensor


class XAUC(Rows):
    """The share of pairs that the prediction orders as y does, `ordkernels.scores.xauc`, of all rows of all processes.

    ``update(prediction [N], y [N], weight [N] = None, group [N] = None)``, weights or groups in every update or in none.
    ``compute()``: a scalar; binned: ``BoundedXAUC(value, bound)``.

    Args:
        mode: ``"exact"`` keeps the rows (and gathers them: 8 to 16 bytes a row, and the workspace of `ordkernels.scores.xauc`);
            ``"binned"`` a joint histogram that merges by addition, `ordkernels.scores_grid.GridXAUC`: value and guaranteed bound
            do not depend on batches or processes.
        ties, average: as `ordkernels.scores.xauc`, exact only. ``ties="reference"`` depends on the order of rows, and so of
            processes.
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
        ties: Literal["half", "strict", "reference"] = "half",
        average: Literal["group", "pair"] = "group",
        bins: int = 4096,
        **kwargs: Any,
    ) -> None:
        if mode not in ("exact", "binned"):
            raise ValueError(f"mode: expected 'exact' or 'binned', got {mode!r}")
        if ties not in ("half", "strict", "reference"):
            raise ValueError(f"ties: expected 'half', 'strict' or 'reference', got {ties!r}")
        if average not in ("group", "pair"):
            raise ValueError(f"average: expected 'group' or 'pair', got {average!r}")
        if mode == "binned" and ties != "half":
            raise ValueError(f"ties: expected 'half' with mode='binned', got {ties!r}")
        self.mode, self.ties, self.average, self.bins = mode, ties, average, bins
        if mode == "binned":
            self._columns = ()
        super().__init__(**kwargs)
        if mode == "binned":
            # ranges and counts only merge together: one state
            self.add_state("grid", torch.as_tensor(_flat(GridXAUC(bins))), dist_reduce_fx=_merge_grids)

    def update(self, prediction: Any, y: Any, weight: Any = None, group: Any = None) -> None:
        """Add rows: ``[N]`` each; tensors, arrays or lists."""
        if self.mode == "binned":
            for name, x in (("weight", weight), ("group", group)):
                if x is not None:
                    raise ValueError(f"{name}: expected None with mode='binned', got {type(x).__name__}")
            state = self.grid.cpu()
            it = _grid(state)
            own = it._joint
            it.update(y, prediction)  # in place, unless the grid widened
            if it._joint is own:
                state[:6] = torch.as_tensor(it._range.reshape(-1))
            else:
                state = torch.as_tensor(_flat(it))
            self.grid = state.to(self.device)
            return
        given: dict[str, Any] = {"prediction": prediction, "y": y}
        for name, x in (("weight", weight), ("group", group)):
            if self.y_rows and (x is None) != (not getattr(self, f"{name}_rows")):
                raise ValueError(f"{name}: expected {'an array' if x is None else 'None'}, as in earlier updates, got {type(x).__name__}")
            if x is not None:
                given[name] = x
        if group is not None:
            kind = group.dtype if isinstance(group, Tensor) else np.asarray(group).dtype
            if str(kind).removeprefix("torch.").rstrip("0123456789") not in ("int", "uint"):
                raise TypeError(f"group: expected integers, got {kind}")
        self._keep(**given)

    def compute(self) -> Any:
        if self.mode == "binned":
            binned = _grid(self.grid.cpu()).result()
            return BoundedXAUC(scalar(binned.value, self.device), scalar(binned.bound, self.device))
        p, y = _both(self)
        found = scores.xauc(
            y, p, ties=self.ties, average=self.average, weight=self._rows("weight"), group=self._rows("group")  # type: ignore[arg-type]
        )  # fmt: skip
        return scalar(found.value, self.device)


class SRCC(Rows):
    """Spearman's rank correlation, `ordkernels.scores.srcc`. ``update(prediction [N], y [N])``; keeps the rows, as exact `XAUC`.

    Example:
        >>> m = SRCC()
        >>> m.update([1, 10, 100], [1, 2, 3])
        >>> m.compute()
        tensor(1., dtype=torch.float64)
    """

    def update(self, prediction: Any, y: Any) -> None:
        """Add rows: ``[N]`` each; tensors, arrays or lists."""
        self._keep(prediction=prediction, y=y)

    def compute(self) -> Tensor:
        p, y = _both(self)
        return scalar(scores.srcc(y, p), self.device)


class AUC(SRCC):
    """Area under the ROC curve, `ordkernels.scores.auc`: y is 0 or 1. States and update as `SRCC`.

    Example:
        >>> m = AUC()
        >>> m.update([0.2, 0.1, 0.9], [0, 1, 1])
        >>> m.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        p, y = _both(self)
        return scalar(scores.auc(y, p), self.device)


class RelaImpr(AUC):
    """RelaImpr over a base model's AUC, `ordkernels.scores.relaimpr`, as a fraction. States and update as `AUC`.

    Args:
        base: the AUC to compare with, other than 0.5.

    Example:
        >>> m = RelaImpr(base=0.75)
        >>> m.update([0.1, 0.2], [0, 1])
        >>> m.compute()
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, base: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        scores.relaimpr(base, base)  # refuses 0.5 here rather than after an epoch
        self.base = float(base)

    def compute(self) -> Tensor:
        return scalar(scores.relaimpr(float(super().compute()), self.base), self.device)


def _both(metric: Rows) -> list[Tensor]:
    found = [metric._rows(name) for name in ("prediction", "y")]
    return [torch.empty(0) if t is None else t for t in found]


def _flat(it: GridXAUC) -> np.ndarray[Any, Any]:
    return np.concatenate((it._range.reshape(-1), it._joint.reshape(-1)))


def _grid(state: Tensor) -> GridXAUC:
    """An accumulator that counts into `state`."""
    flat = state.numpy()
    it = GridXAUC(round((len(flat) - 6) ** 0.5))
    it._range, it._joint = flat[:6].reshape(2, 3).copy(), flat[6:].reshape(it.bins, it.bins)
    return it


def _merge_grids(states: Tensor) -> Tensor:
    total = _grid(states[0].cpu().clone())
    for state in states[1:]:
        total.merge(_grid(state.cpu()))
    return torch.as_tensor(_flat(total), device=states.device)
