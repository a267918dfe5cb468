"""Whole tables in blocks of rows, with text and times beside numbers: CSV, Parquet, Arrow and NPZ files, and folders of parts.

Memory holds a block, not the file. Columns are pyarrow's arrays, or NumPy's of NPZ files and where CSV is read without pyarrow.
"""

import datetime
import importlib
import importlib.util
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import delimited, inferred, npz
from .cells import _NUMBER
from .column import Column, require
from .damage import readable

__all__ = ["READABLE", "Block", "Table", "as_array", "kind_of", "length"]

Block = dict[str, Any]

READABLE = ".csv, .tsv, .txt, .inter (or these and .gz), .parquet, .arrow, .feather, .npz, or a folder of such files"
_ENDINGS = {
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".inter", ".inter.gz"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "npz": (".npz",),
}
_BATCH = 1 << 16


def kind_of(path: Path) -> str:
    """Of a file by its ending. ValueError for an unknown one."""
    for kind, endings in _ENDINGS.items():
        if path.name.lower().endswith(endings):
            return kind
    raise ValueError(f"{path}: expected a name that ends in {READABLE}")


def length(block: Block) -> int:
    """How many rows a block has."""
    return len(next(iter(block.values())))


def as_array(column: Any) -> NDArray[Any]:
    """A column of a block as NumPy's numbers, text or times: missing ones as NaN, "" and NaT."""
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column
    values = column.tolist() if isinstance(column, np.ndarray) else None
    if values is None:
        pa = importlib.import_module("pyarrow")
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        column = column.cast(kind) if kind != column.type else column
        if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
            return np.asarray(column.cast(pa.timestamp("us")), dtype="datetime64[us]")
        if pa.types.is_integer(kind) and not column.null_count:
            return np.asarray(column)
        if pa.types.is_floating(kind):
            return np.asarray(column, dtype=np.float32 if pa.types.is_float32(kind) else np.float64)
        values = column.to_pylist()
    if any(isinstance(v, str) for v in values):
        return np.array(["" if v is None else str(v) for v in values])
    if any(isinstance(v, datetime.date) for v in values):
        return np.array(
            [None if v is None else v.astimezone(datetime.UTC).replace(tzinfo=None) if getattr(v, "tzinfo", None) else v for v in values],
            "datetime64[us]",
        )
    if None not in values:
        return np.array(values)
    return np.array([np.nan if v is None else float(v) for v in values])


class _File(NamedTuple):
    path: Path
    kind: str
    partition: dict[str, str]  # columns that the names of its folders give it


class Table:
    """A file, or a folder of files of one kind in the order of their names.

    Raises:
        FileNotFoundError: no such file.
        ImportError: no pyarrow for Parquet or Arrow.
        ValueError: an unknown ending, files of several kinds, a damaged file, no columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"expected a file or a folder, got {path} (which does not exist)")
        self.files = _files(path) if path.is_dir() else [_File(path, kind_of(path), {})]
        self.kind = self.files[0].kind
        if self.kind in ("parquet", "arrow") and importlib.util.find_spec("pyarrow") is None:
            raise ImportError(f"{path}: expected pyarrow, to read {self.kind} files, got none: pip install 'ordkernels[files]'")
        first = self.files[0]
        with readable(first.path):
            self.names = [*_FORMATS[self.kind].names(first.path), *first.partition]
        if not self.names:
            raise ValueError(f"{path}: expected at least one column, got none")

    def require(self, option: str, names: Collection[str]) -> None:
        """ValueError unless each of the names that an option gives is one column's."""
        try:
            require(self.path, [Column(name, argument=f"--{option}") for name in names], self.names)
        except ValueError as error:
            if self.kind == "csv" and all(_NUMBER.fullmatch(name) for name in self.names):
                raise ValueError(f"{error}: there seems to be no header line with the columns' names") from None
            raise

    def columns(self, chosen: Collection[str] | None = None) -> list[str]:
        """All names, or the chosen ones, in the table's order. ValueError for one that is not there, or twice."""
        require(self.path, [Column(name) for name in dict.fromkeys(self.names if chosen is None else chosen)], self.names)
        return [name for name in self.names if chosen is None or name in chosen]

    def blocks(
        self, rows: int, columns: Collection[str] | None = None, text: Collection[str] = (), done: Callable[[int], bool] = lambda k: False
    ) -> Iterator[tuple[int, int, Block | None]]:
        """Every block of `rows` rows, the last of fewer, as (its first row, how many rows, its columns).

        Args:
            columns: to be read; None: all.
            text: those of a CSV file that are text, even if all cells of a block could be numbers.
            done: whether block k is not needed. None stands for its columns, and the first ones are skipped where the format allows.
        """
        names = self.columns(columns)
        k = 0
        while done(k):
            k += 1
        begin = max(k - 1, 0) * rows  # the last of them is read, to see how many rows it has
        yield from ((first, rows, None) for first in range(0, begin, rows))
        pending: list[Block] = []
        held = 0
        for chunk in self._chunks(names, begin):
            pending, held = [*pending, chunk], held + length(chunk)
            while held >= rows:
                block, pending = _split(pending, rows)
                yield begin, rows, None if done(begin // rows) else self._typed(block, text)
                begin, held = begin + rows, held - rows
        if held:
            yield begin, held, None if done(begin // rows) else self._typed(_split(pending, held)[0], text)
        if not begin + held:
            raise ValueError(f"{self.path}: expected at least one row, got none")

    def count(self) -> int:
        """How many rows; those of CSV files are counted by reading them."""
        form, rows = _FORMATS[self.kind], 0
        for file in self.files:
            with readable(file.path):
                known = form.rows(file.path)
                rows += sum(map(length, form.read(file.path, self.names[:1], 0))) if known is None else known
        return rows

    def read(self, columns: Collection[str] | None = None) -> Block:
        """All rows."""
        ((_, _, block),) = self.blocks(1 << 62, columns)
        assert block is not None
        return block

    def _chunks(self, names: Sequence[str], start: int) -> Iterator[Block]:
        """Columns in chunks of any length from row `start` on."""
        form = _FORMATS[self.kind]
        for file in self.files:
            own = [name for name in names if name not in file.partition]
            with readable(file.path):
                rows = form.rows(file.path)
                if rows is not None and start >= rows:
                    start -= rows
                    continue
                if missing := set(own) - set(form.names(file.path)):
                    raise ValueError(f"{file.path}: expected the columns of {self.files[0].path.name}, got no {min(missing)!r}")
                for chunk in form.read(file.path, own, start):
                    n = length(chunk)
                    dropped = 0 if rows is not None else min(n, start)
                    start = 0 if rows is not None else start - dropped
                    chunk |= {name: np.full(n, value, dtype=object) for name, value in file.partition.items()}
                    if dropped < n:
                        yield {name: chunk[name][dropped:] for name in names}

    def _typed(self, block: Block, text: Collection[str]) -> Block:
        with readable(self.path):
            is_cells = {name: self.kind == "csv" or name in self.files[0].partition for name in block}
            return {name: inferred.column(c, name in text) if is_cells[name] else c for name, c in block.items()}


def _files(folder: Path) -> list[_File]:
    """The files of a folder and those below it; names that begin with "." or "_" are not of the table."""
    files = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(name.startswith((".", "_")) for name in inside):
            files.append(_File(path, kind_of(path), dict(name.split("=", 1) for name in inside[:-1] if "=" in name)))
    kinds = sorted({file.kind for file in files})
    if len(kinds) != 1:
        raise ValueError(f"{folder}: expected a folder of files of one kind, got {' and '.join(kinds) or 'no files'}")
    return files


def _split(chunks: Sequence[Block], rows: int) -> tuple[Block, list[Block]]:
    """The first rows of the chunks in one block, and what remains."""
    parts, taken = [], 0
    for i, chunk in enumerate(chunks):
        n = min(length(chunk), rows - taken)
        parts.append({name: values[:n] for name, values in chunk.items()})
        taken += n
        if taken == rows:
            rest = [{name: values[n:] for name, values in chunk.items()}] if n < length(chunk) else []
            return {name: _joined([part[name] for part in parts]) for name in chunk}, rest + list(chunks[i + 1 :])
    raise AssertionError("fewer rows than asked for")


def _joined(parts: Sequence[Any]) -> Any:
    """One column of parts: an array, or pyarrow's chunked one, which frames are made of."""
    if any(isinstance(part, np.ndarray) for part in parts):  # a CSV file's cells may be both
        return (
            parts[0]
            if len(parts) == 1
            else np.concatenate([part if isinstance(part, np.ndarray) else np.array(_text(part), dtype=object) for part in parts])
        )
    pa = importlib.import_module("pyarrow")
    return pa.concat_tables([pa.table({"": part}) for part in parts], promote_options="permissive").column(0)


def _text(cells: Any) -> list[str]:
    return [cell.decode() for cell in cells.to_pylist()]


# ------------------------------------------------------------------------------------------------------ formats


class _Format(NamedTuple):
    names: Callable[[Path], list[str]]
    rows: Callable[[Path], int | None]  # None: known only at the end
    read: Callable[[Path, Sequence[str], int], Iterator[Block]]  # from a row on, if it is known how many there are


def _read_csv(path: Path, names: Sequence[str], start: int) -> Iterator[Block]:
    for batch in delimited.read_cells(path, names):
        yield {name: np.array(cells, dtype=object) if isinstance(cells, list) else cells for name, cells in batch.items()}


def _parquet(path: Path) -> Any:
    return importlib.import_module("pyarrow.parquet").ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _parquet_names(path: Path) -> list[str]:
    with _parquet(path) as file:
        names: list[str] = file.schema_arrow.names
    return names


def _parquet_rows(path: Path) -> int:
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


def _read_parquet(path: Path, names: Sequence[str], start: int) -> Iterator[Block]:
    with _parquet(path) as file:
        groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        g = 0
        while g < len(groups) and groups[g] <= start:
            start -= groups[g]
            g += 1
        batches = file.iter_batches(batch_size=_BATCH, row_groups=range(g, len(groups)), columns=list(names), use_threads=False)
        yield from _of_batches(batches, names, start)


def _arrow(path: Path) -> Any:
    ipc = importlib.import_module("pyarrow.ipc")
    return ipc.open_file(importlib.import_module("pyarrow").memory_map(str(path)))


def _arrow_names(path: Path) -> list[str]:
    with _arrow(path) as file:
        names: list[str] = file.schema.names
    return names


def _arrow_rows(path: Path) -> int:
    with _arrow(path) as file:
        return sum(file.get_batch(k).num_rows for k in range(file.num_record_batches))


def _read_arrow(path: Path, names: Sequence[str], start: int) -> Iterator[Block]:
    with _arrow(path) as file:
        yield from _of_batches((file.get_batch(k) for k in range(file.num_record_batches)), names, start)


def _of_batches(batches: Iterator[Any], names: Sequence[str], start: int) -> Iterator[Block]:
    for batch in batches:
        kept = batch.slice(min(start, batch.num_rows))
        start -= batch.num_rows - kept.num_rows
        if kept.num_rows:
            yield {name: _plain(kept.column(name)) for name in names}


def _plain(column: Any) -> Any:
    """A column without any value is of no type: of missing numbers then."""
    pa = importlib.import_module("pyarrow")
    return column.cast(pa.float64()) if pa.types.is_null(column.type) else column


_FORMATS = {
    "csv": _Format(delimited.names, lambda path: None, _read_csv),
    "npz": _Format(npz.names, npz.count, npz.read_blocks),
    "parquet": _Format(_parquet_names, _parquet_rows, _read_parquet),
    "arrow": _Format(_arrow_names, _arrow_rows, _read_arrow),
}
