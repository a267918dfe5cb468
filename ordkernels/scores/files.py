"""Score the predictions in a file: `python -m ordkernels score-file FILE --truth y --pred p`."""

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._tables import Column, common_dtype, read
from .grid import GridXAUC
from .ranking import auc, srcc, xauc
from .streaming import Errors, GroupedJSD

__all__ = ["add_arguments", "add_columns", "add_options", "main", "score_file", "text"]


def score_file(
    path: str | Path,
    truth: str,
    pred: str,
    *,
    group: str | None = None,
    weight: str | None = None,
    ties: str = "half",
    binned: int | None = None,
    thetas: Sequence[float] = (),
    edges: Sequence[float] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Scores of two columns of a CSV (``.gz`` too), NPZ or Parquet file, which is read in chunks.

    One pass gives MAE, RMSE, LCC, CS@theta, binned XAUC and the histogram divergence, in memory that does not grow with the rows
    (but with the groups). Exact XAUC and SRCC, and AUC if the labels are 0 and 1, need the columns in memory: a second pass,
    before which `say` gets a line with the memory that it takes.

    Args:
        path: the file.
        truth, pred, group, weight: names of columns. With groups (integers) XAUC is also averaged over them; weights are those
            of `ordkernels.scores.xauc`, and do not change the other scores.
        ties: as for `ordkernels.scores.xauc`.
        binned: bins a side of a `GridXAUC` in place of the exact scores that need memory.
        thetas: of cumulative scores.
        edges: of the histograms, with groups.
        say: called with a line of progress.

    Returns:
        dict of ``file``, ``rows``, ``scores`` (name -> number) and ``left_out`` (name -> why).

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: as `ordkernels._tables.read`; NaN or infinities (the first,
            and how many); no rows; weights below 0; too little memory for exact XAUC.
    """
    path = Path(path)
    if edges is not None and group is None:
        raise ValueError("--edges: expected together with --group, got no groups")
    if binned is not None and (weight is not None or ties != "half"):
        raise ValueError(f"--{'ties' if weight is None else 'weight'}: expected exact XAUC, got --binned-xauc")
    named = {"truth": truth, "pred": pred, "group": group, "weight": weight}
    columns = [Column(name, "integer" if role == "group" else "number", f"--{role}") for role, name in named.items() if name is not None]
    errors, grid = Errors(thetas), None if binned is None else GridXAUC(binned)
    histograms = None if edges is None else GroupedJSD(edges, base=2)
    rows, binary, dtypes = _one_pass(path, columns, errors, grid, histograms)
    found: dict[str, float] = dict(errors.result())
    left_out = {}
    if histograms is not None:
        found["jsd"] = histograms.result()
    if grid is not None:
        value = grid.result()
        found |= {"xauc_binned": value.value, "xauc_bound": value.bound}
        left_out = dict.fromkeys(("srcc", "xauc", *(["xauc_by_group"] if group else [])), "needs all rows in memory")
    else:
        found |= _scores_in_memory(_load(path, columns, rows, dtypes, say), ties, binary)
    return {"file": str(path), "rows": rows, "scores": found, "left_out": left_out}


def _one_pass(
    path: Path, columns: list[Column], errors: Errors, grid: GridXAUC | None, histograms: GroupedJSD | None
) -> tuple[int, bool, list[np.dtype[Any]]]:
    """Update the accumulators; returns how many rows there are, whether all labels are 0 or 1, and the columns' dtypes."""
    checks = [_Check(column.name) for column in columns]
    rows, binary, dtypes = 0, True, [np.dtype(np.bool_)] * len(columns)
    for chunk in read(path, columns):
        for check, values in zip(checks, chunk, strict=True):
            check(values)
        rows += len(chunk[0])
        if any(check.bad for check in checks):
            continue  # to count all bad rows, without scores
        y, p = chunk[:2]
        binary = binary and bool(((y == 0) | (y == 1)).all())
        dtypes = [common_dtype(a, b.dtype) for a, b in zip(dtypes, chunk, strict=True)]
        errors.update(y, p)
        if grid is not None:
            grid.update(y, p)
        if histograms is not None:
            histograms.update(y, p, chunk[2])
    if not rows:
        raise ValueError(f"{path}: expected at least one row, got none")
    for check in checks:
        check.report(rows)
    return rows, binary, dtypes


def _scores_in_memory(columns: dict[str, NDArray[Any]], ties: Any, binary: bool) -> dict[str, float]:
    y, p, weight, group = columns["truth"], columns["pred"], columns.get("weight"), columns.get("group")
    found = {"srcc": srcc(y, p), "xauc": xauc(y, p, ties=ties, weight=weight).value}
    if group is not None:
        found["xauc_by_group"] = xauc(y, p, ties=ties, weight=weight, group=group).value
    if binary and y.min() != y.max():
        found["auc"] = auc(y, p, weight=weight)
    return found


class _Check:
    """The NaN and the infinite values of a column: how many, and where the first is."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, 0
        self.bad: dict[str, tuple[int, int, float]] = {}  # what was expected -> how many are not, the first's row and value

    def __call__(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            for kind, is_bad in (("no NaN", np.isnan(values)), ("finite numbers", np.isinf(values))):
                if is_bad.any():
                    i = int(is_bad.argmax())
                    count, row, value = self.bad.get(kind, (0, self.rows + i, float(values[i])))
                    self.bad[kind] = (count + int(is_bad.sum()), row, value)
        self.rows += len(values)

    def report(self, rows: int) -> None:
        for kind, (count, row, value) in self.bad.items():
            what = "" if math.isnan(value) else f"{value} among "
            raise ValueError(f"{self.name}: expected {kind}, got {what}{count} of {rows} rows, the first in row {row}")


def _load(path: Path, columns: list[Column], rows: int, dtypes: list[np.dtype[Any]], say: Callable[[str], None]) -> dict[str, NDArray[Any]]:
    """The columns by their roles, all rows of them."""
    roles = [column.argument.removeprefix("--") for column in columns]
    has_64_bits = any(d.itemsize > 4 for d in dtypes[:2])
    # the workspace that ordkernels.scores.xauc documents
    bytes_per_row = (48 if "weight" in roles else 32 if has_64_bits else 16) + 16 * ("group" in roles)
    need, available = rows * (sum(d.itemsize for d in dtypes) + bytes_per_row), _memory_available()
    line = f"exact XAUC of {rows:,} rows needs {_bytes(need)} of memory"
    line += f", {_bytes(available)} available" if available is not None else ""
    if available is not None and need > available:
        raise ValueError(f"{line}: --binned-xauc needs no more than a chunk of rows, and bounds its error")
    say(line)
    loaded = [np.empty(rows, d) for d in dtypes]
    begin = end = 0
    for chunk in read(path, columns):
        end = begin + len(chunk[0])
        if end > rows:
            break
        for column, values in zip(loaded, chunk, strict=True):
            column[begin:end] = values
        begin = end
    if begin != rows or end != rows:
        raise ValueError(f"{path}: expected {rows} rows, as in the first pass, got another number")
    return dict(zip(roles, loaded, strict=True))


def _memory_available() -> int | None:
    """Bytes that this process may still take, of the machine and of its control group; None without psutil."""
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        return None
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{x}").read_text()) for x in ("max", "current"))
    except (OSError, ValueError):  # no such file, or "max"
        return available
    return max(min(available, limit - used), 0)


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def text(found: dict[str, Any]) -> str:
    """A table to read."""
    lines = [f"{found['file']}: {found['rows']:,} rows"]
    lines += [f"  {name:<14} {value:.6g}" for name, value in found["scores"].items()]
    lines += [f"  {name:<14} left out: {why}" for name, why in found["left_out"].items()]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=".csv, .tsv (or these and .gz), .npz or .parquet (needs pyarrow)")
    add_columns(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_options(parser)


def add_columns(parser: Any, pred: str | None = None) -> None:
    """The options that name columns; that of the predictions has the name `pred` by default, if one is given."""
    default = "" if pred is None else f" (default {pred})"
    parser.add_argument("--truth", required=True, metavar="COLUMN", help="the labels")
    parser.add_argument("--pred", required=pred is None, default=pred, metavar="COLUMN", help=f"the predictions{default}")
    parser.add_argument("--group", metavar="COLUMN", help="users, or other groups; of integers: XAUC averaged over those with a pair")


def add_options(parser: Any) -> None:
    """How scores are computed."""
    parser.add_argument("--weight", metavar="COLUMN", help="of rows: in XAUC and AUC a pair counts the product of its weights")
    parser.add_argument("--ties", choices=("half", "strict", "reference"), default="half", help="what a tied prediction counts in XAUC")
    parser.add_argument(
        "--binned-xauc", type=int, nargs="?", const=4096, metavar="BINS",
        help="XAUC from a BINS x BINS histogram (default 4096: 128 MiB) with its error bound, for more rows than fit into memory",
    )  # fmt: skip
    parser.add_argument("--theta", type=float, nargs="+", default=[], metavar="T", help="also CS@T: the share of rows within T")
    parser.add_argument(
        "--edges", type=float, nargs="+", metavar="E", help="with --group: divergence of histograms with these edges, in bits"
    )


def file_first(argv: list[str]) -> list[str]:
    """`argv` with FILE in front of the options: behind one that takes several numbers argparse would take FILE for one of them."""
    option = ""
    for i, word in enumerate(argv):
        if word.startswith("--"):
            option = word
        elif option and any(name.startswith(option) for name in ("--binned-xauc", "--edges", "--theta")):
            if not _is_number(word):
                return [word, *argv[:i], *argv[i + 1 :]]
        elif not option or "=" in option or "--json".startswith(option):
            return argv  # this is FILE
        else:
            option = "--json"  # after the one value of an option
    return argv


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def main(args: argparse.Namespace) -> int:
    """Run `score_file` on parsed arguments; returns 2 if the file or a column cannot be scored."""
    command = getattr(args, "command", "score-file")
    try:
        found = score_file(
            args.file, args.truth, args.pred, group=args.group, weight=args.weight, ties=args.ties, binned=args.binned_xauc,
            thetas=args.theta, edges=args.edges, say=lambda line: print(f"{command}: {line}", file=sys.stderr),
        )  # fmt: skip
    except (OSError, ImportError, MemoryError, TypeError, ValueError) as error:
        print(f"{command}:", *(str(error) or type(error).__name__).split("\n"), file=sys.stderr)  # on one line
        return 2
    if args.json:
        found["scores"] = {name: x if math.isfinite(x) else None for name, x in found["scores"].items()}
        print(json.dumps(found, indent=2))
    else:
        encoding = sys.stdout.encoding or "utf-8"  # paths may have characters that it lacks
        print(text(found).encode(encoding, "backslashreplace").decode(encoding))
    return 0
