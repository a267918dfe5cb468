"""Metrics of point predictions: MAE, RMSE, CS, LCC."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..scores_stream import Errors
from ._base import Streamed, scalar

__all__ = ["LCC", "MAE", "RMSE", "CumulativeScore"]


class _Point(Streamed):
    def update(self, prediction: Any, y: Any) -> None:
        """Add rows: ``[N]`` each, finite; tensors, arrays or lists."""
        self._take(y, prediction)

    def _result(self) -> dict[str, float]:
        return self._accumulator().result()  # type: ignore[attr-defined]


class MAE(_Point):
    """Mean absolute error, `ordkernels.scores.mae`, of all rows seen. ``update(prediction [N], y [N])``; ``compute()``: a scalar.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.mae`.

    Example:
        >>> m = MAE()
        >>> m.update(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0]))
        >>> m.compute()
        tensor(2., dtype=torch.float64)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Errors, {"_n": "count", "_sums": "sums"}, **kwargs)

    def compute(self) -> Tensor:
        return scalar(self._result()["mae"], self.device)


class RMSE(MAE):
    """Root mean squared error, `ordkernels.scores.rmse`. Args, Raises: as `MAE`, with which it shares its states."""

    def compute(self) -> Tensor:
        return scalar(self._result()["rmse"], self.device)


class CumulativeScore(_Point):
    """CS@theta, `ordkernels.scores.cumulative_score`: the share of rows with ``|y - prediction| <= theta``.

    Args:
        theta: at least 0, in the unit of y.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.cumulative_score`.

    Example:
        >>> m = CumulativeScore(5)
        >>> m.update([22, 36, 40, 41], [20, 30, 40, 40])
        >>> m.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, theta: float, **kwargs: Any) -> None:
        self._theta = float(theta)
        super().__init__(partial(Errors, (self._theta,)), {"_n": "count", "_within": "within"}, theta, **kwargs)

    def compute(self) -> Tensor:
        return scalar(self._result()[f"cs@{self._theta:g}"], self.device)


class LCC(Metric):
    """Pearson's correlation, `ordkernels.scores.lcc`, from moments that merge without cancellation; NaN where a side is constant.

    Args, Raises: as `MAE`.

    Example:
        >>> m = LCC()
        >>> m.update([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
        >>> round(float(m.compute()), 12)
        1.0
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # means only merge together with counts: one state, n | 5 moments
        self.add_state("moments", torch.zeros(6, dtype=torch.float64), dist_reduce_fx=_merge_moments)

    def update(self, prediction: Any, y: Any) -> None:
        """Add rows: ``[N]`` each, finite; tensors, arrays or lists."""
        self.moments = _packed(_unpacked(self.moments).update(y, prediction), self.device)

    def compute(self) -> Tensor:
        return scalar(_unpacked(self.moments).result()["lcc"], self.device)


def _unpacked(state: Tensor) -> Errors:
    it, values = Errors(), state.cpu().numpy()
    return it.load_state({**it.state(), "_n": values[0], "_moments": values[1:]})


def _packed(it: Errors, device: Any) -> Tensor:
    state = it.state()
    return torch.tensor([float(state["_n"]), *state["_moments"].tolist()], dtype=torch.float64, device=device)


def _merge_moments(states: Tensor) -> Tensor:
    total = Errors()
    for state in states:
        total.merge(_unpacked(state))
    return _packed(total, states.device)
