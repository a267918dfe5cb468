"""Parquet files, by pyarrow: numbers, booleans, decimals, and dictionaries of these."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import Parser
from .column import Chunk, Column, Columns, require, require_kind

__all__ = ["read_parquet"]

ROWS = 1 << 17  # of a chunk
_BUFFER = 1 << 20  # bytes of a column that are read at once


def read_parquet(path: Path, columns: Columns) -> Iterator[Chunk]:
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(f"{path}: expected pyarrow, to read Parquet, got {error}: pip install 'ordkernels[files]'") from None
    try:
        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected a Parquet file, got {error}") from None
    with file:
        schema = file.schema_arrow
        require(path, columns, schema.names)
        readers = [_Reader(column, schema.field(column.name).type, pa) for column in columns]
        for batch in file.iter_batches(batch_size=ROWS, columns=[column.name for column in columns], use_threads=False):
            if batch.num_rows:
                yield [read(batch.column(column.name)) for column, read in zip(columns, readers, strict=True)]


class _Reader:
    """A column's arrays as NumPy's, NaN where a value is missing."""

    def __init__(self, column: Column, kind: Any, pa: Any) -> None:
        self.pa, self.kind = pa, kind.value_type if pa.types.is_dictionary(kind) else kind
        self.parse = None
        types = pa.types
        if types.is_decimal(self.kind) and (column.kind == "number" or self.kind.scale == 0):
            self.parse = Parser(column.name, column.kind)  # of their digits, which no cast to floats rounds
        elif not types.is_null(self.kind):
            kinds = {"i": types.is_integer, "f": types.is_floating, "b": types.is_boolean}
            require_kind(column, next((letter for letter, is_kind in kinds.items() if is_kind(self.kind)), "?"), kind)

    def __call__(self, values: Any) -> NDArray[Any]:
        pa = self.pa
        if pa.types.is_dictionary(values.type):
            values = values.cast(self.kind)
        if self.parse is not None:
            return self.parse(["" if v is None else v for v in values.cast(pa.string()).to_pylist()])
        if pa.types.is_null(self.kind):
            return np.full(len(values), np.nan)
        if pa.types.is_boolean(self.kind):
            values = values.cast(pa.uint8())  # booleans with nulls would be objects, numbers with nulls are floats with NaN
        array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return array
