"""The demo's plots. matplotlib is imported here alone, and only when they are drawn."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .evaluation import Split, quantile_of_sorted
from .speed import Speed

__all__ = ["calibration", "distributions", "speed_bars"]

TRUE, OURS, PLAIN = "#8a8f98", "#1f6fb4", "#c9cdd3"
EDGES = (0, 1, 3, 6, 10, 20, 40, 80, 160)  # seconds; the last bin is open


def _figure(columns: int, title: str, width: float = 4.2, height: float = 3.6) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=12)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def three_users(test: Split) -> list[int]:
    """Of the users with many plays, those of low, middle and high watch time: the same for the same test split."""
    users, counts = np.unique(test["user"].numpy(), return_counts=True)
    many = users[counts >= max(1, np.sort(counts)[-min(60, len(counts))])]
    order = sorted(many.tolist(), key=lambda u: (float(test["y"][test["user"] == u].median()), u))
    return [order[(len(order) - 1) * part // 10] for part in (1, 5, 9)]


def distributions(path: Path, test: Split, draws: Tensor) -> None:
    """For three users: the share of their plays in each range of watch time, and the share that the draws put there."""
    figure, axes = _figure(3, "Watch time of three users in the test week: what happened, and what FlowTime predicted")
    labels = [f"{a}-{b}" for a, b in pairwise(EDGES)] + [f"{EDGES[-1]}+"]
    x = np.arange(len(EDGES))
    tallest = 0.0
    for axis, user in zip(axes, three_users(test), strict=True):
        rows = test["user"] == user
        y = test["y"][rows].numpy()
        true, predicted = (np.bincount(np.searchsorted(EDGES[1:], v, side="right"), minlength=len(EDGES)) / v.size
                           for v in (y, draws[rows].numpy().ravel()))  # fmt: skip
        axis.bar(x - 0.2, true, 0.4, color=TRUE, label="true")
        axis.bar(x + 0.2, predicted, 0.4, color=OURS, label="predicted")
        axis.set_title(f"user {int(test['user_id'][rows][0])}: {len(y)} plays, median {np.median(y):.1f} s", fontsize=10)
        axis.set_xticks(x, labels, rotation=45, fontsize=8)
        axis.set_xlabel("watch time, seconds")
        tallest = max(tallest, true.max(), predicted.max())
    for axis in axes:
        axis.set_ylim(0, tallest * 1.08)
    axes[0].set_ylabel("share of plays")
    axes[0].legend(frameon=False)
    _save(figure, path)


def calibration(path: Path, y: Tensor, draws: Tensor) -> None:
    """How often the central intervals hold the truth, and where the truth falls among the draws."""
    figure, (left, right) = _figure(2, "Calibration of FlowTime's predictive distribution on the test week", width=4.6)
    levels = np.linspace(0.1, 0.9, 9)
    held = [float(((quantile_of_sorted(draws, 0.5 - p / 2) <= y) & (y <= quantile_of_sorted(draws, 0.5 + p / 2))).float().mean())
            for p in levels]  # fmt: skip
    left.plot([0, 1], [0, 1], color=PLAIN, linewidth=1.5, label="perfectly calibrated")
    left.plot(levels, held, color=OURS, marker="o", markersize=4, label="FlowTime")
    left.set(xlabel="central interval of the prediction", ylabel="share of plays inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(frameon=False, loc="upper left")

    edges = np.linspace(0, 1, 21)
    right.bar(edges[:-1], np.diff(_mass_below(edges, y, draws)) * 20, 0.05, align="edge", color=OURS, edgecolor="white", linewidth=0.5)
    right.axhline(1, color=TRUE, linewidth=1.5, label="perfectly calibrated")
    right.set(xlabel="where the true watch time falls in the prediction", ylabel="density", xlim=(0, 1))
    right.set_ylim(0, right.get_ylim()[1] * 1.15)
    right.legend(frameon=False, loc="upper left")
    _save(figure, path)


def _mass_below(edges: np.ndarray, y: Tensor, draws: Tensor) -> np.ndarray:
    """Share of rows below each edge of the probability scale; the truth lies anywhere between the draws around it."""
    n = draws.shape[1]
    low = ((draws < y[:, None]).sum(1) / (n + 1)).numpy()
    high = (((draws <= y[:, None]).sum(1) + 1) / (n + 1)).numpy()
    return np.array([np.clip((e - low) / (high - low), 0, 1).mean() for e in edges])


def speed_bars(path: Path, speed: list[Speed]) -> None:
    """Milliseconds per 1,000 rows."""
    figure, axes = _figure(len(speed), "Time per 1,000 rows: plain torch (reference backend) and ordkernels", height=2.6)
    for axis, s in zip(axes, speed, strict=True):
        bars = axis.barh(["ordkernels", "reference"], [s.ours_ms, s.reference_ms], color=[OURS, PLAIN], height=0.6)
        axis.bar_label(bars, [f" {v:,.0f} ms" if v >= 100 else f" {v:.3g} ms" for v in (s.ours_ms, s.reference_ms)], fontsize=9)
        axis.set_title(f"{s.name}\n{s.ratio:.2f}x", fontsize=9)
        axis.set_xlim(0, max(s.ours_ms, s.reference_ms) * 1.3)
        axis.set_xlabel("milliseconds")
    _save(figure, path)
