"""GR against regression on KuaiRand-Pure's test week and on CDNOW's first-year value, and its paper's ablations.

python bench/quality_gr.py                      KuaiRand and CDNOW, three seeds (the committed results: --train-every 3 --every 8)
python bench/quality_gr.py --ablations          its paper's tables 3 and 4 on a third of KuaiRand's training rows, one seed
python bench/quality_gr.py --quick              one seed, one epoch, few rows: a check that all of it runs

Writes bench/results/quality_gr[_ablations].json, one entry per data set; others in the file are kept.
"""

from __future__ import annotations

import argparse
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
    inputs,
    parser,
    point,
    read,
    results_file,
    summary,
    table_scores,
    write,
)
from torch import Tensor

from ordkernels.data import cdnow, kuairand, n_ids
from ordkernels.models import GenerativeRegression, TableRegression, ValueRegression, fit

Maker = Callable[[], Any]  # an untrained model

# KuaiRand's: from trials on the first four fifths of the training split by time, scored on the last; CDNOW's are not tuned
TRAINING: dict[str, dict[str, Any]] = {
    "kuairand": {"epochs": 3, "batch_size": 256, "lr": 2e-3},
    "cdnow": {"epochs": 4, "batch_size": 256, "lr": 2e-3},
}
# GR's own. Three passes, tried first, scored 0.655 in XAUC on the test week, below value regression's 0.659 (one seed): on all rows it
# overfits to users and videos. One pass was then compared with value regression's three on the training split alone (the first 85 %
# by time, scored on the rest): 0.667 against 0.660.
GR_EPOCHS = {"kuairand": 1}
MODEL: dict[str, dict[str, Any]] = {"kuairand": {"unit": 0.001, "omega": 60.0}, "cdnow": {"unit": 0.01}}
ABLATIONS: dict[str, dict[str, Any]] = {
    "GR (dynamic vocabulary, CLEM)": {},
    "manual vocabulary": {"vocabulary": "manual"},
    "binary vocabulary": {"vocabulary": "binary"},
    "(b) without CLEM": {"clem": False},
    "(c) mixup with teacher forcing": {"curriculum": 1.0},
    "(d) curriculum without mixup": {"mixup": None},
    "(e) linear": {"curriculum": "linear"},
    "(f) exponential": {"curriculum": "exponential"},
    "(g) p = 0.5": {"curriculum": 0.5},
    "(h) p = 0": {"curriculum": 0.0},
    "mixup over the whole vocabulary": {"mixup": "full"},
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    file = results_file(args, "gr")
    report = read(file)
    for name in args.data or (["kuairand"] if args.ablations else ["kuairand", "cdnow"]):
        entry = report[name] if args.models and name in report else {"models": {}}
        runs: dict[str, list[dict[str, float]]] = {}
        for seed in args.seeds:  # the seeds outside: a run that is cut short has every line
            train, test = load(name, seed, args)
            score = WatchTimeScores(train, test) if name == "kuairand" else lambda predict, test=test: table_scores(test, predict)
            for label, make in makers(name, train, test, args).items():
                if args.models and label not in args.models:
                    continue
                torch.manual_seed(seed)
                model = make()
                train_s = trained(model, train, seed, name, label, args)
                for line, predict in readouts(label, model, args).items():
                    began = time.perf_counter()
                    runs.setdefault(line, []).append({"seed": seed, **score(predict), "train_s": train_s})
                    runs[line][-1]["score_s"] = round(time.perf_counter() - began, 1)
                    entry["models"][line] = {"runs": runs[line], **summary(runs[line])}
                    print(text(f"{name}, seed {seed}: {line}", runs[line][-1]), flush=True)
                entry["about"] = about_run(name, len(train["y"]), len(test["y"]), args)
                report[name] = entry
                write(file, report)
    print(f"written: {file}")


def load(name: str, seed: int, args: argparse.Namespace) -> tuple[Split, Split]:
    if name == "cdnow":
        train, test = cdnow(split=seed)
    else:
        train, test = kuairand()  # split by time, whatever the seed
        train, test = every(train, args.train_every or (3 if args.ablations else 1)), every(test, args.every)
    if args.quick:
        train, test = every(train, 16), every(test, 16)
    return train, test


# ---------------------------------------------------------------------------------------------------- models


def makers(name: str, train: Split, test: Split, args: argparse.Namespace) -> dict[str, Maker]:
    sizes = widths(train, test)

    def gr(options: dict[str, Any]) -> Maker:
        return lambda: GenerativeRegression(*sizes, **{**settings(name, args), **options})

    def regression(objective: Literal["squared", "absolute"]) -> Any:
        return ValueRegression(*sizes, objective=objective) if name == "kuairand" else TableRegression(sizes[2], objective=objective)

    if args.ablations:
        return {label: gr(options) for label, options in ABLATIONS.items()}
    return {
        "value regression": lambda: regression("squared"),
        "absolute-error regression": lambda: regression("absolute"),
        "GR": gr({}),
        "GR without CLEM": gr({"clem": False}),
    }


def trained(model: Any, train: Split, seed: int, name: str, label: str, args: argparse.Namespace) -> float:
    """Trains in place, or takes the weights of an earlier run; returns the seconds of training."""
    saved_file = args.weights and args.weights / f"{name}-{label}-{seed}.pt".replace(" ", "_")
    if saved_file and saved_file.exists():
        saved = torch.load(saved_file)
        model.load_state_dict(saved["state"])
        model.eval()
        return saved["train_s"]
    began = time.perf_counter()
    gr = isinstance(model, GenerativeRegression)
    fit(model, train, seed=seed, progress=sys.stderr.isatty(), **training(name, args, gr))
    train_s = round(time.perf_counter() - began, 1)
    if saved_file:
        saved_file.parent.mkdir(exist_ok=True, parents=True)
        torch.save({"state": model.state_dict(), "train_s": train_s}, saved_file)
    return train_s


def readouts(label: str, model: Any, args: argparse.Namespace) -> dict[str, Predictor]:
    """Of GR all: the paper's, greedy; the median, as ``predict`` has it by default, with the draws themselves; the mean."""
    if not isinstance(model, GenerativeRegression):
        return {label: point(model.predict)}

    def statistic(rows: Split, which: Literal["median", "mean"]) -> tuple[Tensor, Tensor | None]:
        x, n, ids = inputs(rows), args.draws, rows["row"]
        return model.predict(x, n, row_ids=ids, statistic=which), model.sample(x, n, row_ids=ids) if which == "median" else None

    out: dict[str, Predictor] = {f"{label}, greedy": point(lambda x: model.predict(x, statistic="greedy"))}
    if args.draws:
        out[f"{label}, median"] = lambda rows: statistic(rows, "median")
        out[f"{label}, mean"] = lambda rows: statistic(rows, "mean")
    return out


def training(name: str, args: argparse.Namespace, gr: bool = False) -> dict[str, Any]:
    own = {"epochs": GR_EPOCHS[name]} if gr and name in GR_EPOCHS else {}
    return {**TRAINING[name], **own, **({"epochs": args.epochs} if args.epochs else {})}


def settings(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return {**MODEL[name], **({"omega": args.omega} if args.omega else {})}


def widths(train: Split, test: Split) -> tuple[int, int, int]:
    ids = n_ids(train, test) if "user" in train else (0, 0)
    return (*ids, train["dense"].shape[1])


# ---------------------------------------------------------------------------------------------------- report


def text(label: str, run: dict[str, float]) -> str:
    return (
        f"{label:66s} MAE {run['mae']:8.3f}  XAUC {run['xauc']:.4f}  CRPS {run['crps']:8.3f}"
        f"  trained in {run['train_s']:.0f} s, scored in {run['score_s']:.0f} s"
    )


def about_run(name: str, train_rows: int, test_rows: int, args: argparse.Namespace) -> dict[str, Any]:
    return about(args) | {
        "train_rows": train_rows,
        "test_rows": test_rows,
        "training": training(name, args),
        "gr_epochs": training(name, args, gr=True)["epochs"],
        "model": settings(name, args),
        "draws": args.draws,
        "seeds": len(args.seeds),
        "scores": f"{train_rows:,} training and {test_rows:,} test rows, {len(args.seeds)} seed(s); XAUC with ties half, CRPS of draws "
        "(fair), of a point its absolute error; ± is half of largest minus smallest",
    }


def arguments() -> argparse.Namespace:
    out = parser(__doc__, seeds=(0, 1, 2), draws=32, draws_help="0: the greedy read-out alone")
    out.add_argument("--data", nargs="+", choices=["kuairand", "cdnow"])
    out.add_argument("--epochs", type=int, help="instead of each data set's own")
    out.add_argument("--omega", type=float, help="of the curriculum, instead of each data set's own: half-way at omega ln omega steps")
    out.add_argument("--every", type=int, default=4, help="score every n-th test row of KuaiRand")
    out.add_argument("--train-every", type=int, help="train on every n-th row of KuaiRand (ablations: 3)")
    out.add_argument("--weights", type=Path, metavar="DIR", help="save trained weights there, and load them from there")
    args = out.parse_args()
    if args.quick:
        args.epochs = 1
    if args.quick or args.ablations:
        args.seeds = args.seeds[:1]
    return args


if __name__ == "__main__":
    main()
