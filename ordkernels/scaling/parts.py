"""A scoring job: a table in blocks of rows, each of which becomes one part file, and a folder of parts that a later run completes.

An engine (one process, Ray, Spark) has workers call `PartScorer` on blocks and `PartFolder.write` on what it returns: in any order, on
any worker, again after a failure. A part's bytes depend on the job alone, and it is in place when it is whole. Scorer, folder and blocks
pickle; a worker that can read the table needs no more than a block's number.

    folder, scorer = PartFolder.open(path, job), PartScorer(job)
    for k, begin, block in folder.pending(scorer):  # or: begin, block = folder.block(k, scorer) for k in folder.missing()
        folder.write(k, scorer(begin, block))
    folder.finish()
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import replace
from .._tables import npz, written
from .._tables.blocks import Block, Table, as_array, length
from ..models._pretrained import CONFIG
from ._outputs import Outputs, load
from .predictor import Predictor

__all__ = ["MANIFEST", "Job", "PartFolder", "PartScorer", "manifest"]

Columns = dict[str, NDArray[Any]]

MANIFEST = "_manifest.json"  # the underscore hides it from readers of folders of Parquet files
_FORMAT, _VERSION = "ordkernels.predictions", 1


@dataclass(frozen=True)
class Job:
    """What predictions depend on; a worker needs nothing else.

    Args:
        model: folder that ``save_pretrained`` wrote, of a model or an estimator.
        table: file or folder with the rows.
        quantiles: levels strictly between 0 and 1; None: 0.1, 0.5 and 0.9 of a model that draws, else none.
        samples: draws that are written of each row.
        draws: that the median and the quantiles are taken of.
        seed: of the draws.
        keep: columns of the table that are copied.
        row_id: of a saved model, the column of row ids; estimators know theirs.
        rows: of a part.
        ending: of the part files, as in `_tables.written`.
    """

    model: str
    table: str
    quantiles: tuple[float, ...] | None = None
    samples: int = 0
    draws: int = 128
    seed: int = 0
    keep: tuple[str, ...] = ()
    row_id: str | None = None
    rows: int = 1 << 16
    ending: str = ".parquet"


class PartScorer:
    """A block of the job's table to the columns of its part: row id, kept columns, prediction, quantiles, samples.

    Args:
        job: its model is loaded here, once for all blocks.
        threads: of the `Predictor`; None: torch's number.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: a folder without a model, or a damaged one; a table that cannot be read, or
            lacks a column; options that the model does not have.
    """

    def __init__(self, job: Job, threads: int | None = None) -> None:
        self.job = job
        model, self.is_estimator = load(Path(job.model))
        self.predictor = Predictor(model, threads=threads)
        try:
            self.outputs = Outputs.of(self.predictor.module, job.quantiles, job.samples, job.draws)
        except ValueError as error:
            raise ValueError(f"--{error}") from error
        if self.is_estimator and job.row_id is not None:
            raise ValueError(f"--row-id: expected none, the estimator was fitted with {model.row_id!r}, got {job.row_id!r}")
        self.row_id: str | None = model.row_id if self.is_estimator else job.row_id
        self._choose_columns(model, Table(Path(job.table)))

    def _choose_columns(self, model: Any, table: Table) -> None:
        """The columns to read, those of them that are text, and those that are copied."""
        job, target = self.job, getattr(model, "target_", None) if self.is_estimator else "y"
        table.require("keep", job.keep)
        table.require("row-id", [job.row_id] if job.row_id else [])
        self.keep = list(dict.fromkeys([*job.keep, *([target] if target in table.names else [])]))
        self.text: list[str] = []
        needed = set(table.names)
        if self.is_estimator:
            self.text = [name for name, kind in model.features_.kinds.items() if kind == "category"]
            needed = set(model.features_.needed())
            for name in model.features_.needed():
                if name not in table.names:
                    raise ValueError(f"{job.table}: expected the column {name!r}, as in training, got {', '.join(map(repr, table.names))}")
        else:
            copied = set(self.keep) - set(model.batch_keys)
            self.inputs = [name for name in table.names if name not in (*copied, job.row_id, "y")]
        self.columns = table.columns(needed | set(self.keep))
        names = [self.row_id or "row", *(name for name in self.keep if name != self.row_id), *self.outputs.names]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--keep: expected columns of other names than {', '.join(self.outputs.names)} and row, got {twice[0]!r}")

    def __call__(self, begin: int, block: Block) -> Columns:
        """The part's columns ``[n]`` by name.

        Args:
            begin: the block's first row in the table.
            block: its columns, as `PartFolder.pending` and `PartFolder.block` give them.
        """
        try:
            return self._scored(begin, length(block), block)
        except (TypeError, ValueError) as error:
            where = f", in the block that begins at row {begin:,}" if begin else ""
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self.job.table}: {error}{where}") from error

    def _scored(self, begin: int, n: int, block: Block) -> Columns:
        job, predictor = self.job, self.predictor
        ids = np.arange(begin, begin + n) if self.row_id is None else as_array(block[self.row_id])
        found: Columns = {self.row_id or "row": ids, **{name: as_array(block[name]) for name in self.keep if name != self.row_id}}
        inputs, row_ids = block, ids if self.row_id is None else None
        if not self.is_estimator:
            inputs, row_ids = {name: c for name, c in block.items() if name in self.inputs}, ids
        return found | self.outputs.columns(predictor(inputs, row_ids=row_ids, **self.outputs.arguments(job.seed)))


class PartFolder:
    """A folder of part files and a manifest. Parts that are there are not touched again."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path, self.job = path, job

    @classmethod
    def open(cls, path: Path, job: Job) -> PartFolder:
        """The folder, a new one or of an earlier run of the same job.

        Raises:
            ValueError: a file, a folder with other files, or with the parts of another job.
        """
        folder = cls(path, job)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: expected a folder, or a path where one can be made, got a file")
        if (path / MANIFEST).exists():
            if any(path.glob("part-*")):
                _check_same(path, folder._made_of())
            folder._write_manifest()
        elif path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path}: expected a new or empty folder, or one that the same command began, got one with other files")
        else:
            path.mkdir(parents=True, exist_ok=True)
            folder._write_manifest()
        return folder

    @classmethod
    def reopen(cls, path: Path, job: Job) -> PartFolder:
        """As `open`, but the parts of another job are removed. ValueError for a folder without a manifest."""
        try:
            return cls.open(path, job)
        except ValueError:
            if not (path / MANIFEST).is_file():
                raise
        manifest(path)
        for name in (MANIFEST, "part-*", ".part-*"):
            for file in path.glob(name):
                file.unlink()
        return cls.open(path, job)

    def part(self, k: int) -> Path:
        return self.path / f"part-{k:06d}{self.job.ending}"

    def done(self, k: int) -> bool:
        return self.part(k).exists()

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there. Reads a CSV table once, to count its rows."""
        return [k for k in range(-(-self._table().count() // self.job.rows)) if not self.done(k)]

    def pending(self, scorer: PartScorer, among: range | None = None) -> Iterator[tuple[int, int, Block]]:
        """The blocks whose parts are not there, all or those among some, as (number, first row, columns), one read after the other."""
        blocks = self._table().blocks(
            self.job.rows, scorer.columns, scorer.text, lambda k: self.done(k) or (among is not None and k not in among)
        )
        for begin, _, block in blocks:
            k = begin // self.job.rows
            if block is not None:
                yield k, begin, block
            if among is not None and k + 1 >= among.stop:
                return

    def block(self, k: int, scorer: PartScorer) -> tuple[int, Block]:
        """Block k, as (first row, columns)."""
        for begin, _, block in self._table().blocks(self.job.rows, scorer.columns, scorer.text, lambda j: j < k):
            if block is not None:
                return begin, block
        raise ValueError(f"{self.job.table}: expected at least {k + 1} blocks of {self.job.rows:,} rows, got fewer")

    def write(self, k: int, columns: Columns) -> None:
        """Part k, whole or not at all."""
        written.write(self.part(k), lambda names: iter([{name: columns[name] for name in names or columns}]), length(columns))

    def finish(self) -> int:
        """Sees that all parts are there, and writes so into the manifest; returns how many rows they have."""
        if missing := self.missing():
            raise ValueError(f"{self.path}: expected all parts to be there, got none of number {missing[0]}")
        rows = self._table().count()
        for path in self.path.glob(".*"):  # of runs that were cut short
            path.unlink()
        self._write_manifest(rows=rows, parts=-(-rows // self.job.rows))
        return rows

    def remove_if_empty(self) -> None:
        """The folder goes if it has no part yet, as where the first rows cannot be scored."""
        if not any(self.path.glob("part-*")):
            for file in (*self.path.glob(".*"), self.path / MANIFEST):
                file.unlink(missing_ok=True)
            self.path.rmdir()

    def join(self, path: Path) -> None:
        """One file of all parts, which are NPZ files."""
        rows = self._table().count()
        parts = [self.part(k) for k in range(-(-rows // self.job.rows))]
        written.write(path, lambda names: (b for p in parts for b in npz.read_blocks(p, list(names or npz.names(p)), 0)), rows)

    def _table(self) -> Table:
        return Table(Path(self.job.table))

    def _made_of(self) -> dict[str, Any]:
        """What the parts depend on, besides where it lies."""
        options = {name: value for name, value in asdict(self.job).items() if name not in ("model", "table")}
        model = hashlib.sha256((Path(self.job.model) / CONFIG).read_bytes()).hexdigest()
        files = [(file.path.name, file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in self._table().files]
        found: dict[str, Any] = json.loads(json.dumps({"options": options, "model": model, "table": files}))
        return found

    def _write_manifest(self, **finished: int) -> None:
        paths = {"model": str(Path(self.job.model).absolute()), "table": str(Path(self.job.table).absolute())}
        content = {
            "format": _FORMAT,
            "format_version": _VERSION,
            **paths,
            "made_of": self._made_of(),
            "complete": bool(finished),
            **finished,
        }
        replace(self.path / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def manifest(folder: Path) -> dict[str, Any]:
    """What a folder of parts says of itself. ValueError for another folder's, or a damaged one."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']!r}")
        if found["format_version"] > _VERSION:
            raise ValueError(f"format_version {found['format_version']} of a newer ordkernels")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the manifest of a folder of predictions, got {type(error).__name__}: {error}") from error
    return dict(found)


def _check_same(path: Path, expected: dict[str, Any]) -> None:
    found = manifest(path).get("made_of", {})
    for name in ("model", "table"):
        if found.get(name) != expected[name]:
            raise ValueError(f"{path}: expected the {name} that its parts were made of, got another, or one that has changed since")
    if found.get("options") != expected["options"]:
        begun = found.get("options") or {}
        name = next(name for name in expected["options"] if begun.get(name) != expected["options"][name])
        raise ValueError(f"{path}: expected {name} {begun.get(name)!r}, as its parts were made with, got {expected['options'][name]!r}")
