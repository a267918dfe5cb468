"""Metrics of point predictions: MAE, RMSE, CS, LCC."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._validation.numbers import real
from ..scores.streaming import Errors, theta_key
from ._base import AccumulatorMetric, ScoreMetric

__all__ = ["LCC", "MAE", "RMSE", "CumulativeScore"]


class _ErrorMetric(AccumulatorMetric):
    def update(self, prediction: Any, y: Any) -> None:
        """Add rows: ``[N]`` each, finite; tensors, arrays or lists."""
        self._accumulate(y, prediction)


class MAE(_ErrorMetric):
    """Mean absolute error, `ordkernels.scores.mae`, of all rows seen. ``update(prediction [N], y [N])``; ``compute()``: a scalar.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.mae`.

    Example:
        >>> import torch
        >>> m = MAE()
        >>> m.update(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0]))
        >>> m.compute()
        tensor(2., dtype=torch.float64)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Errors, {"_n": "count", "_sums": "sums"}, **kwargs)

    def compute(self) -> Tensor:
        return self._scalar(self._accumulator().result()["mae"])


class RMSE(MAE):
    """Root mean squared error, `ordkernels.scores.rmse`. Arguments and states as `MAE`, with which it shares them.

    Example:
        >>> m = RMSE()
        >>> m.update([2.0, 11.0], [1.0, 4.0])
        >>> m.compute()
        tensor(5., dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        return self._scalar(self._accumulator().result()["rmse"])


class CumulativeScore(_ErrorMetric):
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
        self._theta = real("theta", theta, least=0, finite=False)
        super().__init__(partial(Errors, (self._theta,)), {"_n": "count", "_within": "within"}, self._theta, **kwargs)

    def compute(self) -> Tensor:
        return self._scalar(self._accumulator().result()[theta_key(self._theta)])


class LCC(ScoreMetric):
    """Pearson's correlation, `ordkernels.scores.lcc`, from moments that merge without cancellation; NaN where a side is constant.

    Args:
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: as `ordkernels.scores.lcc`.

    Example:
        >>> m = LCC()
        >>> m.update([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
        >>> round(float(m.compute()), 12)
        1.0
    """

    higher_is_better = True
    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # means only merge together with counts: one state, n | 9 moments
        self.add_state("moments", torch.zeros(10, dtype=torch.float64), dist_reduce_fx=_merge_moments)

    def update(self, prediction: Any, y: Any) -> None:
        """Add rows: ``[N]`` each, finite; tensors, arrays or lists."""
        self.moments = _packed(_unpacked(self.moments).update(y, prediction), self.device)

    def compute(self) -> Tensor:
        return self._scalar(_unpacked(self.moments).result()["lcc"])


def _unpacked(state: Tensor) -> Errors:
    errors, values = Errors(), state.cpu().numpy()
    return errors.load_state({**errors.state(), "_n": values[0], "_moments": values[1:]})


def _packed(errors: Errors, device: Any) -> Tensor:
    state = errors.state()
    return torch.tensor([float(state["_n"]), *state["_moments"].tolist()], dtype=torch.float64, device=device)


def _merge_moments(states: Tensor) -> Tensor:
    total = Errors()
    for state in states:
        total.merge(_unpacked(state))
    return _packed(total, states.device)
