"""The demo: every model trained and scored on the same real data, then timed with and without the kernels."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import _info
from . import plots
from .models import Entry, entries
from .report import click_table, interval_table, speed_table, table
from .results import Result, fingerprint, make, settings
from .tasks import Task, load

__all__ = ["run"]


def run(
    data: str | Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    quick: bool = False,
    models: Sequence[str] | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Train, score and time the models; print tables, write ``report.json``, a file per model and plots to ``out``.

    The same seed gives the same scores. A failure is a line in the table and does not stop the rest. A finished model is saved at
    once, under a key of all that its numbers depend on (seed, budget, data, code, threads), and reused by the next run.

    Args:
        data: ``"kuairand"`` (None), ``"cdnow"``, a name of ``data.ordinal``, or a folder with KuaiRand-Pure.
        out: The folder to write to; None: ``demo_report``, or ``demo_report/NAME`` for a data set other than KuaiRand.
        seed: Seeds the split, training and sampling.
        quick: Fewer rows and epochs.
        models: Keys of the models to run; None: all.
        fresh: Train saved models again.

    Returns:
        What ``report.json`` holds: the data, and a result per model.

    Raises:
        FileNotFoundError: There is no such data.
        ValueError: The data has no model of that key.
    """
    began = time.perf_counter()
    task = load(data, seed, quick)
    chosen = _chosen(entries(task), models)
    out = out or (Path("demo_report") if task.grouped else Path("demo_report") / task.name)
    data_hash, code_hash = fingerprint(task)
    say(_about(task))
    say(f"\nTraining and scoring, {torch.get_num_threads()} threads; finished models are saved in {out / 'models'}/")
    results: dict[str, Result] = {}
    for entry in chosen:
        results[entry.key] = make(entry, task, out / "models", settings(entry, task, data_hash, code_hash), fresh)
        say(f"  [{len(results)}/{len(chosen)}] {entry.name:<28}{_outcome(results[entry.key])}")

    rows = list(results.values())
    say("\n" + table(rows, task))
    clicks = click_table(results)
    if clicks:
        say("\nClicks, from the same trained models")
        say(clicks)
    say(f"\nMAE by {'watch time' if task.grouped else 'label'}, in tenths of the training rows"
        + ("; the same predictions as watch ratios, of the duration" if "duration" in task.test else ""))  # fmt: skip
    say(interval_table(rows, task))
    say("\nSpeed: milliseconds per 1,000 rows, plain torch (the reference backend) against this package's kernels, alternating")
    say(speed_table(rows))
    report = {
        "data": task.name,
        "seed": seed,
        "quick": quick,
        "rows": {"train": len(task.train["y"]), "test": len(task.test["y"])},
        "models": results,
        "about": {"cpu": _info.cpu_name(), "isa": _info.isa_in_use(), "threads": torch.get_num_threads(), "versions": _info.versions()},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    plotted = _plots(out, rows)
    say(f"\nWritten to {out}/: {', '.join(['report.json', *plotted])}. {time.perf_counter() - began:.0f} s in all.")
    return report


def say(text: str) -> None:
    print(text, flush=True)


def _chosen(known: list[Entry], keys: Sequence[str] | None) -> list[Entry]:
    if keys is None:
        return known
    for key in keys:
        if key not in (names := [entry.key for entry in known]):
            raise ValueError(f"models: expected some of {', '.join(names)}, got {key!r}")
    return [entry for entry in known if entry.key in keys]


def _about(task: Task) -> str:
    text = f"{task.title}: {len(task.train['y']):,} training rows, {len(task.test['y']):,} test rows"
    if task.grouped:
        text += f"{' (every eighth)' if task.quick else ''}, {task.n_users:,} users, {task.n_items:,} videos"
    return f"{text}. Median {float(task.test['y'].median()):.1f}{' ' * bool(task.unit)}{task.unit}."


def _outcome(result: Result) -> str:
    if result["status"] != "done":
        return f"{result['status']}: {result['reason']}"
    text = f"MAE {result['scores']['mae']:.4g}, trained in {result['train_s']:.1f} s"
    return text + (" by an earlier run" if result.get("reused") else "")


def _plots(out: Path, results: list[Result]) -> list[str]:
    done = [r for r in results if r["status"] == "done"]
    kinds = {
        "distributions": (plots.distributions, [r for r in done if "users" in r]),
        "calibration": (plots.calibration, [r for r in done if "calibration" in r]),
        "latency": (plots.latency, done),
        "speed": (plots.speed_bars, [r for r in done if r.get("speed") and not isinstance(r["speed"], str)]),
    }
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        say("matplotlib is not installed: no plots (pip install matplotlib)")
        return []
    for name, (plot, rows) in kinds.items():
        if rows:
            plot(out / f"{name}.png", rows)
    return [f"{name}.png" for name, (_, rows) in kinds.items() if rows]
