"""Every model on every data set by one recipe, beside the rivals that count: boosting, boosted quantiles, a quantile network.

python bench/quality.py                       on validation rows, which defaults and budgets are chosen on: KuaiRand's last training day,
                                              a fifth of the other training splits
python bench/quality.py --gap --data kuairand on KuaiRand's last two training days, fit on the first three: what a gap in time costs
python bench/quality.py --test                trained on all training rows, scored on the test rows: once, at the end, nothing is chosen
python bench/quality.py --data kuairand --models FlowTime GR --seeds 0
python bench/quality.py --kept build/rivals   boosting's predictions are taken from there, and left there for the next run

Writes bench/results/quality_comparison[_validation|_gap].json after every run; entries of other models and data sets are kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _quality import RESULTS, VALIDATION_DAY, VALIDATION_GAP, Split, about, held_out, numbers, parser, read, write
from torch import Tensor

from ordkernels import ops
from ordkernels.data import cdnow, kuairand, n_ids, ordinal, piecewise_linear
from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, QuantileRegression, fit
from ordkernels.scaling.predictor import quantiles_of_draws

DATA = ("kuairand", "cdnow", "abalone", "wine", "californiahousing")
TABLES = DATA[1:]
LEVELS = np.arange(1, 20) / 20  # of boosted quantiles
POINTS = (np.arange(99) + 0.5) / 99  # a predicted quantile function as draws of equal weight
STEPS = 300  # of every network, whatever the data: chosen on KuaiRand's validation day (4 passes of 1,024 rows; from 6 on, ids overfit)
RESAMPLES = 200


class Task(NamedTuple):
    train: Split
    scored: Split
    unit: float  # of GR's vocabulary
    grouped: bool  # ids and histories?
    steps: int  # of the networks' training


class Prediction(NamedTuple):
    """What a model says of the scored rows."""

    point: Tensor  # [N], the median
    draws: Tensor | None  # [N, n]
    fair: bool = True  # independent draws, or a quantile function
    mirrored: bool = False  # draws come in pairs


Maker = Callable[[Task, int, int], Prediction]  # (task, seed, draws)


def main() -> None:
    out = parser(__doc__, seeds=(0, 1, 2), draws=32, draws_help="of a row")
    out.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    rows = out.add_mutually_exclusive_group()
    rows.add_argument("--test", action="store_true", help="score the test rows")
    rows.add_argument("--gap", action="store_true", help="of KuaiRand, fit on 25 to 27 April and score 29 and 30 April")
    out.add_argument("--steps", type=int, default=STEPS, help=f"of the networks' training (default {STEPS})")
    out.add_argument("--kept", type=Path, metavar="FOLDER", help="of the rivals' predictions, which take longest")
    args = out.parse_args()
    if args.gap and args.data != ["kuairand"]:
        out.error(f"--gap: expected --data kuairand, got {' '.join(args.data)}")
    torch.set_num_threads(args.threads)
    file = args.json or RESULTS / f"quality_comparison{'' if args.test else '_gap' if args.gap else '_validation'}.json"
    for name in args.data:
        rivals: dict[tuple[str, int], Prediction] = {}  # for paired differences
        splits = args.seeds if name in TABLES else args.seeds[:1]  # a log is split by time, a table at random
        for label, (make, random) in MODELS.items():
            if args.models and label not in (*args.models, *RIVALS):
                continue
            runs = []
            for seed in args.seeds if random else splits:
                task = load(name, seed, args)
                prediction, seconds = timed(lambda m=make, t=task, s=seed: m(t, s, args.draws), kept(args, name, label, seed))
                if label in RIVALS:
                    rivals[label, seed] = prediction
                same_rows = {label: rivals.get((label, seed if name in TABLES else splits[0])) for label in RIVALS}
                found = {**scores(task.scored, prediction), "against": against(task, prediction, same_rows)}
                runs.append({"seed": seed, **found, "seconds": round(seconds, 1)})
                print(f"{name:10s} {label:34s} seed {seed}: {line(runs[-1])}", flush=True)
            if runs and (not args.models or label in args.models):
                save(file, name, label, runs, args)


def kept(args: Any, name: str, label: str, seed: int) -> Path | None:
    """Where a rival's prediction of these rows is; None for the models."""
    if args.kept is None or label not in RIVALS:
        return None
    rows = "test" if args.test else "gap" if args.gap else "validation"
    file: Path = args.kept / f"{name}_{rows}_{seed}_{label.replace(' ', '_')}{'_quick' * args.quick}.pt"
    return file


def timed(make: Callable[[], Prediction], file: Path | None) -> tuple[Prediction, float]:
    """A prediction and its seconds, from the file if it has them."""
    if file is not None and file.exists():
        values, seconds = torch.load(file)
        return Prediction(*values), seconds
    started = time.perf_counter()
    prediction = make()
    seconds = time.perf_counter() - started
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save((tuple(prediction), seconds), file)
    return prediction, seconds


def save(file: Any, name: str, label: str, runs: list[dict[str, Any]], args: Any) -> None:
    report = read(file)  # again: another data set may be running beside this one
    entry = report.setdefault(name, {"kind": "comparison", "models": {}})
    entry["models"][label] = {"runs": runs, **_summary(runs)}
    entry["about"] = about(args) | {"draws": args.draws, "steps": args.steps, "rows": "test" if args.test else "validation"}
    write(file, report)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = {k: np.array([r[k] for r in runs], dtype=float) for k, v in runs[0].items() if k not in ("seed", "against")}
    return {
        "mean": {k: np.round(v.mean(axis=0), 5).tolist() for k, v in values.items()},
        "spread": {k: np.round(np.ptp(v, axis=0), 5).tolist() for k, v in values.items()},
    }


# ------------------------------------------------------------------------------------------------------------ data


def load(name: str, seed: int, args: Any) -> Task:
    """The rows of training and of scoring; a log is split by time, the same for every seed, a table at random by the seed."""
    grouped = name not in TABLES
    if name == "kuairand" and not args.test:
        train, scored = kuairand(**(VALIDATION_GAP if args.gap else VALIDATION_DAY))
    else:
        loaders: dict[str, Callable[[], tuple[Split, Split]]] = {
            "kuairand": kuairand,
            "cdnow": lambda: cdnow(split=seed),
        }
        train, scored = loaders[name]() if name in loaders else ordinal(name, split=seed)
        if not args.test:
            N = len(train["y"])
            order = torch.arange(N) if grouped else torch.randperm(N, generator=torch.Generator().manual_seed(seed))
            train, scored = held_out(train, order)
    if args.quick:
        train, scored = ({k: v[::8] for k, v in part.items()} for part in (train, scored))
    return Task(train, scored, 0.01 if name == "cdnow" else 0.001 if name == "kuairand" else 1.0, grouped, args.steps)


def sizes(task: Task) -> tuple[int, int, int]:
    ids = n_ids(task.train, task.scored) if task.grouped else (0, 0)
    return (*ids, task.train["dense"].shape[1])


def with_ids(task: Task) -> Task:
    """A table as a log of one user and one item without histories, which is all that FlowTime reads."""

    def part(rows: Split) -> Split:
        N = len(rows["y"])
        zero, none = torch.zeros(N, dtype=torch.int64), torch.zeros(N)
        filler = torch.full((N, 20), float("nan"))
        return rows | {"user": zero, "item": zero, "has_user": none, "has_item": none, "q_user": filler, "q_item": filler}

    return task if task.grouped else task._replace(train=part(task.train), scored=part(task.scored), grouped=True)


# ---------------------------------------------------------------------------------------------------------- models


def trained(make: Callable[[], Any], task: Task, seed: int) -> Any:
    torch.manual_seed(seed)
    model, N = make(), len(task.train["y"])
    batch = 1024 if N > 20_000 else 256
    fit(model, task.train, steps=task.steps, batch_size=batch, seed=seed, progress=sys.stderr.isatty())
    return model


def with_bins(task: Task) -> Task:
    """Its dense features with piecewise linear encodings, which are the networks' alone: a tree splits where it likes."""
    train, scored = piecewise_linear.with_bins(task.train, task.scored)
    return task._replace(train=train, scored=scored)


def generative(model: Any, task: Task, n: int, *, mirrored: bool) -> Prediction:
    x = {k: v for k, v in task.scored.items() if k != "y"}
    draws = model.sample(x, n, row_ids=x["row"])
    point = median_of(draws) if mirrored else model.predict(x, n, row_ids=x["row"])  # the same, but GR's weighs its draws
    return Prediction(point.double(), draws.double(), mirrored=mirrored)


def median_of(draws: Tensor) -> Tensor:
    return torch.from_numpy(quantiles_of_draws(draws.numpy(), (0.5,)))[:, 0]


def flowtime(task: Task, seed: int, n: int) -> Prediction:
    task = with_ids(with_bins(task))
    return generative(trained(lambda: FlowTime(*sizes(task)), task, seed), task, n, mirrored=True)


def diffor(task: Task, seed: int, n: int) -> Prediction:
    task = with_bins(task)
    return generative(trained(lambda: DiffoR(*sizes(task)), task, seed), task, n, mirrored=True)


def diffor_last_step(task: Task, seed: int, n: int) -> Prediction:
    task = with_bins(task)
    return generative(trained(lambda: DiffoR(*sizes(task), **DiffoR.last_step()), task, seed), task, n, mirrored=True)


def gr(task: Task, seed: int, n: int) -> Prediction:
    task = with_bins(task)
    make = lambda: GenerativeRegression(*sizes(task), unit=task.unit, **GenerativeRegression.likelihood())  # noqa: E731
    return generative(trained(make, task, seed), task, n, mirrored=False)


def gr_paper(task: Task, seed: int, n: int) -> Prediction:
    return generative(trained(lambda: GenerativeRegression(*sizes(task), unit=task.unit), task, seed), task, n, mirrored=False)


def flowtime_paper(task: Task, seed: int, n: int) -> Prediction:
    task = with_ids(task)
    make = lambda: FlowTime(*sizes(task), encoder="transformer", **FlowTime.paper_loss())  # noqa: E731
    return generative(trained(make, task, seed), task, n, mirrored=True)


def quantile_network(task: Task, seed: int, n: int) -> Prediction:
    task = with_bins(task)
    model = trained(lambda: QuantileRegression(*sizes(task)), task, seed)
    x = {k: v for k, v in task.scored.items() if k != "y"}
    q = model.quantiles(x, [0.5, *POINTS]).double()
    return Prediction(q[:, 0], q[:, 1:], fair=False)


def median(task: Task, seed: int, n: int) -> Prediction:
    y = task.train["y"].double()
    q = torch.from_numpy(np.quantile(y.numpy(), POINTS)).expand(len(task.scored["y"]), -1)
    return Prediction(q[:, len(POINTS) // 2], q, fair=False)


def boosting(task: Task, seed: int, n: int) -> Prediction:
    """Of the median of ``log1p(y)``, on all that the networks see, ids apart."""
    return Prediction(_boosted(task, loss="absolute_error", max_iter=300, random_state=0), None)


def boosted_quantiles(task: Task, seed: int, n: int) -> Prediction:
    found = torch.stack([_boosted(task, loss="quantile", quantile=level, max_iter=150, random_state=0) for level in LEVELS], dim=1)
    q = found.sort(dim=1).values.numpy()
    draws = np.stack([np.interp(POINTS, LEVELS, row) for row in q])
    return Prediction(torch.from_numpy(q[:, len(LEVELS) // 2]), torch.from_numpy(draws), fair=False)


def _boosted(task: Task, **options: Any) -> Tensor:
    from sklearn.ensemble import HistGradientBoostingRegressor

    train, scored = (numbers(rows, grouped=task.grouped) for rows in (task.train, task.scored))
    model = HistGradientBoostingRegressor(**options).fit(train, np.log1p(task.train["y"].numpy()))
    return torch.from_numpy(np.expm1(model.predict(scored))).clamp_min(0)


MODELS: dict[str, tuple[Maker, bool]] = {  # and whether a seed changes them
    "gradient boosting": (boosting, False),
    "gradient boosting, quantiles": (boosted_quantiles, False),
    "training quantiles": (median, False),
    "quantile network": (quantile_network, True),
    "FlowTime": (flowtime, True),
    "DiffoR": (diffor, True),
    "DiffoR, last step": (diffor_last_step, True),
    "GR, likelihood": (gr, True),
    "FlowTime, the paper's": (flowtime_paper, True),
    "GR, the paper's": (gr_paper, True),
}
RIVALS = ("gradient boosting", "gradient boosting, quantiles")


# ---------------------------------------------------------------------------------------------------------- scores


def scores(rows: Split, p: Prediction) -> dict[str, Any]:
    y = rows["y"].double()
    out: dict[str, Any] = {"mae": float(ops.mae(y, p.point)), "xauc": float(ops.xauc(y, p.point, ties="half").value)}
    if p.draws is None:
        return out
    ends = torch.from_numpy(quantiles_of_draws(p.draws.numpy(), (0.1, 0.9)))
    holds, width = ops.coverage(ends[:, 0], ends[:, 1], y)
    return {
        **out,
        "crps": float(crps(p, y).mean()),
        "interval80_holds": float(holds),
        "interval80_width": float(width),
        "pit": pit_deciles(p.draws, y),
    }


def crps(p: Prediction, y: Tensor) -> Tensor:
    assert p.draws is not None
    draws = p.draws[:, ::2] if p.mirrored else p.draws  # one of each pair: the fair score takes independent draws
    return ops.crps(draws, y, fair=p.fair)


def pit_deciles(draws: Tensor, y: Tensor) -> list[float]:
    """Density of the truths' ranks among the draws in ten equal parts, 1 everywhere if calibrated; ties are broken at random."""
    low, high = (draws < y[:, None]).sum(dim=1), (draws <= y[:, None]).sum(dim=1)
    u = torch.rand(len(y), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = (low + u * (high - low + 1)) / (draws.shape[1] + 1)
    return np.round(np.histogram(ranks.numpy(), 10, (0, 1))[0] * 10 / len(y), 4).tolist()


def against(task: Task, p: Prediction, rivals: dict[str, Prediction | None]) -> dict[str, list[float]]:
    """Differences from the rivals, with 95 % bootstrap intervals that resample users (rows, where there are none)."""
    y = task.scored["y"].double()
    unit = task.scored["user"].numpy() if task.grouped else np.arange(len(y))
    group = np.unique(unit, return_inverse=True)[1]
    units, random = group.max() + 1, np.random.default_rng(0)
    weights = [np.bincount(random.integers(units, size=units), minlength=units)[group] for _ in range(RESAMPLES)]
    found, (point, whole) = {}, (rivals[label] for label in RIVALS)
    if point is not None and point is not p:
        found["mae"] = _interval(((p.point - y).abs() - (point.point - y).abs()).numpy(), weights)
        found["xauc"] = _xauc_interval(y, p.point, point.point, weights[:50])
    if whole is not None and whole is not p and p.draws is not None:
        found["crps"] = _interval((crps(p, y) - crps(whole, y)).numpy(), weights)
    return found


def _interval(difference: np.ndarray, weights: list[np.ndarray]) -> list[float]:
    resampled = [float((difference * w).sum() / w.sum()) for w in weights]
    return [float(difference.mean()), *np.quantile(resampled, [0.025, 0.975]).tolist()]


def _xauc_interval(y: Tensor, p: Tensor, other: Tensor, weights: list[np.ndarray]) -> list[float]:
    def value(weight: np.ndarray | None) -> float:
        both = [ops.xauc(y, x, ties="half", weight=None if weight is None else weight.astype(np.float64)).value for x in (p, other)]
        return float(both[0] - both[1])

    return [value(None), *np.quantile([value(w) for w in weights], [0.025, 0.975]).tolist()]


def line(run: dict[str, Any]) -> str:
    text = f"MAE {run['mae']:.4f} XAUC {run['xauc']:.4f}"
    if "crps" in run:
        text += f" CRPS {run['crps']:.4f} 80 % holds {run['interval80_holds']:.3f} PIT {min(run['pit']):.2f}-{max(run['pit']):.2f}"
    against = {k: f"{v[0]:+.4f} [{v[1]:+.4f}, {v[2]:+.4f}]" for k, v in run["against"].items()}
    return f"{text} {against} {run['seconds']:.0f} s"


if __name__ == "__main__":
    main()
