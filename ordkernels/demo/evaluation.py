"""Every score of one model on the test split."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import ops

__all__ = ["Scores", "Split", "evaluate", "inputs"]

Split = dict[str, Tensor]
ROWS = 8192  # scored at once


@dataclass
class Scores:
    numbers: dict[str, float | None]
    draws: Tensor | None  # [N, n], sorted in each row, seconds


def inputs(rows: Split) -> Split:
    return {name: v for name, v in rows.items() if name != "y"}


def evaluate(
    train: Split, test: Split, *, predict: Callable[[Split], Tensor] | None = None, draw: Callable[[Split], Tensor] | None = None
) -> Scores:
    """Of a model that predicts a number ``[B]``, or of one that draws ``[B, n]``: then its prediction is the draws' median."""
    y, edges = test["y"], bins(train["y"])
    if draw is None:
        assert predict is not None
        point = torch.cat([predict(inputs(rows)) for rows in _batches(test)])
        one = free = None
    else:
        draws = torch.cat([draw(rows) for rows in _batches(test)])  # [N, n]
        one, free = draws[:, 0], draws[:, ::2]  # one of each mirrored pair: independent, as a fair CRPS needs them
        draws = draws.sort(dim=1).values
        n = draws.shape[1]
        point = (draws[:, (n - 1) // 2] + draws[:, n // 2]) / 2
    numbers: dict[str, float | None] = {"mae": ops.mae(y, point), "xauc": ops.xauc(y, point).value}
    for side in ("user", "item"):
        numbers[f"pdf_{side}"] = ops.histogram_jsd(y, point, test[side], edges=edges, base=2)
        numbers[f"pdf_{side}_draw"] = None if one is None else ops.histogram_jsd(y, one, test[side], edges=edges, base=2)
    if free is None:
        return Scores(numbers | {"crps": numbers["mae"], "interval80": None}, None)  # a point's CRPS is its absolute error
    crps = torch.cat([ops.crps(free[i : i + ROWS], y[i : i + ROWS], fair=True) for i in range(0, len(y), ROWS)])
    low, high = quantile_of_sorted(draws, 0.1), quantile_of_sorted(draws, 0.9)
    return Scores(numbers | {"crps": float(crps.double().mean()), "interval80": ops.coverage(low, high, y)[0]}, draws)


def bins(y: Tensor) -> np.ndarray:
    """Edges of 50 bins of equal mass on the training labels, duplicates merged."""
    return np.unique(np.quantile(y.double().numpy(), np.linspace(0, 1, 51)))


def quantile_of_sorted(draws: Tensor, level: float) -> Tensor:
    at = level * (draws.shape[1] - 1)
    low = int(at)
    return torch.lerp(draws[:, low], draws[:, min(low + 1, draws.shape[1] - 1)], at - low)


def _batches(rows: Split) -> Iterator[Split]:
    starts = range(0, len(rows["y"]), ROWS)
    if sys.stderr.isatty():
        try:
            from tqdm.auto import tqdm

            starts = tqdm(starts, unit="batch", leave=False)
        except ImportError:
            pass
    for i in starts:
        yield {name: v[i : i + ROWS] for name, v in rows.items()}
