"""Named columns of CSV, NPZ and Parquet files, in chunks: memory does not grow with the file.

CSV and Parquet are read by pyarrow, the extra ``ordkernels[files]``; without it CSV is read by the standard library, more slowly and with
the same result.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .column import Chunk, Column, Columns
from .damage import readable
from .delimited import read_delimited
from .npz import read_npz
from .parquet import read_parquet

__all__ = ["Chunk", "Column", "Columns", "common_dtype", "joined", "read"]

ROWS = 1 << 17


def read(path: Path, columns: Columns) -> Iterator[Chunk]:
    """Chunks of `ROWS` rows, the last of fewer: an array for each of `columns`. Missing values come as NaN, also those of integers.

    Numbers are float64 or as the file stores them; whole numbers that float64 would round are int64, uint64 or longdouble.

    Raises:
        FileNotFoundError, ValueError, TypeError, ImportError: no such file; an unknown format, no such column or two of one name; a
            file that is damaged; cells that are not numbers (the first of them, rows from 0); columns of different lengths; rows or
            headers beyond the limits of `delimited`; Parquet without pyarrow.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "which does not exist"
        raise FileNotFoundError(f"expected a file, got {path} ({what})")
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        chunks = read_delimited(path, columns)
    elif name.endswith(".npz"):
        chunks = read_npz(path, columns)
    elif name.endswith((".parquet", ".pq")):
        chunks = read_parquet(path, columns)
    else:
        raise ValueError(f"{path}: expected a name that ends in .csv, .tsv (or these and .gz), .npz or .parquet")
    with readable(path):
        yield from _of_equal_length(chunks)


def _of_equal_length(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Chunks of `ROWS` rows, so that sums over chunks round alike whatever the file's format."""
    pending: list[Chunk] = []
    for chunk in chunks:
        while len(chunk[0]):
            remaining = ROWS - sum(len(c[0]) for c in pending)
            pending.append([a[:remaining] for a in chunk])
            chunk = [a[remaining:] for a in chunk]
            if sum(len(c[0]) for c in pending) == ROWS:
                yield joined(pending)
                pending = []
    if pending:
        yield joined(pending)


def joined(chunks: list[Chunk]) -> Chunk:
    """The columns of one or more chunks in one."""
    if len(chunks) == 1:
        return chunks[0]
    columns = zip(*chunks, strict=True)
    return [np.concatenate(parts, dtype=functools.reduce(common_dtype, (a.dtype for a in parts))) for parts in columns]


def common_dtype(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """What holds the numbers of both: NumPy's choice, but for the float64 that rounds integers of 64 bits."""
    dtype = np.result_type(a, b)
    rounds = dtype == np.float64 and any(d.kind in "iu" and d.itemsize == 8 for d in (a, b))
    return np.dtype(np.longdouble) if rounds else dtype
