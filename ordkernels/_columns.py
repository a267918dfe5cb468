"""Numeric columns of CSV, NPZ and Parquet files, in chunks: memory does not grow with the file. No torch, no pandas."""

import csv
import gzip
import importlib
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROWS", "read"]

ROWS = 1 << 17  # of a chunk
_MISSING = {"", "na", "nan", "null", "none"}


def read(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[list[NDArray[Any]]]:
    """Chunks of up to `ROWS` rows: an array for each of `columns`, pairs (name, what for). Missing values come as NaN.

    Those for ``"group"`` are integers, those for anything else numbers.

    Raises:
        FileNotFoundError, ValueError, TypeError, ImportError: no such file; a format or a column that is not there; cells that are
            no numbers (the first of them, rows from 0); columns of different lengths; Parquet without pyarrow.
    """
    name = path.name.lower()
    if not path.is_file():
        raise FileNotFoundError(f"expected a file, got {path}{' (a folder)' if path.is_dir() else ', which does not exist'}")
    if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        return _csv(path, columns, "\t" if ".tsv" in name else ",")
    if name.endswith(".npz"):
        return _npz(path, columns)
    if name.endswith((".parquet", ".pq")):
        return _parquet(path, columns)
    raise ValueError(f"{path}: expected a name that ends in .csv, .tsv (or these and .gz), .npz or .parquet")


def _require(path: Path, columns: Sequence[tuple[str, str]], there: Sequence[str]) -> None:
    for name, role in columns:
        if name not in there:
            raise ValueError(f"--{role}: expected a column of {path.name}, one of {', '.join(map(repr, there)) or 'none'}, got {name!r}")


# -------------------------------------------------------------------------------------------------------- CSV


def _csv(path: Path, columns: Sequence[tuple[str, str]], delimiter: str) -> Iterator[list[NDArray[Any]]]:
    opened: IO[str] = (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[operator]
    with opened as f:
        header = next(csv.reader(f, delimiter=delimiter), None)
        if not header:
            raise ValueError(f"{path}: expected a header line with the columns' names, got none")

        header = [cell.strip() for cell in header]
        _require(path, columns, header)
        at = [header.index(name) for name, _ in columns]
        dtype = np.dtype([(f"c{i}", np.int64 if role == "group" else np.float64) for i, (_, role) in enumerate(columns)])
        begin = 0
        while lines := list(itertools.islice(f, ROWS)):
            lines = [line for line in lines if not line.isspace()]
            if not lines:
                continue
            try:
                table = np.loadtxt(lines, dtype, delimiter=delimiter, usecols=at, comments=None, quotechar='"', ndmin=1)
                if len(table) != len(lines):  # a line break inside of quotes
                    raise ValueError
            except ValueError:
                table = _cells(lines, columns, at, dtype, delimiter, begin)
            begin += len(table)
            yield [np.ascontiguousarray(table[name]) for name in dtype.names or ()]


def _cells(
    lines: list[str], columns: Sequence[tuple[str, str]], at: list[int], dtype: np.dtype[Any], delimiter: str, begin: int
) -> NDArray[Any]:
    """Cell by cell: what `loadtxt` does not read is missing, or has to be named."""
    table = np.empty(len(lines), dtype)
    n = 0
    for n, cells in enumerate(csv.reader(lines, delimiter=delimiter), 1):
        for i, ((name, role), column) in enumerate(zip(columns, at, strict=True)):
            if column >= len(cells):
                raise ValueError(f"{name}: expected at least {column + 1} cells in every row, got {len(cells)} in row {begin + n - 1}")
            text = cells[column].strip()
            try:
                if role == "group":
                    table[n - 1][i] = int(text)
                else:
                    table[n - 1][i] = np.nan if text.lower() in _MISSING else float(text)
            except (ValueError, OverflowError):
                what = "integers of 64 bits" if role == "group" else "numbers"
                raise TypeError(f"{name}: expected {what}, got {text!r} in row {begin + n - 1}") from None
    if n != len(lines):
        raise ValueError(f"expected one row per line, got a line break inside of a cell in rows {begin} to {begin + n - 1}")
    return table


# -------------------------------------------------------------------------------------------------------- NPZ


def _npz(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[list[NDArray[Any]]]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: expected an NPZ file, got {error}") from None
    with archive:
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
        _same_lengths(columns, lengths)
        for begin in range(0, lengths[0], ROWS):
            n = min(ROWS, lengths[0] - begin)
            chunk = []
            for (name, _), f, dtype in zip(columns, streams, dtypes, strict=True):
                data = f.read(n * dtype.itemsize)
                if len(data) != n * dtype.itemsize:
                    raise ValueError(
                        f"{name}: expected {lengths[0]} rows, got a file that ends after row {begin + len(data) // dtype.itemsize}"
                    )
                chunk.append(np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")))
            yield chunk


def _same_lengths(columns: Sequence[tuple[str, str]], lengths: Sequence[int]) -> None:
    for (name, _), n in zip(columns, lengths, strict=True):
        if n != lengths[0]:
            raise ValueError(f"{name}: expected {lengths[0]} rows, as {columns[0][0]}, got {n}")


def _check_kind(name: str, role: str, kind: str, got: Any) -> None:
    if kind not in ("iu" if role == "group" else "iufb"):
        raise TypeError(f"{name}: expected {'integers' if role == 'group' else 'numbers'}, got {got}")


# ---------------------------------------------------------------------------------------------------- Parquet


def _parquet(path: Path, columns: Sequence[tuple[str, str]]) -> Iterator[list[NDArray[Any]]]:
    try:
        pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(f"{path}: expected pyarrow, to read Parquet, got {error}: pip install 'ordkernels[parquet]'") from None
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file, got {error}") from None
    with file:
        schema = file.schema_arrow
        _require(path, columns, schema.names)
        for name, role in columns:
            kind = schema.field(name).type
            letter = "i" if pa.types.is_integer(kind) else "f" if pa.types.is_floating(kind) else "b" if pa.types.is_boolean(kind) else "?"
            _check_kind(name, role, letter, kind)
        wanted = list(dict.fromkeys(name for name, _ in columns))
        for batch in file.iter_batches(batch_size=ROWS, columns=wanted, use_threads=False):
            if batch.num_rows:
                yield [batch.column(wanted.index(name)).to_numpy(zero_copy_only=False) for name, _ in columns]
