"""`python -m ordkernels report OUT --truth y`: an HTML page on predictions, or with ``--json`` their scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import replace
from .._tables.blocks import READABLE, Block, Table, as_array, length
from ..scores import files
from ._options import described

__all__ = ["add_parser", "main"]

_PIT_SAMPLES = 100  # of a row, at most


def add_parser(commands: Any) -> None:
    parser = described(
        commands, "report", "OUT --truth COLUMN [options]",
        "predictions against the truth: an HTML page, or scores as JSON",
        "How good predictions are: scores, calibration, probability integral transform, errors by interval of the target and by\n"
        "group. The page is one HTML file, which loads nothing. Quantiles are columns named by their levels, as q0.1 and q0.9.",
        "report june-predictions.csv --truth seconds\n"
        "report predictions/ --truth seconds --table june/ --group user\n"
        "report june-predictions.csv --truth seconds --json",
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="OUT", help=f"what `score` has written, or other predictions: {READABLE}")
    files.add_columns(parser, pred="prediction")
    parser.add_argument("--table", type=Path, metavar="TABLE", help="with the truth and the group, if OUT lacks them")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="where the page goes (default: OUT's name with .html)")
    parser.add_argument("--json", action="store_true", help="no page, but scores as JSON, as `score-file --json` prints them")
    files.add_options(parser.add_argument_group("with --json"))


def main(args: argparse.Namespace) -> int:
    if args.json:
        if args.table or args.html:
            raise ValueError(f"--{'table' if args.table else 'html'}: expected without --json, which scores the columns of OUT itself")
        return files.main(args)
    from ._page import page
    from ._predictions import shown

    path = args.html or args.file.with_name(args.file.name.split(".")[0] + ".html")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise ValueError(f"--html: expected a file in a folder that exists, got {path}")
    p = _read(args)
    replace(path, page(f"Predictions of {args.truth} in {args.file.name}", p).encode())
    found = "  ".join(f"{name} {shown(name, value)}" for name, value in p.scores().items())
    print(f"{len(p):,} rows  {found}\n{path}: the page")
    return 0


def _read(args: argparse.Namespace) -> Any:
    from ._predictions import Predictions

    predictions = Table(args.file)
    levels, samples = _levels(predictions.names), [name for name in predictions.names if name.startswith("sample_")][:_PIT_SAMPLES]
    elsewhere = [name for name in (args.truth, args.group) if name is not None and name not in predictions.names]
    predictions.require("pred", [args.pred])
    table = _table(args, predictions, elsewhere)
    keys = [name for name in predictions.names if name == "row" or (table is not None and name in table.names)] if elsewhere else []
    own = {args.pred, args.truth, args.group, *levels.values(), *samples, *keys[:1]} & set(predictions.names)
    columns = predictions.read(own)
    if table is not None:
        columns |= _aligned(columns, table, elsewhere, keys[:1], args.file)
    numbers = {name: _numbers(name, columns[name]) for name in (args.truth, args.pred, *levels.values())}
    return Predictions(
        numbers[args.truth], numbers[args.pred], {level: numbers[name] for level, name in levels.items()},
        np.stack([_numbers(name, columns[name]) for name in samples], axis=1) if len(samples) >= 20 else None,
        None if args.group is None else as_array(columns[args.group]),
    )  # fmt: skip


def _table(args: argparse.Namespace, predictions: Table, elsewhere: list[str]) -> Table | None:
    """Where the columns are that the predictions lack: of a folder that `score` wrote, the table that it scored."""
    if not elsewhere:
        return None
    path = args.table
    if path is None and (args.file / "_manifest.json").is_file():
        from ..scaling.parts import manifest

        path = Path(manifest(args.file)["table"])
    table = predictions if path is None else Table(path)
    for name in elsewhere:
        table.require("truth" if name == args.truth else "group", [name])
    return table


def _aligned(columns: Block, table: Table, names: list[str], keys: list[str], path: Path) -> Block:
    """Columns of the table for the rows of the predictions: by their places in it, or a column of ids that both have."""
    ids = as_array(columns[keys[0]]) if keys else None
    by_id = ids is not None and keys[0] in table.names
    found = table.read({*names, *(keys if by_id else [])})
    N, n = length(columns), length(found)
    if ids is None:
        if n != N:
            raise ValueError(f"--table: expected the {N:,} rows of {path}, got {n:,}")
        return {name: found[name] for name in names}
    places = ids
    if by_id:
        known = as_array(found[keys[0]])
        order = np.argsort(known, kind="stable")
        if (known[order][1:] == known[order][:-1]).any() and not np.array_equal(ids, known):
            raise ValueError(f"--table: expected ids that are unique in column {keys[0]!r}, or rows in the order of {path}")
        places = order[np.minimum(np.searchsorted(known, ids, sorter=order), n - 1)]
        if np.array_equal(ids, known):
            places = np.arange(n)
        elif (known[places] != ids).any():
            row = int((known[places] != ids).argmax())
            raise ValueError(f"--table: expected a row with {keys[0]} {ids[row]}, as in row {row} of {path}, got none")
    elif len(ids) and not 0 <= ids.min() <= ids.max() < n:
        raise ValueError(f"--table: expected more than {ids.max():,} rows, as {path} is of, got {n:,}")
    return {name: as_array(found[name])[places] for name in names}


def _numbers(name: str, column: Any) -> NDArray[np.float64]:
    """Finite ones; ValueError or TypeError with the first row that is none."""
    values = as_array(column)
    if values.dtype.kind not in "iufb" or values.ndim != 1:
        raise TypeError(f"column {name!r}: expected numbers, got {'text' if values.dtype.kind == 'U' else values.dtype}")
    found = values.astype(np.float64)
    bad = ~np.isfinite(found)
    if bad.any():
        row = int(bad.argmax())
        what = "a missing value" if np.isnan(found[row]) else f"{found[row]}"
        raise ValueError(f"column {name!r}: expected finite numbers, got {what} in row {row} ({int(bad.sum()):,} of {len(bad):,} rows)")
    return found


def _levels(names: list[str]) -> dict[float, str]:
    """Columns like ``q0.1`` by their levels."""
    found = {}
    for name in names:
        try:
            level = float(name[1:]) if name.startswith("q") else 0.0
        except ValueError:
            continue
        if 0 < level < 1:
            found[level] = name
    return dict(sorted(found.items()))
