"""Numeric columns of CSV, NPZ and Parquet files, in chunks: memory does not grow with the file.

CSV and Parquet are read by pyarrow, the extra ``ordkernels[files]``; without it CSV is read by the standard library, more slowly.
"""

import contextlib
import csv
import gzip
import importlib
import importlib.util
import io
import itertools
import operator
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROWS", "read"]

ROWS = 1 << 17  # of a chunk
_BLOCK = 1 << 22  # bytes of CSV that pyarrow reads at once, and so the longest row
_MISSING = ("", "na", "nan", "null", "none")
_UNREADABLE = (EOFError, KeyError, OSError, RuntimeError, csv.Error, zipfile.BadZipFile, zlib.error)

Columns = Sequence[tuple[str, str]]  # name, and what for
Chunk = list[NDArray[Any]]


def read(path: Path, columns: Columns) -> Iterator[Chunk]:
    """Chunks of rows: an array for each of `columns`. Missing values come as NaN.

    Columns for ``"group"`` are integers, those for anything else numbers.

    Raises:
        FileNotFoundError, ValueError, TypeError, ImportError: no such file; an unknown format, no such column; a file that is
            damaged; cells that are not numbers (the first of them, rows from 0); columns of different lengths; Parquet without
            pyarrow.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "which does not exist"
        raise FileNotFoundError(f"expected a file, got {path} ({what})")
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        chunks = _csv(path, columns, "\t" if ".tsv" in name else ",")
    elif name.endswith(".npz"):
        chunks = _npz(path, columns)
    elif name.endswith((".parquet", ".pq")):
        chunks = _parquet(path, columns)
    else:
        raise ValueError(f"{path}: expected a name that ends in .csv, .tsv (or these and .gz), .npz or .parquet")
    try:
        yield from chunks
    except _UNREADABLE as error:
        raise ValueError(f"{path}: expected a file that can be read, got {type(error).__name__}: {error}") from error


def _require(path: Path, columns: Columns, names: Sequence[str]) -> None:
    for name, role in columns:
        if name not in names:
            raise ValueError(f"--{role}: expected a column of {path.name}, one of {', '.join(map(repr, names)) or 'none'}, got {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"--{role}: expected one column {name!r} in {path.name}, got {names.count(name)}")


# -------------------------------------------------------------------------------------------------------- CSV


def _csv(path: Path, columns: Columns, delimiter: str) -> Iterator[Chunk]:
    open_file: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with open_file(path, "rb") as f:
        header = next(csv.reader([f.readline().decode("utf-8-sig")], delimiter=delimiter), None)
        if not header:
            raise ValueError(f"{path}: expected a header line with the columns' names, got none")
        names = [cell.strip() for cell in header]
        _require(path, columns, names)
        batches = _text_batches if importlib.util.find_spec("pyarrow") is None else _arrow_batches
        begin = 0
        for batch in batches(f, delimiter, len(names), [names.index(name) for name, _ in columns]):
            yield [_parse(name, role, cells, begin) for (name, role), cells in zip(columns, batch, strict=True)]
            begin += len(batch[0])


def _arrow_batches(f: IO[bytes], delimiter: str, width: int, index: list[int]) -> Iterator[list[Any]]:
    """The columns at `index` as pyarrow arrays of text, from a file whose header is `width` cells."""
    pa, arrow_csv, compute = (importlib.import_module(f"pyarrow{name}") for name in ("", ".csv", ".compute"))
    ragged: list[Any] = []

    def on_invalid(row: Any) -> str:
        if not row.text.strip(" \r"):
            return "skip"
        ragged.append(row)
        return "error"

    f.seek(0)
    columns = [str(i) for i in range(width)]
    types = {name: pa.string() if int(name) in index else pa.binary() for name in columns}
    begin = 0
    try:
        for batch in arrow_csv.open_csv(
            f,
            read_options=arrow_csv.ReadOptions(column_names=columns, skip_rows=1, use_threads=False, block_size=_BLOCK),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=on_invalid),
            convert_options=arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        ):
            if any(compute.any(compute.match_substring(column, "\n")).as_py() for column in batch.columns):
                raise ValueError(_LINE_BREAK.format(f"in rows {begin} to {begin + batch.num_rows - 1}"))
            yield [batch.column(i) for i in index]
            begin += batch.num_rows
    except pa.ArrowInvalid:
        if not ragged:
            raise
        raise ValueError(_RAGGED.format(width, ragged[0].actual_columns, ragged[0].number - 2)) from None  # row 1 is the header


def _text_batches(f: IO[bytes], delimiter: str, width: int, index: list[int]) -> Iterator[list[Any]]:
    """`_arrow_batches` by the standard library: lists of text."""
    reader = csv.reader(io.TextIOWrapper(f, encoding="utf-8", newline=""), delimiter=delimiter, strict=True)
    rows = map(operator.itemgetter(*index), _checked_rows(reader, width))
    while batch := list(itertools.islice(rows, min(ROWS, 1 << 14))):  # more objects alive at once make the garbage collector slow
        yield [list(column) for column in zip(*batch, strict=True)]


def _checked_rows(reader: Any, width: int) -> Iterator[list[str]]:
    number = line = 0
    for row in reader:
        if reader.line_num - line > 1:
            raise ValueError(_LINE_BREAK.format(f"in row {number}"))
        line = reader.line_num
        if len(row) < 2 and not "".join(row).strip():
            continue  # a blank line
        if len(row) != width:
            raise ValueError(_RAGGED.format(width, len(row), number))
        yield row
        number += 1


_RAGGED = "expected {} cells in every row, as in the header, got {} in row {}"
_LINE_BREAK = "expected one row per line, got a line break inside a cell {}"


def _parse(name: str, role: str, cells: Any, begin: int) -> NDArray[Any]:
    """Numbers as float64, or int64 where only that holds them exactly; ids as int64, those beyond 2^63 wrapped around, one to one.

    `begin` is the first row's number.
    """
    convert = _convert_text if isinstance(cells, list) else _convert_arrow
    try:
        if role == "group":
            return convert(cells, int)
        x = convert(cells, float)
    except (ValueError, OverflowError):
        return _parse_each(name, role, cells if isinstance(cells, list) else cells.to_pylist(), begin)
    if len(x) and np.abs(x).max() > 2**53 and (x == np.rint(x)).all():
        with contextlib.suppress(ValueError, OverflowError):
            return convert(cells, int)
    return x


def _convert_text(cells: list[str], kind: type) -> NDArray[Any]:
    return np.fromiter(map(kind, cells), np.int64 if kind is int else np.float64, len(cells))


def _convert_arrow(cells: Any, kind: type) -> NDArray[Any]:
    pa, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    if kind is int:
        return cells.cast(pa.int64()).to_numpy()
    cells = compute.utf8_trim_whitespace(cells)
    missing = compute.is_in(compute.utf8_lower(cells), value_set=pa.array(_MISSING))
    return compute.if_else(missing, pa.scalar(None, pa.string()), cells).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _parse_each(name: str, role: str, cells: list[str], begin: int) -> NDArray[Any]:
    """Cell by cell: finds missing values, and names what is not a number."""
    parsed = np.empty(len(cells), np.int64 if role == "group" else np.float64)
    for i, cell in enumerate(cells):
        text = cell.strip()
        try:
            if role == "group":
                n = int(text)
                parsed[i] = n if n < 2**63 or n >= 2**64 else n - 2**64
            else:
                parsed[i] = np.nan if text.lower() in _MISSING else float(text)
        except (ValueError, OverflowError):
            what = "integers of 64 bits" if role == "group" else "numbers"
            raise TypeError(f"{name}: expected {what}, got {text!r} in row {begin + i}") from None
    return parsed


# -------------------------------------------------------------------------------------------------------- NPZ


def _npz(path: Path, columns: Columns) -> Iterator[Chunk]:
    with zipfile.ZipFile(path) as archive:
        _require(path, columns, [name.removesuffix(".npy") for name in archive.namelist()])
        streams, dtypes, lengths = [], [], []
        for name, role in columns:
            f = archive.open(f"{name}.npy")
            version = np.lib.format.read_magic(f)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(f)
            if len(shape) != 1:
                raise ValueError(f"{name}: expected an array of shape [N], got {list(shape)}")
            _check_kind(name, role, dtype.kind, dtype)
            streams.append(f)
            dtypes.append(dtype)
            lengths.append(shape[0])
        for (name, _), n in zip(columns, lengths, strict=True):
            if n != lengths[0]:
                raise ValueError(f"{name}: expected {lengths[0]} rows, as {columns[0][0]}, got {n}")
        for begin in range(0, lengths[0], ROWS):
            n = min(ROWS, lengths[0] - begin)
            chunk = []
            for (name, _), f, dtype in zip(columns, streams, dtypes, strict=True):
                data = f.read(n * dtype.itemsize)
                if len(data) != n * dtype.itemsize:
                    last = begin + len(data) // dtype.itemsize
                    raise ValueError(f"{name}: expected {lengths[0]} rows, got a file that ends after row {last}")
                chunk.append(np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")))
            yield chunk


def _check_kind(name: str, role: str, kind: str, got: Any) -> None:
    if kind not in ("iu" if role == "group" else "iufb"):
        raise TypeError(f"{name}: expected {'integers' if role == 'group' else 'numbers'}, got {got}")


# ---------------------------------------------------------------------------------------------------- Parquet


def _parquet(path: Path, columns: Columns) -> Iterator[Chunk]:
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(f"{path}: expected pyarrow, to read Parquet, got {error}: pip install 'ordkernels[files]'") from None
    try:
        file = parquet.ParquetFile(path, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file, got {error}") from None
    with file:
        schema = file.schema_arrow
        _require(path, columns, schema.names)
        for name, role in columns:
            kind = schema.field(name).type
            letter = "i" if pa.types.is_integer(kind) else "f" if pa.types.is_floating(kind) else "b" if pa.types.is_boolean(kind) else "?"
            _check_kind(name, role, letter, kind)
        for batch in file.iter_batches(batch_size=ROWS, columns=[name for name, _ in columns], use_threads=False):
            if batch.num_rows:
                yield [_from_arrow(batch.column(name), pa) for name, _ in columns]


def _from_arrow(column: Any, pa: Any) -> NDArray[Any]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())  # booleans with nulls would be objects, numbers with nulls are floats with NaN
    return column.to_numpy(zero_copy_only=False)
