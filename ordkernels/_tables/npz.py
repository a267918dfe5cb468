"""NPZ files: arrays of one dimension, read in step as streams, without ever unpickling."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .column import Chunk, Columns, require, require_kind

__all__ = ["count", "names", "read_blocks", "read_npz"]

ROWS = 1 << 17  # of a chunk
_MAX_HEADER = 10_000  # bytes, as NumPy has it


def read_npz(path: Path, columns: Columns) -> Iterator[Chunk]:
    with zipfile.ZipFile(path) as archive:
        require(path, columns, [name.removesuffix(".npy") for name in archive.namelist()])
        streams, dtypes, lengths = [], [], []
        for column in columns:
            f = archive.open(f"{column.name}.npy")
            shape, _, dtype = _read_header(column.name, f)
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


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def count(path: Path) -> int:
    """How many rows."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{names(path)[0]}.npy") as f:
        shape, _, _ = _read_header(names(path)[0], f)
    return shape[0] if shape else 0


def read_blocks(path: Path, chosen: Sequence[str], start: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays ``[N, ...]`` of these names from row `start` on, `ROWS` rows at a time."""
    with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as opened:
        arrays = {name: _Array(name, opened.enter_context(archive.open(f"{name}.npy")), start) for name in chosen}
        first, N = next((name, array.shape[0]) for name, array in arrays.items())
        for name, array in arrays.items():
            if array.shape[0] != N:
                raise ValueError(f"{name}: expected {N} rows, as {first}, got {array.shape[0]}")
        for begin in range(start, N, ROWS):
            yield {name: array.read(min(ROWS, N - begin)) for name, array in arrays.items()}


class _Array:
    """An array in a file, of which rows are read in step."""

    def __init__(self, name: str, f: IO[bytes], start: int) -> None:
        self.name, self.f = name, f
        self.shape, by_columns, self.dtype = _read_header(name, f)
        if not self.shape:
            raise ValueError(f"{name}: expected an array of shape [N] or [N, F], got a number")
        if self.dtype.hasobject:
            raise TypeError(f"{name}: expected numbers, text or times, got objects, which only unpickling can read")
        if by_columns and len(self.shape) > 1:  # a row is all over the file
            whole = np.frombuffer(f.read(), self.dtype).reshape(self.shape, order="F")
            self.f = io.BytesIO(np.ascontiguousarray(whole).tobytes())
        self.row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        self.f.seek(start * self.row_bytes, io.SEEK_CUR)

    def read(self, rows: int) -> NDArray[Any]:
        data = self.f.read(rows * self.row_bytes)
        if len(data) != rows * self.row_bytes:
            raise ValueError(f"{self.name}: expected {self.shape[0]} rows, got a file that ends before")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:]).astype(self.dtype.newbyteorder("="))


def _read_header(name: str, f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns are stored first, and dtype."""
    version = np.lib.format.read_magic(f)
    size = f.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > _MAX_HEADER:  # NumPy would read all of it before it checks
        raise ValueError(f"{name}: expected an array's header of at most {_MAX_HEADER:,} bytes, got {length:,}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(size + f.read(length)))
