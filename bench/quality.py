"""FlowTime against its baselines on KuaiRand-Pure's test week: accuracy, order, and the whole distribution.

python bench/quality.py                 three seeds of FlowTime, of the paper's own loss and of value regression; medians; boosting
python bench/quality.py --quick         one seed, two epochs, every eighth test row: a check that all of it runs
python bench/quality.py --ablations     FlowTime's parts taken away one at a time (its paper's table 4), one seed each
python bench/quality.py --curve         100 training steps on the reference backend and on the default: the losses must agree

Writes bench/results/quality_{flowtime,ablations,curve}.json; --models and --merge redo or add single entries.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ordkernels
from ordkernels import ops
from ordkernels.data import kuairand, n_ids
from ordkernels.models import FlowTime, HistoricalMedian, ValueRegression, fit

RESULTS = Path(__file__).parent / "results"
Split = dict[str, Tensor]
Predictor = Callable[[Split], tuple[Tensor, Tensor | None]]  # rows -> (prediction [B], draws [B, n] or None)

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
        args.seeds, args.epochs = 1, min(args.epochs, 2)
        test = {name: v[::8] for name, v in test.items()}
    if args.curve:
        return curve(train, test, args)
    kind = "ablations" if args.ablations else "flowtime"
    makers = ablation_makers(train, test, args) if args.ablations else table_makers(train, test, args)
    if args.models:
        makers = {name: makers[name] for name in args.models}
    file = Path(args.json or RESULTS / f"quality_{kind}.json")
    report = json.loads(file.read_text()) if args.merge and file.exists() else {"models": {}}
    scorer = Scorer(train, test)
    print(f"{'model':36s} {'MAE':>14s} {'XAUC':>16s} {'PDF-U':>8s} {'PDF-I':>8s} {'CRPS':>14s} {'80 % interval holds':>20s}")
    for name, (make, seeds) in makers.items():
        runs = []
        for seed in range(seeds):
            started = time.perf_counter()
            predict = make(seed)
            trained = time.perf_counter()
            runs.append({"seed": seed, **scorer(predict), "train_s": round(trained - started, 1)})
            runs[-1]["score_s"] = round(time.perf_counter() - trained, 1)
        report["models"][name] = {"runs": runs, **summary(runs)}
        report["about"] = about(args, len(train["y"]), len(test["y"]))
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(report, indent=1) + "\n")  # after each model: a long run may be cut short
        print(line(name, report["models"][name]), flush=True)
    print(f"written: {file}")


# ---------------------------------------------------------------------------------------------------- models


def table_makers(train: Split, test: Split, args: argparse.Namespace) -> dict[str, tuple[Callable[[int], Predictor], int]]:
    sizes = (*n_ids(train, test), train["dense"].shape[1])

    def flowtime(**options: Any) -> Callable[[int], Predictor]:
        return lambda seed: generative(trained(lambda: FlowTime(*sizes, **options), train, seed, args), args.draws)

    def regression(**options: Any) -> Callable[[int], Predictor]:
        return lambda seed: point(trained(lambda: ValueRegression(*sizes, **options), train, seed, args).predict)

    makers: dict[str, tuple[Callable[[int], Predictor], int]] = {
        "tab median": (lambda _: point(tab_median(train)), 1),
        "user's historical median": (lambda _: point(HistoricalMedian("user").predict), 1),
        "item's historical median": (lambda _: point(HistoricalMedian("item").predict), 1),
        "FlowTime": (flowtime(), args.seeds),
        "value regression, squared error": (regression(objective="squared"), args.seeds),
        "FlowTime, paper's loss": (flowtime(**FlowTime.paper_loss()), args.seeds),
        "gradient boosting, same inputs": (lambda seed: point(boosting(train, seed)), 1),
        "value regression, absolute error": (regression(objective="absolute"), args.seeds),
        "value regression, Huber": (regression(objective="huber"), args.seeds),
    }
    try:
        import sklearn  # noqa: F401
    except ImportError:
        print("scikit-learn is not installed: no gradient boosting in the table")
        del makers["gradient boosting, same inputs"]
    return makers


def ablation_makers(train: Split, test: Split, args: argparse.Namespace) -> dict[str, tuple[Callable[[int], Predictor], int]]:
    sizes = (*n_ids(train, test), train["dense"].shape[1])

    def maker(options: dict[str, Any]) -> Callable[[int], Predictor]:
        return lambda seed: generative(trained(lambda: FlowTime(*sizes, **options), train, seed, args), args.draws)

    return {name: (maker(options), 1) for name, options in ABLATIONS.items()}


def trained(make: Callable[[], Any], train: Split, seed: int, args: argparse.Namespace) -> Any:
    torch.manual_seed(seed)
    model = make()
    fit(model, train, epochs=args.epochs, seed=seed, progress=sys.stderr.isatty())
    return model


def generative(model: FlowTime, n: int) -> Predictor:
    def predict(rows: Split) -> tuple[Tensor, Tensor | None]:
        draws = model.sample(inputs(rows), n, row_ids=rows["row"])
        return draws.double().quantile(0.5, dim=1).float(), draws

    return predict


def point(predict: Callable[[Split], Tensor]) -> Predictor:
    return lambda rows: (predict(inputs(rows)), None)


def inputs(rows: Split) -> Split:
    return {name: v for name, v in rows.items() if name != "y"}


def tab_median(train: Split) -> Callable[[Split], Tensor]:
    overall = train["y"].quantile(0.5)
    medians = torch.full((int(train["tab"].max()) + 1,), float(overall))
    for tab in train["tab"].unique():
        medians[tab] = train["y"][train["tab"] == tab].quantile(0.5)
    return lambda rows: medians[rows["tab"]]


def boosting(train: Split, seed: int) -> Callable[[Split], Tensor]:
    """scikit-learn's histogram boosting of the median of log1p(y) on all that FlowTime sees, ids apart."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def table(rows: Split) -> np.ndarray:
        flags = torch.stack((rows["has_user"], rows["has_item"]), dim=1)
        return torch.cat((rows["dense"], rows["q_user"], rows["q_item"], flags), dim=1).numpy()

    model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=300, random_state=seed)
    model.fit(table(train), np.log1p(train["y"].numpy()))
    return lambda rows: torch.from_numpy(np.expm1(model.predict(table(rows)))).clamp_min(0).float()


# ---------------------------------------------------------------------------------------------------- scores


class Scorer:
    """All scores of one predictor on the test rows."""

    def __init__(self, train: Split, test: Split) -> None:
        self.test = test
        edges = np.unique(np.quantile(train["y"].numpy().astype(np.float64), np.linspace(0, 1, 51)))
        self.edges = edges  # equal mass on the training split, duplicates merged; the end bins are open

    def __call__(self, predict: Predictor) -> dict[str, float]:
        y, rows = self.test["y"], self.test
        parts = [predict({k: v[i : i + 8192] for k, v in rows.items()}) for i in range(0, len(y), 8192)]
        p = torch.cat([a for a, _ in parts])
        out = {"mae": float(ops.mae(y, p)), "xauc": float(ops.xauc(y, p, ties="half").value), **self._pdf(p, "")}
        if parts[0][1] is None:
            return {**out, "crps": out["mae"]}  # of a certain prediction, CRPS is the absolute error
        draws = torch.cat([b for _, b in parts if b is not None])
        n = draws.shape[1]
        ordered = draws.sort(dim=1).values
        mean = draws.mean(dim=1)
        low, high = ordered[:, round(0.1 * (n - 1))], ordered[:, round(0.9 * (n - 1))]
        holds, width = ops.coverage(low, high, y)
        return {
            **out,
            "xauc_of_mean": float(ops.xauc(y, mean, ties="half").value),
            "crps": float(ops.crps(draws[:, ::2], y, fair=True).mean()),  # one of each mirrored pair
            "interval80_holds": float(holds),
            "interval80_width": float(width),
            **self._pdf(draws[:, 0], "_one_draw"),
        }

    def _pdf(self, p: Tensor, suffix: str) -> dict[str, float]:
        y = self.test["y"]
        return {
            f"pdf_{side[0]}{suffix}": float(ops.histogram_jsd(y, p, self.test[side], edges=self.edges, base=2.0))
            for side in ("user", "item")
        }


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    keys = [k for k in runs[0] if k != "seed"]
    values = {k: np.array([r[k] for r in runs]) for k in keys}
    return {
        "mean": {k: round(float(v.mean()), 5) for k, v in values.items()},
        "spread": {k: round(float(v.max() - v.min()), 5) for k, v in values.items()},  # largest minus smallest
    }


def line(name: str, entry: dict[str, Any]) -> str:
    m, s = entry["mean"], entry["spread"]
    holds = f"{m['interval80_holds']:.3f}" if "interval80_holds" in m else "-"
    return (
        f"{name:36s} {m['mae']:7.3f} ±{s['mae'] / 2:.3f} {m['xauc']:8.4f} ±{s['xauc'] / 2:.4f}"
        f" {m['pdf_u']:8.3f} {m['pdf_i']:8.3f} {m['crps']:7.3f} ±{s['crps'] / 2:.3f} {holds:>20s}"
    )


# ---------------------------------------------------------------------------------------------------- curve


def curve(train: Split, test: Split, args: argparse.Namespace, steps: int = 100, batch: int = 512) -> None:
    """The same 100 steps on the default backend and on the reference: the losses agree to rounding.

    Training amplifies rounding from step to step, so the yardstick is the reference against itself with every starting
    weight one rounding error off.
    """
    sizes = (*n_ids(train, test), train["dense"].shape[1])
    rows = {name: v[: steps * batch // 2] for name, v in train.items()}  # two epochs of fifty steps

    def run(*, off: float = 0.0) -> np.ndarray:
        torch.manual_seed(0)
        model, seen = FlowTime(*sizes), []
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + off)
        fit(model, rows, epochs=2, batch_size=batch, progress=False, on_step=lambda _, parts: seen.append(parts["loss"].item()))
        return np.array(seen)

    losses = {"default": run(), "default, again": run()}
    with ordkernels.use_backend("reference"):
        losses["reference"], losses["reference, one rounding off"] = run(), run(off=2.0**-23)
    reference = losses["reference"]
    apart = np.abs(losses["default"] - reference) / reference
    yardstick = np.abs(losses["reference, one rounding off"] - reference) / reference
    repeats = bool((losses["default"] == losses["default, again"]).all())
    agree = bool(repeats and apart[:10].max() < 1e-5 and apart.max() <= max(1e-4, 4 * yardstick.max()))
    report = {
        "about": about(args, len(rows["y"]), 0),
        "default_backend_on_cpu": {
            op: ordkernels.available_backends(op)["cpu"] or "native" for op in ("planar_flow", "conditional_planar_flow", "crps")
        },
        "agree": agree,
        "repeats_itself_exactly": repeats,
        "relative_difference": {
            "first_10_steps": float(apart[:10].max()),
            "all_steps": float(apart.max()),
            "yardstick_first_10_steps": float(yardstick[:10].max()),
            "yardstick_all_steps": float(yardstick.max()),
        },
        "losses": {name: [round(v, 7) for v in series.tolist()] for name, series in losses.items()},
    }
    file = Path(args.json or RESULTS / "quality_curve.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    print(f"loss {reference[0]:.4f} -> {reference[-1]:.4f} in {len(reference)} steps; repeats itself exactly: {repeats}")
    for name, d in (("default against reference", apart), ("reference, starting one rounding off", yardstick)):
        print(f"{name}: relative difference {d[:10].max():.1e} in the first ten steps, {d.max():.1e} in all")
    print(f"written: {file}")
    if not agree:
        raise SystemExit("the curves part by more than rounding explains: kernels and reference do not compute the same")


def about(args: argparse.Namespace, train_rows: int, test_rows: int) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "bench/quality.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.processor() or platform.machine()}, {cpu_name()}, {args.threads} thread(s)",
        "versions": {
            "ordkernels": ordkernels.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "train_rows": train_rows,
        "test_rows": test_rows,
        "epochs": args.epochs,
        "draws_per_row": args.draws,
        "units": "seconds; XAUC with ties half; PDF base 2 over 50 equal-mass bins of the training labels; spread: max - min over seeds",
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.system()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--draws", type=int, default=64, help="draws per test row, mirrored pairs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--models", action="append", metavar="NAME", help="only this model (repeatable)")
    parser.add_argument("--merge", action="store_true", help="keep the other models' entries of the results file")
    parser.add_argument("--json", metavar="FILE", help="where to write instead of bench/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
