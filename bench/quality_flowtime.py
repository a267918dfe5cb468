"""FlowTime against its baselines on KuaiRand-Pure's test week: accuracy, order, and the whole distribution.

python bench/quality_flowtime.py                 three seeds of FlowTime, of the paper's own loss and of value regression; medians; boosting
python bench/quality_flowtime.py --quick         one seed, two epochs, every eighth test row: a check that all of it runs
python bench/quality_flowtime.py --ablations     FlowTime's parts taken away one at a time (its paper's table 4), one seed each
python bench/quality_flowtime.py --curve         100 training steps on the reference backend and on the default: the losses must agree

Writes bench/results/quality_{flowtime,flowtime_ablations,curve}.json; --models and --merge redo or add single entries.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _quality import (
    RESULTS,
    Predictor,
    Split,
    WatchTimeScores,
    about,
    every,
    generative,
    numbers,
    parser,
    point,
    read,
    results_file,
    summary,
    write,
)
from torch import Tensor

import ordkernels
from ordkernels.data import kuairand, n_ids
from ordkernels.models import FlowTime, HistoricalMedian, ValueRegression, fit

CURVE_BATCH = 512
CURVE_ROWS = 50 * CURVE_BATCH
ABLATIONS: dict[str, dict[str, Any]] = {
    "FlowTime": {},
    "(b) DDPM prior": {"prior": "ddpm"},
    "(c) flow-matching prior": {"prior": "flow_matching"},
    "(d) no flow": {"prior": "none"},
    "(e) no user history": {"user_history": False},
    "(f) no item history": {"item_history": False},
    "(g) no history, no flow": {"prior": "none", "user_history": False, "item_history": False},
    "(h) MLP encoder": {"encoder": "mlp"},
    "paper's loss": FlowTime.paper_loss(),
    "paper's loss + CRPS, weight 1": {**FlowTime.paper_loss(), "crps_weight": 1.0},
    "no W-dist": {"wdist_weight": 0.0},
    "K = 1": {"layers": 1},
    "K = 8": {"layers": 8},
    "lam = 0.2": {"lam": 0.2},
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    train, test = kuairand()
    if args.quick:
        test = every(test, 8)
    if args.curve:
        return curve(train, test, args)
    makers = ablation_makers(train, test, args) if args.ablations else table_makers(train, test, args)
    if args.models:
        makers = {name: makers[name] for name in args.models}
    file = results_file(args, "flowtime")
    report = (read(file) if args.merge else {}) or {"models": {}}
    scores = WatchTimeScores(train, test)
    print(f"{'model':36s} {'MAE':>14s} {'XAUC':>16s} {'PDF-U':>8s} {'PDF-I':>8s} {'CRPS':>14s} {'80 % interval covers':>20s}")
    for name, (make, seeds) in makers.items():
        runs = []
        for seed in seeds:
            started = time.perf_counter()
            predict = make(seed)
            trained = time.perf_counter()
            runs.append({"seed": seed, **scores(predict), "train_s": round(trained - started, 1)})
            runs[-1]["score_s"] = round(time.perf_counter() - trained, 1)
        report["models"][name] = {"runs": runs, **summary(runs)}
        report["about"] = about_run(args, len(train["y"]), len(test["y"]))
        write(file, report)
        print(line(name, report["models"][name]), flush=True)
    print(f"written: {file}")


# ---------------------------------------------------------------------------------------------------- models


def table_makers(train: Split, test: Split, args: argparse.Namespace) -> dict[str, tuple[Callable[[int], Predictor], list[int]]]:
    sizes = (*n_ids(train, test), train["dense"].shape[1])

    def flowtime(**options: Any) -> Callable[[int], Predictor]:
        return lambda seed: generative(trained(lambda: FlowTime(*sizes, **options), train, seed, args), args.draws)

    def regression(**options: Any) -> Callable[[int], Predictor]:
        return lambda seed: point(trained(lambda: ValueRegression(*sizes, **options), train, seed, args).predict)

    once = args.seeds[:1]  # nothing random in them
    makers: dict[str, tuple[Callable[[int], Predictor], list[int]]] = {
        "tab median": (lambda _: point(tab_median(train)), once),
        "user's historical median": (lambda _: point(HistoricalMedian("user").predict), once),
        "item's historical median": (lambda _: point(HistoricalMedian("item").predict), once),
        "FlowTime": (flowtime(), args.seeds),
        "value regression, squared error": (regression(objective="squared"), args.seeds),
        "FlowTime, paper's loss": (flowtime(**FlowTime.paper_loss()), args.seeds),
        "gradient boosting, same inputs": (lambda seed: point(boosting(train, seed)), once),
        "value regression, absolute error": (regression(objective="absolute"), args.seeds),
        "value regression, Huber": (regression(objective="huber"), args.seeds),
    }
    try:
        import sklearn  # noqa: F401
    except ImportError:
        print("scikit-learn is not installed: no gradient boosting in the table")
        del makers["gradient boosting, same inputs"]
    return makers


def ablation_makers(train: Split, test: Split, args: argparse.Namespace) -> dict[str, tuple[Callable[[int], Predictor], list[int]]]:
    sizes = (*n_ids(train, test), train["dense"].shape[1])

    def maker(options: dict[str, Any]) -> Callable[[int], Predictor]:
        return lambda seed: generative(trained(lambda: FlowTime(*sizes, **options), train, seed, args), args.draws)

    return {name: (maker(options), args.seeds) for name, options in ABLATIONS.items()}


def trained(make: Callable[[], Any], train: Split, seed: int, args: argparse.Namespace) -> Any:
    torch.manual_seed(seed)
    model = make()
    fit(model, train, epochs=args.epochs, seed=seed, progress=sys.stderr.isatty())
    return model


def tab_median(train: Split) -> Callable[[Split], Tensor]:
    overall = train["y"].quantile(0.5)
    medians = torch.full((int(train["tab"].max()) + 1,), float(overall))
    for tab in train["tab"].unique():
        medians[tab] = train["y"][train["tab"] == tab].quantile(0.5)
    return lambda rows: medians[rows["tab"]]


def boosting(train: Split, seed: int) -> Callable[[Split], Tensor]:
    """scikit-learn's histogram boosting of the median of log1p(y) on all that FlowTime sees, ids apart."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=300, random_state=seed)
    model.fit(numbers(train), np.log1p(train["y"].numpy()))
    return lambda rows: torch.from_numpy(np.expm1(model.predict(numbers(rows)))).clamp_min(0).float()


def line(name: str, entry: dict[str, Any]) -> str:
    m, s = entry["mean"], entry["spread"]
    holds = f"{m['interval80_holds']:.3f}" if "interval80_holds" in m else "-"
    return (
        f"{name:36s} {m['mae']:7.3f} ±{s['mae'] / 2:.3f} {m['xauc']:8.4f} ±{s['xauc'] / 2:.4f}"
        f" {m['pdf_u']:8.3f} {m['pdf_i']:8.3f} {m['crps']:7.3f} ±{s['crps'] / 2:.3f} {holds:>20s}"
    )


# ---------------------------------------------------------------------------------------------------- curve


def curve(train: Split, test: Split, args: argparse.Namespace) -> None:
    """The same 100 steps on the default backend and on the reference: the losses agree to rounding.

    Training amplifies rounding from step to step, so the measure is the reference against itself with every starting weight one
    rounding error off.
    """
    losses = {"default": training_losses(train, test), "default, again": training_losses(train, test)}
    with ordkernels.use_backend("reference"):
        losses["reference"] = training_losses(train, test)
        losses["reference, one rounding off"] = training_losses(train, test, off=2.0**-23)
    reference = losses["reference"]
    differ = np.abs(losses["default"] - reference) / reference
    perturbed = np.abs(losses["reference, one rounding off"] - reference) / reference
    repeats = bool((losses["default"] == losses["default, again"]).all())
    agree = bool(repeats and differ[:10].max() < 1e-5 and differ.max() <= max(1e-4, 4 * perturbed.max()))
    report = {
        "about": about_run(args, CURVE_ROWS, 0),
        "default_backend_on_cpu": {
            op: ordkernels.available_backends(op)["cpu"] or "native" for op in ("planar_flow", "conditional_planar_flow", "crps")
        },
        "agree": agree,
        "repeats_itself_exactly": repeats,
        "relative_difference": {
            "first_10_steps": float(differ[:10].max()),
            "all_steps": float(differ.max()),
            "perturbed_first_10_steps": float(perturbed[:10].max()),
            "perturbed_all_steps": float(perturbed.max()),
        },
        "losses": {name: [round(v, 7) for v in series.tolist()] for name, series in losses.items()},
    }
    file = args.json or RESULTS / "quality_curve.json"
    write(file, report)
    print(f"loss {reference[0]:.4f} -> {reference[-1]:.4f} in {len(reference)} steps; repeats itself exactly: {repeats}")
    for name, d in (("default against reference", differ), ("reference, starting one rounding off", perturbed)):
        print(f"{name}: relative difference {d[:10].max():.1e} in the first ten steps, {d.max():.1e} in all")
    print(f"written: {file}")
    if not agree:
        raise SystemExit("the losses differ by more than rounding explains: kernels and reference do not compute the same")


def training_losses(train: Split, test: Split, *, off: float = 0.0) -> np.ndarray:
    """Of 100 steps in two epochs, from seed 0, every starting weight multiplied by 1 + off."""
    torch.manual_seed(0)
    model, losses = FlowTime(*n_ids(train, test), train["dense"].shape[1], dropout=0.0), []  # each has a random stream of its own
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + off)
    rows = {name: v[:CURVE_ROWS] for name, v in train.items()}
    rows["row_ids"] = rows["row"]  # key the noise: without them it is torch's own stream on one backend alone
    fit(model, rows, epochs=2, batch_size=CURVE_BATCH, progress=False, on_step=lambda _, parts: losses.append(parts["loss"].item()))
    return np.array(losses)


def about_run(args: argparse.Namespace, train_rows: int, test_rows: int) -> dict[str, Any]:
    return about(args) | {
        "train_rows": train_rows,
        "test_rows": test_rows,
        "epochs": args.epochs,
        "draws_per_row": args.draws,
        "units": "seconds; XAUC with ties half; PDF base 2 over 50 equal-mass bins of the training labels; spread: max - min over seeds",
    }


def arguments() -> argparse.Namespace:
    out = parser(__doc__, seeds=(0, 1, 2), draws=64, draws_help="draws per test row, mirrored pairs")
    out.add_argument("--epochs", type=int, default=4)
    out.add_argument("--curve", action="store_true", help="training losses on two backends in place of the table")
    out.add_argument("--merge", action="store_true", help="keep the other models' entries of the results file")
    args = out.parse_args()
    if args.quick:
        args.seeds, args.epochs = [0], min(args.epochs, 2)
    if args.ablations:
        args.seeds = args.seeds[:1]
    return args


if __name__ == "__main__":
    main()
