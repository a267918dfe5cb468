"""`python -m ordkernels score DIR TABLE OUT`: a saved model's predictions for the rows of a table of any size."""

from __future__ import annotations

import argparse
import importlib
import shutil
from pathlib import Path
from typing import Any

from .._tables import written
from .._tables.blocks import READABLE
from ._options import described, number

__all__ = ["add_parser", "main"]

_ENGINES = {"local": "..scaling.local", "ray": "..scaling.ray_engine", "spark": "..scaling.spark_engine"}
_PART_ROWS, _PART_VALUES = 1 << 16, 1 << 22  # of a part file, at most: so that one fits memory with its samples too


def add_parser(commands: Any) -> None:
    parser = described(
        commands, "score", "DIR TABLE OUT [options]",
        "predictions of a saved model for the rows of a table of any size",
        "Predicts every row of a table with the model in DIR: a row id, the point prediction (the median), quantiles, samples.\n"
        "A row's prediction depends on the row, its id and the seed alone. Memory holds a block of rows, not the table. A run\n"
        "that was cut short goes on where it was, if it is started again.",
        "score model/ june.parquet june-predictions.csv\nscore model/ june/ predictions/ --quantiles 0.05 0.5 0.95 --samples 20",
    )  # fmt: skip
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder that `fit`, or save_pretrained() of a model, has written")
    parser.add_argument("table", type=Path, metavar="TABLE", help=READABLE)
    parser.add_argument("out", type=Path, metavar="OUT", help=f"{written.WRITABLE}; another name: a folder of part files")

    what = parser.add_argument_group("what is written of each row")
    level = number(float, above=0, below=1)
    what.add_argument("--quantiles", type=level, nargs="+", metavar="Q", help="levels, columns q0.1, ... (default 0.1 0.5 0.9)")
    what.add_argument("--samples", type=number(int, least=0), default=0, metavar="N", help="draws, columns sample_0, ... (default 0)")
    what.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="of TABLE; the target is kept if TABLE has it")
    what.add_argument("--row-id", metavar="COLUMN", help="of ids, for a saved model (one that `fit` wrote knows its own)")

    draws = parser.add_argument_group("draws")
    draws.add_argument("--draws", type=number(int, least=1), default=128, metavar="N", help="that quantiles are taken of (default 128)")
    draws.add_argument("--seed", type=number(int, least=0), default=0, metavar="N", help="same seed, same predictions (default 0)")

    how = parser.add_argument_group("how")
    how.add_argument("--engine", choices=_ENGINES, default="local", help="local (default), or workers by Ray or Spark")
    how.add_argument("--workers", type=number(int, least=1), metavar="N", help="of Ray or Spark (default: what the cluster has)")
    how.add_argument(
        "--threads",
        type=number(int, least=1),
        metavar="N",
        help="that predict, of each worker (default: all cores, 1 of Ray's and Spark's)",
    )
    how.add_argument("--part-rows", type=number(int, least=1), metavar="N", help=f"of a part file (default {_PART_ROWS:,})")
    how.add_argument("--format", choices=("parquet", "csv", "arrow", "npz"), help="of part files (default parquet)")
    how.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")


def main(args: argparse.Namespace) -> int:
    """Fills a folder with part files: OUT itself, or one beside the file OUT, whose parts are then joined."""
    from ..scaling.parts import Job, PartFolder, PartScorer

    is_file = _is_file(args.out)
    _check(args, is_file)
    ending = ".npz" if is_file else f".{args.format or 'parquet'}"
    written.ending_of(args.out if is_file else args.out / f"part{ending}")  # before any work
    job = Job(
        str(args.dir), str(args.table), None if args.quantiles is None else tuple(args.quantiles), args.samples, args.draws, args.seed,
        tuple(args.keep), args.row_id, args.part_rows or min(_PART_ROWS, max(1024, _PART_VALUES // (args.samples + 16))), ending,
    )  # fmt: skip
    engine = importlib.import_module(_ENGINES[args.engine], __package__)
    scorer = PartScorer(job, args.threads if args.engine == "local" else args.threads or 1)
    if is_file:
        folder = args.out.parent / f".{args.out.name}.parts"
        parts = PartFolder.reopen(folder, job)
    else:
        parts = (PartFolder.reopen if args.overwrite else PartFolder.open)(args.out, job)
    try:
        engine.run(parts, scorer, args.workers)
    except BaseException:
        parts.remove_if_empty()
        raise
    rows = parts.finish()
    if is_file:
        parts.join(args.out)
        shutil.rmtree(folder)
    n_parts = -(-rows // job.rows)
    print(f"{args.out}: {rows:,} rows" + ("" if is_file else f" in {n_parts:,} part{'s' * (n_parts > 1)}"))
    return 0


def _is_file(out: Path) -> bool:
    try:
        written.ending_of(out)
    except ImportError:
        return True
    except ValueError:
        if out.suffix and not out.is_dir():
            raise  # rather a wrong name than a folder
        return False
    return not out.is_dir()


def _check(args: argparse.Namespace, is_file: bool) -> None:
    """Before any work: what argparse does not see."""
    out, levels = args.out, args.quantiles or []
    if not out.absolute().parent.is_dir():
        raise ValueError(f"OUT: expected a place in a folder that exists, got {out}")
    if is_file and out.exists() and not args.overwrite:
        raise ValueError(f"OUT: expected a new file, got {out}, which exists (--overwrite replaces it)")
    if out.resolve().is_relative_to(args.table.resolve()):
        raise ValueError(f"OUT: expected a place outside of TABLE, got {out}")
    if is_file and args.format:
        raise ValueError(f"--format: expected with a folder of parts alone, got the file {out}")
    if args.engine == "local" and args.workers is not None:
        raise ValueError("--workers: expected with --engine ray or spark, got local, which works in --threads")
    if len({f"{level:g}" for level in levels}) < len(levels):
        raise ValueError(f"--quantiles: expected different levels, got {' '.join(f'{level:g}' for level in levels)}")
