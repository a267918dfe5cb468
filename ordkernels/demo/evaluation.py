"""Every score of one model on the test split, and the numbers that its plots need."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops

__all__ = [
    "CLICKS_EVERY",
    "EDGES",
    "LEVELS",
    "Scores",
    "Split",
    "by_interval",
    "calibration",
    "click_auc",
    "evaluate",
    "inputs",
    "shares_of_users",
    "three_users",
]

Split = dict[str, Tensor]
ROWS = 8192  # scored at once
CLICKS_EVERY = 4  # test rows whose clicks are scored
EDGES = (0, 1, 3, 6, 10, 20, 40, 80, 160)  # seconds; the last bin is open
LEVELS = tuple(i / 10 for i in range(1, 10))  # of central intervals
PIT_EDGES = np.linspace(0, 1, 21)


@dataclass
class Scores:
    numbers: dict[str, float | None]
    draws: Tensor | None  # [N, n], sorted in each row
    seconds: float  # of predicting or drawing
    intervals: dict[str, Any]  # MAE by range of y


def inputs(rows: Split) -> Split:
    return {name: v for name, v in rows.items() if name not in ("y", "click")}


def evaluate(
    train: Split, test: Split, *, predict: Callable[[Split], Tensor] | None = None, draw: Callable[[Split], Tensor] | None = None
) -> Scores:
    """Score a model that predicts or draws.

    Args:
        train: Training rows; their labels set the edges of the intervals and bins.
        test: The rows to score.
        predict: Inputs to a prediction ``[B]``; None: the median of the draws.
        draw: Rows to draws ``[B, n]``.

    Raises:
        ValueError: Predictions or draws have the wrong shape, or are not finite; names the first such row.
    """
    y = test["y"]
    began = time.perf_counter()
    point = single = independent = draws = None
    if predict is not None:
        point = torch.cat([_checked(predict(inputs(rows)), rows, "prediction") for rows in _batches(test)])
    if draw is not None:
        draws = torch.cat([_checked(draw(rows), rows, "draws") for rows in _batches(test)])  # [N, n]
        single, independent = draws[:, 0], draws[:, ::2]  # one of each antithetic pair: a fair CRPS needs independent draws
        draws = draws.sort(dim=1).values
        n = draws.shape[1]
        point = (draws[:, (n - 1) // 2] + draws[:, n // 2]) / 2 if point is None else point
    assert point is not None
    seconds = time.perf_counter() - began
    numbers: dict[str, float | None] = {"mae": ops.mae(y, point), "xauc": ops.xauc(y, point).value}
    parts = by_interval(train["y"], y, point)
    if "user" in test:
        edges = bins(train["y"])
        for side in ("user", "item"):
            numbers[f"pdf_{side}"] = ops.histogram_jsd(y, point, test[side], edges=edges, base=2)
            numbers[f"pdf_{side}_draw"] = None if single is None else ops.histogram_jsd(y, single, test[side], edges=edges, base=2)
    if "duration" in test:
        numbers |= ratio_scores(train, test, point)
    if draws is None or independent is None:
        return Scores(numbers | {"crps": numbers["mae"], "interval80": None}, None, seconds, parts)  # a point's CRPS is its absolute error
    crps = torch.cat([ops.crps(independent[i : i + ROWS], y[i : i + ROWS], fair=True) for i in range(0, len(y), ROWS)])
    low, high = quantile_of_sorted(draws, 0.1), quantile_of_sorted(draws, 0.9)
    return Scores(numbers | {"crps": float(crps.double().mean()), "interval80": ops.coverage(low, high, y)[0]}, draws, seconds, parts)


def ratio_scores(train: Split, test: Split, point: Tensor) -> dict[str, float | None]:
    """Scores of the same prediction as a watch ratio, ``y / duration``, the field's second target, on rows of known duration."""
    seen, known = train["duration"] > 0, test["duration"] > 0
    if not seen.any() or not known.any():
        return {}
    duration = test["duration"][known]
    y, p = test["y"][known] / duration, point[known] / duration
    numbers: dict[str, float | None] = {"ratio_mae": ops.mae(y, p), "ratio_xauc": ops.xauc(y, p).value}
    edges = bins(train["y"][seen] / train["duration"][seen])
    for side in ("user", "item"):
        numbers[f"ratio_pdf_{side}"] = ops.histogram_jsd(y, p, test[side][known], edges=edges, base=2)
    return numbers


def by_interval(seen: Tensor, y: Tensor, point: Tensor) -> dict[str, Any]:
    """MAE in each tenth of the training labels (fewer where they tie); the first and the last are open. None: no rows."""
    edges = np.unique(np.quantile(seen.double().numpy(), np.linspace(0, 1, 11)))
    if len(edges) < 2:
        edges = np.append(edges, edges[-1] + 1)
    found = ops.mae_by_interval(y, point, edges)
    mae = [None if np.isnan(v) else v for v in found.mae.tolist()]
    return {"edges": edges.tolist(), "mae": mae, "rows": found.rows.tolist()}


def click_auc(test: Split, predict: Callable[[Split], Tensor]) -> float:
    """AUC of the predicted probability of a click, on every fourth test row."""
    test = {name: v[::CLICKS_EVERY] for name, v in test.items()}
    p = torch.cat([_checked(predict(inputs(rows)), rows, "click prediction") for rows in _batches(test)])
    return ops.auc(test["click"], p)


def _checked(out: Tensor, rows: Split, what: str) -> Tensor:
    if len(out) != len(rows["y"]) or out.dim() != (2 if what == "draws" else 1):
        raise ValueError(f"{what}: expected [B{', n' * (what == 'draws')}] with B = {len(rows['y'])}, got {list(out.shape)}")
    bad = torch.nonzero(~out.isfinite().reshape(len(out), -1).all(dim=1)).flatten()
    if len(bad):
        raise ValueError(
            f"{what}: expected finite values, got others in {len(bad)} of {len(out)} rows, first in row {int(rows['row'][bad[0]])}"
        )
    return out


def bins(y: Tensor) -> np.ndarray:
    """Edges of 50 bins of equal mass on the training labels, duplicates merged."""
    return np.unique(np.quantile(y.double().numpy(), np.linspace(0, 1, 51)))


def quantile_of_sorted(draws: Tensor, level: float) -> Tensor:
    at = level * (draws.shape[1] - 1)
    low = int(at)
    return torch.lerp(draws[:, low], draws[:, min(low + 1, draws.shape[1] - 1)], at - low)


def calibration(y: Tensor, draws: Tensor) -> dict[str, list[float]]:
    """How well the draws are calibrated.

    Returns:
        ``coverage``: the share of rows inside the central interval of each of ``LEVELS``. ``pit_density``: the density, in 20 equal
        bins, of the rank of the true value among the sorted draws, from 0 to 1; 1 everywhere if calibrated.
    """
    coverage = [float(((quantile_of_sorted(draws, 0.5 - p / 2) <= y) & (y <= quantile_of_sorted(draws, 0.5 + p / 2))).float().mean())
            for p in LEVELS]  # fmt: skip
    return {"coverage": coverage, "pit_density": (np.diff(mass_below(PIT_EDGES, y, draws)) * (len(PIT_EDGES) - 1)).tolist()}


def mass_below(edges: np.ndarray, y: Tensor, draws: Tensor) -> np.ndarray:
    """Share of rows whose rank (from 0 to 1) is below each edge; the true value lies anywhere between the draws around it."""
    n = draws.shape[1]
    low = ((draws < y[:, None]).sum(1) / (n + 1)).numpy()
    high = (((draws <= y[:, None]).sum(1) + 1) / (n + 1)).numpy()
    return np.array([np.clip((e - low) / (high - low), 0, 1).mean() for e in edges])


def three_users(test: Split) -> list[int]:
    """Three users with many plays, of low, middle and high watch time; the same for the same test split."""
    users, counts = np.unique(test["user"].numpy(), return_counts=True)
    many = users[counts >= max(1, np.sort(counts)[-min(60, len(counts))])]
    order = sorted(many.tolist(), key=lambda u: (float(test["y"][test["user"] == u].median()), u))
    return [order[(len(order) - 1) * part // 10] for part in (1, 5, 9)]


def shares_of_users(test: Split, draws: Tensor) -> list[dict[str, Any]]:
    """For three users: the shares of their plays, and of their draws, in each range of ``EDGES``."""
    out = []
    for user in three_users(test):
        rows = test["user"] == user
        y = test["y"][rows].numpy()
        true, drawn = ((np.bincount(np.searchsorted(EDGES[1:], v, side="right"), minlength=len(EDGES)) / v.size).tolist()
                       for v in (y, draws[rows].numpy().ravel()))  # fmt: skip
        name = int(test["user_id"][rows][0]) if "user_id" in test else user
        out.append({"user": name, "plays": len(y), "median": float(np.median(y)), "true": true, "drawn": drawn})
    return out


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
