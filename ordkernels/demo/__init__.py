"""The demo: FlowTime and two baselines, trained and scored on real watch times, and the kernels' share in the time it takes."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from .. import _info
from ..data import kuairand, n_ids
from ..models import FlowTime, HistoricalMedian, ValueRegression, fit
from . import plots
from .evaluation import Scores, Split, evaluate, inputs
from .speed import Speed, measure

__all__ = ["run"]

Result = dict[str, Any]


def run(data: Path | None = None, out: Path = Path("demo_report"), seed: int = 0, quick: bool = False) -> Result:
    """Trains, scores, times, prints; writes ``report.json`` and the plots to ``out``. The same seed gives the same scores.

    Raises:
        FileNotFoundError: no data at ``data`` (default: the checkout's ``bench/data/kuairand_pure``).
    """
    began = time.perf_counter()
    epochs, draws, every = (2, 32, 4) if quick else (4, 64, 1)
    train, test = kuairand(data)
    sizes = (*n_ids(train, test), train["dense"].shape[1])
    test = {name: v[::every] for name, v in test.items()}
    say(f"KuaiRand-Pure: {len(train['y']):,} training rows, {len(test['y']):,} test rows{' (every fourth)' if quick else ''}, "
        f"{sizes[0]:,} users, {sizes[1]:,} videos. Median watch time {float(test['y'].median()):.1f} s.")  # fmt: skip

    say(f"\nTraining: {epochs} epochs each, {torch.get_num_threads()} threads")
    torch.manual_seed(seed)
    flowtime, took = FlowTime(*sizes), {}
    took["FlowTime"] = _train(flowtime, train, epochs, seed, "FlowTime")
    torch.manual_seed(seed)
    regression = ValueRegression(*sizes)
    took["value regression"] = _train(regression, train, epochs, seed, "value regression")
    median = HistoricalMedian("user")

    say("\nScoring the test split")
    scores = {
        "FlowTime": evaluate(train, test, draw=lambda rows: flowtime.sample(inputs(rows), draws, seed, row_ids=rows["row"])),
        "value regression": evaluate(train, test, predict=regression.predict),
        "user's historical median": evaluate(train, test, predict=median.predict),
    }
    say(table(scores))

    say("\nSpeed: milliseconds per 1,000 rows, plain torch (the reference backend) against this package's kernels, in turns")
    speed = measure(flowtime, train, test, seconds=3.0 if quick else 8.0)
    say(speed_table(speed))

    report = {
        "seed": seed,
        "quick": quick,
        "epochs": epochs,
        "draws": draws,
        "rows": {"train": len(train["y"]), "test": len(test["y"])},
        "scores": {name: s.numbers for name, s in scores.items()},
        "speed_ms_per_1000_rows": {s.name: {"reference": s.reference_ms, "ordkernels": s.ours_ms, "ratio": s.ratio} for s in speed},
        "train_seconds": took,
        "about": {"cpu": _info.cpu_name(), "isa": _info.isa_in_use(), "threads": torch.get_num_threads(), "versions": _info.versions()},
    }
    _write(out, report, scores["FlowTime"], test, speed)
    say(f"\nWritten to {out}/: {', '.join(sorted(p.name for p in out.iterdir()))}. {time.perf_counter() - began:.0f} s in all.")
    return report


def say(text: str) -> None:
    print(text, flush=True)


def _train(model: Any, train: Split, epochs: int, seed: int, name: str) -> float:
    began = time.perf_counter()
    history = fit(model, train, epochs=epochs, seed=seed, progress=sys.stderr.isatty())
    took = time.perf_counter() - began
    say(f"  {name:<26}loss {history[0]['loss']:.4f} -> {history[-1]['loss']:.4f}   {took:6.1f} s")
    return round(took, 2)


COLUMNS = (
    ("mae", "MAE, s", "{:.2f}"), ("xauc", "XAUC", "{:.4f}"), ("pdf_user", "PDF-U", "{:.3f}"), ("pdf_item", "PDF-I", "{:.3f}"),
    ("pdf_user_draw", "PDF-U, draw", "{:.3f}"), ("pdf_item_draw", "PDF-I, draw", "{:.3f}"), ("crps", "CRPS, s", "{:.2f}"),
    ("interval80", "80 % interval", "{:.1%}"),
)  # fmt: skip


def table(scores: dict[str, Scores]) -> str:
    """One line per model; lower is better, except XAUC (higher) and the 80 % interval (nearer to 80 %)."""
    lines = ["  " + f"{'':<26}" + "".join(f"{head:>15}" for _, head, _ in COLUMNS)]
    for name, s in scores.items():
        cells = (form.format(s.numbers[key]) if s.numbers.get(key) is not None else "-" for key, _, form in COLUMNS)
        lines.append(f"  {name:<26}" + "".join(f"{cell:>15}" for cell in cells))
    lines.append("  PDF: of the point prediction, and of one draw per row. The interval: share of rows inside; a point has none.")
    return "\n".join(lines)


def speed_table(speed: list[Speed]) -> str:
    lines = [f"  {'':<44}{'reference':>12}{'ordkernels':>12}{'ratio':>9}"]
    lines += [f"  {s.name:<44}{s.reference_ms:>12.2f}{s.ours_ms:>12.2f}{s.ratio:>8.2f}x" for s in speed]
    return "\n".join(lines)


def _write(out: Path, report: Result, scores: Scores, test: Split, speed: list[Speed]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        say("matplotlib is not installed: no plots (pip install matplotlib)")
        return
    assert scores.draws is not None
    plots.distributions(out / "distributions.png", test, scores.draws)
    plots.calibration(out / "calibration.png", test["y"], scores.draws)
    plots.speed_bars(out / "speed.png", speed)
