"""What the quality runs share: arguments, predictors, scores, and the JSON that bench/table.py reads."""

import argparse
import datetime
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ordkernels
from ordkernels import _info, ops

RESULTS = Path(__file__).parent / "results"
Split = dict[str, Tensor]
Predictor = Callable[[Split], tuple[Tensor, Tensor | None]]  # rows -> (prediction [B], draws [B, n] or None)


def parser(doc: str | None, *, seeds: Sequence[int], draws: int, draws_help: str) -> argparse.ArgumentParser:
    """The arguments that every run takes."""
    out = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--models", nargs="+", action="extend", metavar="NAME", help="only these rows of the table")
    out.add_argument("--ablations", action="store_true", help="the paper's ablations in place of the main table")
    out.add_argument("--quick", action="store_true", help="one seed and little data: a check that all of it runs")
    out.add_argument("--seeds", type=int, nargs="+", default=list(seeds), metavar="SEED", help=f"default {' '.join(map(str, seeds))}")
    out.add_argument("--draws", type=int, default=draws, help=f"{draws_help} (default {draws})")
    out.add_argument("--threads", type=int, default=1, help="default 1")
    out.add_argument("--json", type=Path, metavar="FILE", help="where to write instead of bench/results")
    return out


def results_file(args: argparse.Namespace, system: str, *, validation: bool = False) -> Path:
    return args.json or RESULTS / f"quality_{system}{'_ablations' if args.ablations else ''}{'_validation' if validation else ''}.json"


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def write(file: Path, report: dict[str, Any]) -> None:
    """Whole or not at all: a long run may be cut short."""
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(file)


def about(args: argparse.Namespace) -> dict[str, Any]:
    """How this run was started, where and when."""
    return {
        "command": shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "device": f"{_info.cpu_name()}, {args.threads} thread(s)",
        "versions": {
            "ordkernels": ordkernels.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


# Of KuaiRand's loaders: the last training day is scored, the days before it are trained on.
VALIDATION_DAY: dict[str, Any] = {"train_dates": (20220425, 20220429), "test_dates": (20220430, 20220430)}
# What was trained on is a day older still, as the test week is older than what comes before it.
VALIDATION_GAP: dict[str, Any] = {"train_dates": (20220425, 20220427), "test_dates": (20220429, 20220430)}


def held_out(train: Split, order: Tensor) -> tuple[Split, Split]:
    """All rows but the last fifth in this order, and that fifth."""
    kept, held = order[: len(order) - len(order) // 5], order[len(order) - len(order) // 5 :]
    return {k: v[kept] for k, v in train.items()}, {k: v[held] for k, v in train.items()}


def numbers(rows: Split, *, grouped: bool = True) -> np.ndarray:
    """What the networks see of the rows, ids apart, as boosting reads it: ``[N, columns]``."""
    parts = [rows["dense"]]
    if grouped:
        parts += [rows["q_user"], rows["q_item"], torch.stack((rows["has_user"], rows["has_item"]), dim=1)]
    return torch.cat(parts, dim=1).numpy()


def every(split: Split, n: int) -> Split:
    """Every n-th row."""
    return {name: v[::n] for name, v in split.items()}


# ---------------------------------------------------------------------------------------------------- predictors


def generative(model: Any, n: int) -> Predictor:
    def predict(rows: Split) -> tuple[Tensor, Tensor | None]:
        draws = model.sample(inputs(rows), n, row_ids=rows["row"])
        return draws.double().quantile(0.5, dim=1).float(), draws

    return predict


def point(predict: Callable[[Split], Tensor]) -> Predictor:
    return lambda rows: (predict(inputs(rows)), None)


def inputs(rows: Split) -> Split:
    return {name: v for name, v in rows.items() if name != "y"}


# ---------------------------------------------------------------------------------------------------- scores


class WatchTimeScores:
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


def table_scores(test: Split, predict: Predictor) -> dict[str, float]:
    y = test["y"]
    p, draws = predict(test)
    out = {
        "mae": float(ops.mae(y, p)),
        "rmse": float(ops.rmse(y, p)),
        "cs1": float(ops.cumulative_score(y, p, 1.0)),
        "xauc": float(ops.xauc(y, p, ties="half").value),
        "srcc": float(ops.srcc(y, p)),
    }
    if draws is None:
        return {**out, "crps": out["mae"]}  # of a certain prediction, CRPS is the absolute error
    low, high = draws.double().quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
    crps = ops.crps(draws[:, ::2], y, fair=True)  # one of each mirrored pair
    return {**out, "crps": float(crps.mean()), "interval80_holds": float(ops.coverage(low, high, y.double())[0])}


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    keys = [k for k in runs[0] if k != "seed"]
    values = {k: np.array([r[k] for r in runs]) for k in keys}
    return {
        "mean": {k: round(float(v.mean()), 5) for k, v in values.items()},
        "spread": {k: round(float(v.max() - v.min()), 5) for k, v in values.items()},  # largest minus smallest
    }
