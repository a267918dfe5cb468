"""DiffoR against value regression and cross-entropy classification on tables, and against baselines of watch time on KuaiRand.

python bench/quality_diffor.py                          abalone, wine and CDNOW, seeds 0 to 2 (each with its own split)
python bench/quality_diffor.py --data kuairand          the watch times of KuaiRand-Pure's test week
python bench/quality_diffor.py --ablations              its paper's table 6 (a)-(f), and 1 to 12 heads, on abalone and wine
python bench/quality_diffor.py --quick                  one seed, two epochs: a check that all of it runs

Writes bench/results/quality_diffor[_ablations].json after every run; runs that the file already has are not repeated.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from _quality import (
    Predictor,
    Split,
    WatchTimeScores,
    about,
    every,
    generative,
    parser,
    point,
    read,
    results_file,
    summary,
    table_scores,
    write,
)

from ordkernels.data import cdnow, kuairand, n_ids, ordinal
from ordkernels.models import DiffoR, HistoricalMedian, TableClassifier, TableRegression, ValueRegression, fit

Maker = Callable[[Split, int], Predictor]  # (training split, seed) -> predictor

# Epochs from trials on a quarter of the training split, held out; "diffor": its own where they differ from the baselines'.
TRAINING: dict[str, dict[str, Any]] = {
    "abalone": {"epochs": 40, "batch_size": 256, "lr": 3e-3},
    "wine": {"epochs": 100, "batch_size": 256, "lr": 3e-3, "diffor": {"epochs": 40}},
    "cdnow": {"epochs": 20, "batch_size": 512, "lr": 2e-3, "diffor": {"epochs": 8}},
    "kuairand": {"epochs": 4, "batch_size": 1024, "lr": 2e-3, "diffor": {"epochs": 2}},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "(a) DiffoR": {},
    "(b) flow matching": {"process": "flow_matching"},
    "(d) without increments": {"increments": False},
    "(e) without aligned timesteps": {"aligned": False},
    "(f) without both": {"increments": False, "aligned": False},
    **{f"{K} head{'s' * (K > 1)}": {"heads": K, "latent": 8 * K} for K in (1, 2, 4, 12)},
    "paper's loss: no CRPS": DiffoR.paper_loss(),
}
TRANSFORMER = {"denoiser": "transformer"}
PAPERS: dict[str, dict[str, Any]] = {  # of the paper's loss, for the denoiser: a Transformer costs 15 times as much to train
    "Transformer, paper's loss": {**TRANSFORMER, **DiffoR.paper_loss()},
    "(c) MLP for the Transformer, paper's loss": DiffoR.paper_loss(),
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    file = results_file(args, "diffor")
    for name in args.data or (["abalone", "wine"] if args.ablations else ["abalone", "wine", "cdnow"]):
        makers = ablation_makers(name, args) if args.ablations else table_makers(name, args)
        print(f"\n{name:34s} {'MAE':>15s} {'XAUC':>15s} {'SRCC':>8s} {'CRPS':>15s} {'train s':>8s}")
        for label, maker in makers.items():
            if args.models and label not in args.models:
                continue
            runs = saved(file, name, label, args)
            for seed in args.seeds:
                if seed not in runs:
                    runs[seed] = run(name, seed, maker, args)
                    save(file, name, label, runs, args)  # after each: a long run may be cut short
            if runs:
                print(line(label, {"runs": list(runs.values()), **summary(list(runs.values()))}), flush=True)
    print(f"written: {file}")


def saved(file: Path, name: str, label: str, args: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """The runs in the file with the settings of this one, by seed."""
    report = {} if args.fresh else read(file)
    entry = report.get(name, {}).get("models", {}).get(label, {})
    return {r["seed"]: r for r in entry.get("runs", []) if entry.get("how") == how(label, name, args)}


def save(file: Path, name: str, label: str, runs: dict[int, dict[str, Any]], args: argparse.Namespace) -> None:
    report = read(file)  # read again: another data set may be running beside this one
    entry = report.setdefault(name, {"models": {}})
    ordered = [runs[seed] for seed in sorted(runs)]
    entry["models"][label] = {"how": how(label, name, args), "runs": ordered, **summary(ordered)}
    entry["about"] = about(args) | {
        "draws": args.draws,
        "scores": "MAE of the draws' median, CRPS of the draws (fair), XAUC with ties half; ± is half of largest minus smallest",
    }
    write(file, report)


def how(label: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a run's numbers depend on, seed and code apart."""
    return {
        **training("DiffoR" in label or args.ablations, name, args),
        "draws": args.draws,
        "every": args.every,
        "train_every": args.train_every,
    }


def run(name: str, seed: int, maker: Maker, args: argparse.Namespace) -> dict[str, Any]:
    train, test = load(name, seed)
    if name == "kuairand":
        test = every(test, args.every)
    score = WatchTimeScores(train, test) if name == "kuairand" else lambda predict: table_scores(test, predict)
    started = time.perf_counter()
    torch.manual_seed(seed)
    predict = maker(every(train, args.train_every), seed)
    trained = time.perf_counter()
    scored = {"seed": seed, **score(predict), "train_s": round(trained - started, 1)}
    return {**scored, "score_s": round(time.perf_counter() - trained, 1)}


def load(name: str, seed: int) -> tuple[Split, Split]:
    if name == "kuairand":
        return kuairand_parts()
    return cdnow(split=seed) if name == "cdnow" else ordinal(name, split=seed)


@functools.cache
def kuairand_parts() -> tuple[Split, Split]:
    return kuairand()  # split by time, whatever the seed


# ---------------------------------------------------------------------------------------------------- models


def table_makers(name: str, args: argparse.Namespace) -> dict[str, Maker]:
    def regression(train: Split, seed: int, objective: Literal["squared", "absolute"]) -> Predictor:
        if name == "kuairand":
            return point(trained(ValueRegression(*widths(train), objective=objective), train, seed, name, args).predict)
        model = TableRegression(train["dense"].shape[1], objective=objective)
        return point(trained(model, train, seed, name, args).predict)

    def classes(train: Split, seed: int, statistic: Literal["mode", "median"]) -> Predictor:
        model = trained(TableClassifier(train["dense"].shape[1], train["y"]), train, seed, name, args)
        return point(lambda rows: model.predict(rows, statistic))

    makers: dict[str, Maker] = {"median of the training targets": lambda train, _: constant(float(train["y"].quantile(0.5)))}
    if name == "kuairand":
        makers["user's historical median"] = lambda train, _: point(HistoricalMedian("user").predict)
    makers["value regression"] = lambda train, seed: regression(train, seed, "squared")
    makers["absolute-error regression"] = lambda train, seed: regression(train, seed, "absolute")
    if name not in ("kuairand", "cdnow"):
        makers["value regression, rounded"] = lambda train, seed: rounded(regression(train, seed, "squared"))
        makers["cross-entropy, likeliest class"] = lambda train, seed: classes(train, seed, "mode")
        makers["cross-entropy, median class"] = lambda train, seed: classes(train, seed, "median")
    for label, options in (("DiffoR", {}), ("DiffoR, paper's loss", DiffoR.paper_loss()), ("DiffoR, Transformer denoiser", TRANSFORMER)):
        makers[label] = lambda train, seed, options=options: diffor(train, seed, name, args, options)
    return makers


def ablation_makers(name: str, args: argparse.Namespace) -> dict[str, Maker]:
    variants = {**ABLATIONS, **PAPERS}
    return {label: lambda train, seed, options=options: diffor(train, seed, name, args, options) for label, options in variants.items()}


def diffor(train: Split, seed: int, name: str, args: argparse.Namespace, options: dict[str, Any]) -> Predictor:
    model = DiffoR(*widths(train), **{"discrete": name not in ("kuairand", "cdnow"), **options})
    return generative(trained(model, train, seed, name, args), args.draws)


def trained(model: Any, train: Split, seed: int, name: str, args: argparse.Namespace) -> Any:
    fit(model, train, seed=seed, progress=sys.stderr.isatty(), **training(isinstance(model, DiffoR), name, args))
    return model


def training(diffor: bool, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``fit``."""
    out = {**TRAINING.get(name, TRAINING["abalone"])}
    own = out.pop("diffor", {})
    return {**out, **(own if diffor else {}), **({"epochs": args.epochs} if args.epochs else {})}


def widths(train: Split) -> tuple[int, int, int]:
    ids = n_ids(*kuairand_parts()) if "user" in train else (0, 0)
    return (*ids, train["dense"].shape[1])


def constant(value: float) -> Predictor:
    return lambda rows: (torch.full((len(rows["dense"]),), value), None)


def rounded(predict: Predictor) -> Predictor:
    return lambda rows: (predict(rows)[0].round(), None)


def line(label: str, entry: dict[str, Any]) -> str:
    m, s = entry["mean"], entry["spread"]
    return (
        f"{label:34s} {m['mae']:8.4f} ±{s['mae'] / 2:.4f} {m['xauc']:8.4f} ±{s['xauc'] / 2:.4f} {m.get('srcc', float('nan')):8.3f}"
        f" {m['crps']:8.4f} ±{s['crps'] / 2:.4f} {m['train_s']:8.1f}"
    )


def arguments() -> argparse.Namespace:
    out = parser(__doc__, seeds=(0, 1, 2), draws=32, draws_help="draws per test row, mirrored pairs")
    out.add_argument("--data", nargs="+", help="abalone, wine, cdnow, kuairand or another name of ordkernels.data.ordinal_names()")
    out.add_argument("--fresh", action="store_true", help="run again what the file has")
    out.add_argument("--epochs", type=int, help="instead of each data set's own")
    out.add_argument("--every", type=int, default=1, help="score every n-th test row of KuaiRand")
    out.add_argument("--train-every", type=int, default=1, help="train on every n-th row")
    args = out.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.every = [0], 2, 16
    return args


if __name__ == "__main__":
    main()
