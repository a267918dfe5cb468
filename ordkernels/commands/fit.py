"""`python -m ordkernels fit TABLE --target y --out DIR`: train a model on a table, compare it on held-out rows, and save it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import replace
from .._tables.blocks import READABLE, Block, Table, length
from ._options import described, number
from ._processes import process_group

__all__ = ["add_parser", "main"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

MODELS = {
    "flowtime": "FlowTimeRegressor", "diffor": "DiffoRRegressor", "gr": "GRRegressor", "ifusion": "IFusionRegressor",
    "value": "ValueRegressor", "cread": "CREADRegressor", "tpm": "TPMRegressor", "wlr": "WLRRegressor", "d2q": "D2QRegressor",
    "egmn": "EGMNRegressor",
}  # fmt: skip
_ROLES = ("user", "item", "time", "row_id", "capacity")
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)  # that models and gradient boosting are compared at
_DRAWS = 128


def add_parser(commands: Any) -> None:
    parser = described(
        commands, "fit", "TABLE --target COLUMN --out DIR [options]",
        "train a model on a table, compare it on held-out rows, save it",
        "Trains a model of a number of at least 0, with its whole distribution, on the columns of a table: numbers, text, booleans,\n"
        "times, missing values. Prints how good it is on held-out rows, beside the training median and gradient boosting; writes\n"
        "the model to DIR, and the comparison with plots to DIR/validation.html. Several processes train together by DDP: with\n"
        "--engine ray, or as `torchrun --nproc-per-node 4 -m ordkernels fit ...`. Each holds the table.",
        "fit may.parquet --target seconds --user user --item video --time when --out model/\n"
        "fit abalone.csv --target rings --model gr --epochs 50 --out model/\n"
        "fit may/ --target seconds --out model/ --engine ray --workers 4",
    )  # fmt: skip
    parser.add_argument("table", type=Path, metavar="TABLE", help=READABLE)
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the number to predict")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the model goes, a new or empty folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the model that is in DIR")

    roles = parser.add_argument_group("columns with a meaning of their own; all others are features")
    for role, what in (
        ("user", "ids of users"), ("item", "ids of items"), ("time", "when: the latest rows are held out"),
        ("row-id", "whole numbers that a row's draws depend on"), ("capacity", "the most that the target can be"),
    ):  # fmt: skip
        roles.add_argument(f"--{role}", metavar="COLUMN", help=what)
    roles.add_argument("--ignore", nargs="+", default=[], metavar="COLUMN", help="neither")

    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=MODELS, default="flowtime", help=f"{', '.join(MODELS)} (default flowtime)", metavar="MODEL")
    model.add_argument(
        "--history", action=argparse.BooleanOptionalAction, help="quantiles of each user's and item's earlier targets (default: if --time)"
    )
    model.add_argument("--epochs", type=number(int, least=1), default=40, metavar="N", help="at most; stops early (default 40)")
    model.add_argument("--seed", type=number(int, least=0), default=0, metavar="N", help="same seed, same model (default 0)")

    how = parser.add_argument_group("how")
    how.add_argument("--engine", choices=("local", "ray"), default="local", help="local (default; torchrun's processes), or Ray Train's")
    how.add_argument("--workers", type=number(int, least=1), metavar="N", help="of Ray (default: what the cluster has)")

    valid = parser.add_argument_group("comparison")
    share = number(float, above=0, below=1)
    valid.add_argument("--validation", type=share, default=0.2, metavar="SHARE", help="of the rows, held out (default 0.2)")
    valid.add_argument("--refit", action="store_true", help="save a model that is trained again on all rows")


def main(args: argparse.Namespace) -> int:
    _check_out(args.out, args.overwrite)
    if args.engine == "ray":
        from ..scaling import ray_training

        args.table, args.out = args.table.absolute(), args.out.absolute()
        print(ray_training.run(_fit, args, args.out.parent, args.workers))
        return 0
    if args.workers is not None:
        raise ValueError("--workers: expected with --engine ray, got local, whose processes torchrun starts")
    with process_group():
        said = _fit(args)
    if said:
        print(said, flush=True)
    return 0


def _fit(args: argparse.Namespace) -> str:
    """Trains, in all processes of a group together; compares and writes in the first. What to print: nothing in the others."""
    from ..models import _processes

    columns, y, train, valid = _data(args)
    estimator = _estimator(args).fit(_rows(columns, train), y[train])
    saved = _estimator(args).fit(columns, y) if args.refit else estimator
    if _processes.rank():
        return ""
    held_out = _rows(columns, valid)
    contenders = {args.model: _predictions(estimator, held_out, y[valid])}
    contenders |= _baselines(estimator, _rows(columns, train), y[train], held_out, y[valid])
    _save(args, saved, contenders)
    return (
        f"{args.table}: {len(train):,} rows to train on, {len(valid):,} {'later' if args.time else 'random'} ones to compare\n\n"
        f"{_text(contenders)}\n\n"
        f"{args.out}: the model{', trained again on all rows' if args.refit else ''}; {args.out / 'validation.html'}: the comparison"
    )


def _save(args: argparse.Namespace, estimator: Any, contenders: dict[str, Any]) -> None:
    from ._page import page

    estimator.target_ = args.target
    estimator.save_pretrained(args.out)
    html = page(f"{args.model} on held-out rows of {args.table.name}: {args.target}", contenders[args.model], contenders)
    scores = {name: p.scores() for name, p in contenders.items()}
    for name, text in (("validation.html", html), ("validation.json", json.dumps(scores, indent=1) + "\n")):
        replace(args.out / name, text.encode())


def _check_out(out: Path, overwrite: bool) -> None:
    """Before any work."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a folder, or a path where one can be made, got the file {out}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out: expected a place in a folder that exists, got {out}")
    if out.is_dir() and any(out.iterdir()) and not (overwrite and (out / "config.json").is_file()):
        hint = " (--overwrite replaces the model in it)" if (out / "config.json").is_file() else ""
        raise ValueError(f"--out: expected a new or empty folder, got {out} with files in it{hint}")


def _data(args: argparse.Namespace) -> tuple[Block, Floats, Rows, Rows]:
    """The columns without the target, the target, and the rows to train and to compare on: the latest where there is a time."""
    from ..estimators._columns import table_columns, target_column

    table = Table(args.table)
    roles = {role.replace("_", "-"): getattr(args, role) for role in _ROLES}
    for option, names in {"target": [args.target], **{role: [name] for role, name in roles.items() if name}, "ignore": args.ignore}.items():
        table.require(option, names)
        if option != "target" and args.target in names:
            raise ValueError(f"--{option}: expected another column than the target, got {args.target!r}")
    table.columns()
    columns = table.read(set(table.names) - set(args.ignore))
    N = length(columns)
    y = target_column(columns.pop(args.target), N, f"column {args.target!r}")
    if not columns:
        raise ValueError(f"{args.table}: expected at least one column beside the target, got none")
    held = max(1, int(N * args.validation))
    if N - held < 2:
        raise ValueError(f"{args.table}: expected at least 3 rows, 2 of them to train on, got {N}")
    if args.time is None:
        order = np.random.default_rng(args.seed).permutation(N)
    else:
        order = np.argsort(table_columns({args.time: columns[args.time]})[args.time].values, kind="stable")
    return columns, y, np.sort(order[: N - held]), np.sort(order[N - held :])


def _rows(columns: Block, rows: Rows) -> Block:
    return {name: values[rows] if isinstance(values, np.ndarray) else values.take(rows) for name, values in columns.items()}


def _estimator(args: argparse.Namespace) -> Any:
    from .. import estimators

    history = args.history
    if history is None:
        history = args.time is not None and (args.user is not None or args.item is not None)
    roles = {role: getattr(args, role) for role in _ROLES}
    cls = getattr(estimators, MODELS[args.model])
    return cls(**roles, history=history, epochs=args.epochs, random_state=args.seed, verbose=sys.stderr.isatty())


def _predictions(estimator: Any, X: Block, y: Floats) -> Any:
    from ..estimators import GenerativeRegressor
    from ._predictions import Predictions

    if not isinstance(estimator, GenerativeRegressor):
        return Predictions(y, estimator.predict(X))
    draws = estimator.predict_proba(X, n=_DRAWS)
    quantiles = dict(zip(LEVELS, draws.ppf(LEVELS).T, strict=True))
    return Predictions(y, quantiles[0.5], quantiles, draws.draws)


def _baselines(estimator: Any, train: Block, y: Floats, held_out: Block, y_held_out: Floats) -> dict[str, Any]:
    """The training targets' own distribution for every row, and gradient boosting of each quantile on the features of the estimator."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    from ._predictions import Predictions

    x, x_held_out = (_features(estimator, part) for part in (train, held_out))
    marginal = {level: np.full(len(y_held_out), np.quantile(y, level)) for level in LEVELS}
    boosted = np.stack(
        [
            HistGradientBoostingRegressor(loss="quantile", quantile=level, random_state=estimator.random_state)
            .fit(x, y)
            .predict(x_held_out)
            for level in LEVELS
        ]
    )
    quantiles = dict(zip(LEVELS, np.maximum(np.sort(boosted, axis=0), 0), strict=True))  # each is fitted by itself, and they may cross
    return {
        "median": Predictions(y_held_out, marginal[0.5], marginal),
        "gradient boosting": Predictions(y_held_out, quantiles[0.5], quantiles),
    }


def _features(estimator: Any, X: Block) -> Floats:
    """What the model reads, without ids. A training row's histories are of strictly earlier rows here too."""
    from ..estimators._columns import row_count, table_columns

    columns = table_columns(X)
    batch = estimator.features_.batch(columns, row_count(columns))
    names = [name for name in ("dense", "q_user", "q_item", "has_user", "has_item", "capacity") if name in batch]
    return np.concatenate([batch[name].numpy().reshape(len(batch["dense"]), -1) for name in names], axis=1).astype(np.float64)


def _text(contenders: dict[str, Any]) -> str:
    from ._predictions import shown

    found = {name: p.scores() for name, p in contenders.items()}
    columns = list(dict.fromkeys(column for scores in found.values() for column in scores))
    lines = [" " * 18 + "".join(f"{column:>12}" for column in columns)]
    for name, scores in found.items():
        lines.append(f"{name:<18}" + "".join(f"{shown(column, scores.get(column)):>12}" for column in columns))
    return "\n".join(lines)
