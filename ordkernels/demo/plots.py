"""The demo's plots, from the saved results. matplotlib is imported only when a plot is drawn."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .evaluation import EDGES, LEVELS, PIT_EDGES
from .results import Result

__all__ = ["calibration", "distributions", "latency", "speed_bars"]

TRUE, PLAIN = "#8a8f98", "#c9cdd3"
COLOURS = ("#1f6fb4", "#d9722b", "#3a8f5c", "#8b5fb0", "#b8456a", "#5b6b1f")  # of the models, in the table's order


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


def distributions(path: Path, models: list[Result]) -> None:
    """For three users: the true and the predicted share of plays in each range of watch time."""
    figure, axes = _figure(3, "Watch time of three users in the test week: what happened, and what was predicted")
    labels = [f"{a}-{b}" for a, b in pairwise(EDGES)] + [f"{EDGES[-1]}+"]
    x = np.arange(len(EDGES))
    tallest = 0.0
    for i, axis in enumerate(axes):
        user = models[0]["users"][i]
        axis.bar(x, user["true"], 0.8, color=PLAIN, label="true")
        for model, colour in zip(models, COLOURS, strict=False):
            axis.plot(x, model["users"][i]["drawn"], color=colour, marker="o", markersize=4, linewidth=1.2, label=model["name"])
            tallest = max(tallest, *model["users"][i]["drawn"])
        axis.set_title(f"user {user['user']}: {user['plays']} plays, median {user['median']:.1f} s", fontsize=10)
        axis.set_xticks(x, labels, rotation=45, fontsize=8)
        axis.set_xlabel("watch time, seconds")
        tallest = max(tallest, *user["true"])
    for axis in axes:
        axis.set_ylim(0, tallest * 1.08)
    axes[0].set_ylabel("share of plays")
    axes[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def calibration(path: Path, models: list[Result]) -> None:
    """Coverage of the central intervals, and the density of the rank of the true value among the draws."""
    figure, (left, right) = _figure(2, "Calibration of the predictive distributions on the test rows", width=4.6)
    left.plot([0, 1], [0, 1], color=PLAIN, linewidth=1.5, label="perfectly calibrated")
    right.axhline(1, color=PLAIN, linewidth=1.5)
    for model, colour in zip(models, COLOURS, strict=False):
        left.plot(LEVELS, model["calibration"]["coverage"], color=colour, marker="o", markersize=4, label=model["name"])
        right.stairs(model["calibration"]["pit_density"], PIT_EDGES, color=colour, linewidth=1.5)
    left.set(xlabel="central interval of the prediction", ylabel="share of rows inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(frameon=False, loc="upper left", fontsize=8)
    right.set(xlabel="rank of the true value among the draws", ylabel="density", xlim=(0, 1))
    right.set_ylim(0, right.get_ylim()[1] * 1.05)
    _save(figure, path)


def latency(path: Path, models: list[Result]) -> None:
    """Error against scoring time; lower left is better."""
    figure, (axis,) = _figure(1, "Error and scoring time on the test rows", width=7, height=4.6)
    for model in models:
        x, y, draws = model["score_ms_per_1000_rows"], model["scores"]["mae"], model["scores"]["interval80"] is not None
        axis.scatter([x], [y], s=36, color=COLOURS[0] if draws else TRUE, marker="o" if draws else "s", zorder=3)
        axis.annotate(model["name"].split(",")[0], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axis.set_xscale("log")
    axis.margins(x=0.2, y=0.1)
    axis.grid(color=PLAIN, linewidth=0.5)
    axis.set(xlabel="milliseconds per 1,000 rows (blue: draws; grey: one number)", ylabel="MAE")
    _save(figure, path)


def speed_bars(path: Path, models: list[Result]) -> None:
    """Milliseconds per 1,000 rows, a panel for each timed task."""
    kinds = [s["what"] for s in models[0]["speed"]]
    figure, axes = _figure(
        len(kinds), "Time per 1,000 rows: plain torch (reference backend) and ordkernels", width=5, height=1.6 + 0.7 * len(models)
    )
    for axis, kind in zip(axes, kinds, strict=True):
        for place, (model, colour) in enumerate(zip(models, COLOURS, strict=False)):
            s = next(s for s in model["speed"] if s["what"] == kind)
            bars = axis.barh([place - 0.2, place + 0.2], [s["reference_ms"], s["ours_ms"]], 0.36, color=[PLAIN, colour])
            axis.bar_label(bars, [f" {v:,.0f} ms" if v >= 100 else f" {v:.3g} ms" for v in (s["reference_ms"], s["ours_ms"])], fontsize=8)
        axis.set_yticks(
            range(len(models)), [f"{m['name']}\n{next(s for s in m['speed'] if s['what'] == kind)['ratio']:.2f}x" for m in models]
        )
        axis.invert_yaxis()
        axis.set_title(f"{kind}: grey reference, coloured ordkernels", fontsize=9)
        axis.set_xlim(0, axis.get_xlim()[1] * 1.25)
        axis.set_xlabel("milliseconds")
    _save(figure, path)
