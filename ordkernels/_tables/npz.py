"""NPZ files: arrays of one dimension, read in step as streams, without ever unpickling."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from .column import Chunk, Columns, require, require_kind

__all__ = ["read_npz"]

ROWS = 1 << 17  # of a chunk
_MAX_HEADER = 10_000  # bytes, as NumPy has it


def read_npz(path: Path, columns: Columns) -> Iterator[Chunk]:
    with zipfile.ZipFile(path) as archive:
        require(path, columns, [name.removesuffix(".npy") for name in archive.namelist()])
        streams, dtypes, lengths = [], [], []
        for column in columns:
            f = archive.open(f"{column.name}.npy")
            shape, dtype = _read_header(column.name, f)
            if len(shape) != 1:
                raise ValueError(f"{column.name}: expected an array of shape [N], got {list(shape)}")
            require_kind(column, dtype.kind, dtype)
            streams.append(f)
            dtypes.append(dtype)
            lengths.append(shape[0])
        rows = lengths[0]
        for column, n in zip(columns, lengths, strict=True):
            if n != rows:
                raise ValueError(f"{column.name}: expected {rows} rows, as {columns[0].name}, got {n}")
        for begin in range(0, rows, ROWS):
            n = min(ROWS, rows - begin)
            chunk = []
            for column, f, dtype in zip(columns, streams, dtypes, strict=True):
                data = f.read(n * dtype.itemsize)
                if len(data) != n * dtype.itemsize:
                    last = begin + len(data) // dtype.itemsize
                    raise ValueError(f"{column.name}: expected {rows} rows, got a file that ends after row {last}")
                chunk.append(np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")))
            yield chunk
        for column, f in zip(columns, streams, strict=True):
            if f.read(1):  # and the end has the checksum
                raise ValueError(f"{column.name}: expected {rows} rows, as its header says, got more data")


def _read_header(name: str, f: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(f)
    size = f.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _MAX_HEADER:  # NumPy would read all of it before it checks
        raise ValueError(f"{name}: expected an array's header of at most {_MAX_HEADER:,} bytes, got {length:,}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(io.BytesIO(size + f.read(length)))
    return shape, dtype
