"""What is predicted of a row, wherever rows are scored: the point prediction, quantiles, samples, as named columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .predictor import quantiles_of_draws

__all__ = ["LEVELS", "Outputs", "load"]

LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Outputs:
    """Columns of predictions: ``prediction`` (the median of the draws), ``q0.1``, ..., ``sample_0``, ...

    Args:
        levels: of the quantiles.
        samples: how many draws are columns themselves.
        draws: that the median and the quantiles are taken of.
        is_double: columns of a model in double precision; else they are float32.
    """

    levels: tuple[float, ...]
    samples: int
    draws: int
    is_double: bool

    @classmethod
    def of(cls, module: Any, levels: Sequence[float] | None, samples: int, draws: int) -> Outputs:
        """The columns that a model can fill.

        Args:
            levels: None: `LEVELS` of a model that draws, else none.

        Raises:
            ValueError: quantiles or samples of a model that makes no draws.
        """
        is_double = any(p.dtype == torch.float64 for p in module.parameters())
        if hasattr(module, "sample"):
            return cls(LEVELS if levels is None else tuple(levels), samples, draws, is_double)
        if levels or samples:
            what = "quantiles" if levels else "samples"
            raise ValueError(f"{what}: expected none, {type(module).__name__} predicts one number a row")
        return cls((), 0, 0, is_double)

    @property
    def names(self) -> list[str]:
        return ["prediction", *(f"q{level:g}" for level in self.levels), *(f"sample_{k}" for k in range(self.samples))]

    def arguments(self, seed: int) -> dict[str, Any]:
        """Of a call of a `Predictor`, whose result `columns` takes."""
        return {"statistic": self._of_draws, "n": max(self.draws, self.samples), "seed": seed} if self.draws else {}

    def columns(self, predicted: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """By name, ``[B]`` each."""
        dtype = np.float64 if self.is_double else np.float32
        return {name: values.astype(dtype) for name, values in zip(self.names, predicted.reshape(len(predicted), -1).T, strict=True)}

    def _of_draws(self, draws: Tensor) -> Tensor:
        """``[B, 1 + Q + S]``: the median and quantiles, as `PredictedDistribution.ppf` has them, and the first draws as they are."""
        levels = quantiles_of_draws(draws[:, : self.draws].double().cpu().numpy(), (0.5, *self.levels))
        return torch.cat((torch.from_numpy(levels).to(draws), draws[:, : self.samples]), dim=1)


def load(folder: Path) -> tuple[Any, bool]:
    """What ``save_pretrained`` has written into a folder, and whether it is an estimator."""
    from ..models._base import SavedModel
    from ..models._pretrained import kind

    if kind(folder) == "model":
        return SavedModel.from_pretrained(folder), False
    from ..estimators import TableRegressor

    return TableRegressor.from_pretrained(folder), True
