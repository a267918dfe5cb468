"""iFusion against average- and attention-pooling fusion of the same encoders, and gradient boosting without sessions: clicks, AUC.

python bench/quality_ifusion.py                           KuaiRand-Pure's last training day, which settings are chosen on; five seeds
python bench/quality_ifusion.py --test                    its test week: once, when all is chosen
python bench/quality_ifusion.py --movielens FOLDER        MovieLens-100K (of your own), click = a rating of at least 4
python bench/quality_ifusion.py --ablations               its paper's figures 3 and 4: parts, schedules, sessions, steps
python bench/quality_ifusion.py --quick                   one seed on a few rows: a check that all of it runs

Writes bench/results/quality_ifusion[_movielens][_ablations][_validation].json after every run; runs in the file with the same settings
are not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _quality import VALIDATION_DAY, Split, about, every, held_out, numbers, parser, read, results_file, summary, write
from torch import Tensor

from ordkernels import ops
from ordkernels.data import kuairand_sessions, movielens, n_ids
from ordkernels.models import IFusion, PooledFusion, fit

Maker = Callable[..., Any]
AVERAGE, ATTENTION, OURS, BOOSTING = "average pooling", "attention pooling", "iFusion", "gradient boosting"
RIVALS = {"over_average": AVERAGE, "over_attention": ATTENTION, "over_boosting": BOOSTING}

MODELS: dict[str, tuple[Maker, dict[str, Any]]] = {
    AVERAGE: (PooledFusion, {"pooling": "average"}),
    ATTENTION: (PooledFusion, {"pooling": "attention"}),
    OURS: (IFusion, {}),
    "iFusion, chain's loss": (IFusion, IFusion.chain_loss()),
    "iFusion, paper's loss": (IFusion, IFusion.paper_loss()),
    BOOSTING: (dict, {}),
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "CFG for DCFG": {"guidance": "cfg"},
    "parallel injection": {"parallel": True},
    "without consistency": {"consistency_weight": 0.0},
    "without evolution": {"evolution_weight": 0.0},
    "without disentanglement": {"disentangle_weight": 0.0},
    "linear schedule": {"schedule": "linear"},
    "1 session": {"sessions": 1},
    "2 sessions": {"sessions": 2},
    "5 steps": {"steps": 5},
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    file = results_file(args, "ifusion_movielens" if args.movielens else "ifusion", validation=not args.test)
    report = ({} if args.fresh else read(file)) or {"models": {}}
    train, test = rows_of(args)
    sizes = (*n_ids(train, test), train["dense"].shape[1])
    rows = len(train["y"]), len(test["y"])
    train, test = every(train, args.train_every), every(test, args.every)
    models = {**MODELS, **({f"iFusion, {name}": (IFusion, o) for name, o in ABLATIONS.items()} if args.ablations else {})}
    settings = {k: getattr(args, k) for k in ("epochs", "batch", "lr", "long", "every", "train_every")}
    for seed in args.seeds:  # a seed of every model, then the next: cut short, the table still compares like with like
        for name, (make, options) in models.items():
            if args.models and name not in args.models:
                continue
            entry = report["models"].setdefault(name, {"runs": []})
            runs = {r["seed"]: r for r in entry["runs"] if r["how"] == {**settings, **options}}
            if seed in runs:
                continue
            found = boosting(seed, train, test) if name == BOOSTING else run(make, options, sizes, seed, train, test, args)
            runs[seed] = {"how": {**settings, **options}, "seed": seed, **found}
            entry["runs"] = [runs[s] for s in sorted(runs)]
            summarize(report, args, rows, (len(train["y"]), len(test["y"])))
            write(file, report)
            print(f"{name:40s} seed {seed}  AUC {runs[seed]['auc']:.4f}  trained in {runs[seed]['train_s']:.0f} s", flush=True)
    for name, entry in report["models"].items():
        if entry["runs"]:
            print(line(name, entry))
    print(f"written: {file}")


def rows_of(args: argparse.Namespace) -> tuple[Split, Split]:
    """Of training and of scoring, split by time."""
    if not args.movielens:
        return kuairand_sessions() if args.test else kuairand_sessions(**VALIDATION_DAY)
    train, test = movielens(args.movielens)
    return (train, test) if args.test else held_out(train, train["time_ms"].argsort(stable=True))


def run(
    make: Maker, options: dict[str, Any], sizes: tuple[int, int, int], seed: int, train: Split, test: Split, args: argparse.Namespace
) -> dict[str, float]:
    torch.manual_seed(seed)
    model = make(*sizes, **{"number_weight": 0.0, "long": args.long, **options})
    started = time.perf_counter()
    fit(model, train, epochs=args.epochs, batch_size=args.batch, lr=args.lr, weight_decay=0.01, seed=seed, progress=sys.stderr.isatty())
    trained = time.perf_counter()
    p = model.predict_click({k: v for k, v in test.items() if k not in ("y", "click")}, n=args.draws, row_ids=test["row"])
    return scores(p.double(), test, trained - started, time.perf_counter() - trained)


def boosting(seed: int, train: Split, test: Split) -> dict[str, float]:
    """scikit-learn's histogram boosting on the rows' own numbers: no ids, no histories, no sessions."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    started = time.perf_counter()
    model = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.05, early_stopping=True, random_state=seed)
    model.fit(numbers(train), train["click"].numpy())
    trained = time.perf_counter()
    p = torch.from_numpy(model.predict_proba(numbers(test))[:, 1])
    return scores(p, test, trained - started, time.perf_counter() - trained)


def scores(p: Tensor, test: Split, train_s: float, score_s: float) -> dict[str, float]:
    click = test["click"].double()
    logloss = float(torch.nn.functional.binary_cross_entropy(p, click))
    return {"auc": ops.auc(click, p), "logloss": logloss, "train_s": round(train_s, 1), "score_s": round(score_s, 1)}


def summarize(report: dict[str, Any], args: argparse.Namespace, rows: tuple[int, int], used: tuple[int, int]) -> None:
    """Means, spreads, and each run's RelaImpr over the rivals of its own seed."""
    models = report["models"]
    of_seed = {name: {r["seed"]: r["auc"] for r in models.get(name, {}).get("runs", [])} for name in RIVALS.values()}
    for entry in models.values():
        for r in entry["runs"]:
            for key, name in RIVALS.items():
                r[key] = ops.relaimpr(r["auc"], of_seed[name].get(r["seed"], float("nan")))
        if entry["runs"]:
            entry.update(summary([{k: v for k, v in r.items() if k != "how"} for r in entry["runs"]]))
    report["about"] = about(args) | {
        "kind": "clicks",
        "data": "MovieLens-100K" if args.movielens else "KuaiRand-Pure",
        "scored_on": "test" if args.test else "validation",
        "rows": {"train": rows[0], "test": rows[1], "trained_on": used[0], "scored": used[1]},
        "epochs": args.epochs,
    }


def line(name: str, entry: dict[str, Any]) -> str:
    m, s = entry["mean"], entry["spread"]
    over = ", ".join(f"{m[key]:+.2%} over {rival}" for key, rival in RIVALS.items())
    return f"{name:40s} {len(entry['runs'])} seeds  AUC {m['auc']:.4f} ± {s['auc'] / 2:.4f}  RelaImpr {over}"


def arguments() -> argparse.Namespace:
    out = parser(__doc__, seeds=range(5), draws=1, draws_help="fused interests that a click's probability is averaged over")
    out.add_argument("--test", action="store_true", help="score the test rows: once, when all is chosen")
    out.add_argument("--movielens", metavar="FOLDER")
    out.add_argument("--fresh", action="store_true", help="run again what the file has")
    out.add_argument("--epochs", type=int, default=1)
    out.add_argument("--batch", type=int, default=256)
    out.add_argument("--lr", type=float, default=1e-3)
    out.add_argument("--long", type=int, default=20, help="of the history, the most items read")
    out.add_argument("--every", type=int, default=1, help="score every n-th row")
    out.add_argument("--train-every", type=int, default=1, help="train on every n-th row")
    args = out.parse_args()
    if args.quick:
        args.seeds, args.every, args.train_every = [0], 64, 64
    return args


if __name__ == "__main__":
    main()
