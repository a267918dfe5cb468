"""Tables written to files, block by block: CSV, Parquet, Arrow and NPZ. The same blocks make the same bytes."""

import contextlib
import functools
import gzip
import importlib
import importlib.util
import os
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from .._atomic import replacing

__all__ = ["WRITABLE", "ending_of", "write"]

Columns = dict[str, NDArray[Any]]
Blocks = Callable[[Collection[str] | None], Iterator[Columns]]  # those columns of all blocks, or all; called again where a format needs it

WRITABLE = ".csv, .csv.gz, .tsv, .tsv.gz, .parquet, .arrow, .feather or .npz"


def ending_of(path: Path) -> str:
    """The ending that says how a file is written. ValueError for an unknown one, ImportError without pyarrow for those that need it."""
    for ending in _WRITERS:
        if path.name.lower().endswith(ending):
            if ending in _BY_ARROW and importlib.util.find_spec("pyarrow") is None:
                raise ImportError(f"{path}: expected pyarrow, to write {ending} files, got none: pip install 'ordkernels[files]'")
            return ending
    raise ValueError(f"{path}: expected a name that ends in {WRITABLE}")


def write(path: Path, blocks: Blocks, rows: int) -> None:
    """The file, whole or not at all.

    Args:
        blocks: gives the blocks, one after the other, each with columns of the same names ``[n]``.
        rows: of all blocks.
    """
    ending = ending_of(path)
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o644)
        _WRITERS[ending](file, blocks, rows)


def _write_csv(file: IO[bytes], blocks: Blocks, rows: int, delimiter: str = ",") -> None:
    header = True
    for block in blocks(None):
        if header:
            file.write((delimiter.join(_quoted(name, delimiter) for name in block) + "\n").encode())
        header = False
        if importlib.util.find_spec("pyarrow") is None:
            cells = zip(*(_cells(values, delimiter) for values in block.values()), strict=True)
            file.write("".join(delimiter.join(row) + "\n" for row in cells).encode())
        else:
            pa, csv = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.csv")
            options = csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="needed")
            csv.write_csv(_arrow_table(pa, block), file, options)


def _cells(values: NDArray[Any], delimiter: str) -> list[str]:
    """Numbers as short as they can be read back, nothing for what is missing."""
    if values.dtype.kind in "fM":
        missing = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
        return ["" if gone else cell.replace("T", " ") for cell, gone in zip(values.astype(str).tolist(), missing.tolist(), strict=True)]
    if values.dtype.kind == "b":
        return ["true" if value else "false" for value in values.tolist()]
    return [_quoted(cell, delimiter) for cell in values.astype(str).tolist()]


def _quoted(cell: str, delimiter: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in (delimiter, '"', "\n", "\r")) else cell


def _arrow_table(pa: Any, block: Columns) -> Any:
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in block.items()})  # NaN is missing


def _write_csv_gz(file: IO[bytes], blocks: Blocks, rows: int, delimiter: str = ",") -> None:
    with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        _write_csv(cast(IO[bytes], packed), blocks, rows, delimiter)


def _write_parquet(file: IO[bytes], blocks: Blocks, rows: int) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    _write_by_arrow(file, blocks, lambda schema: parquet.ParquetWriter(file, schema))


def _write_arrow(file: IO[bytes], blocks: Blocks, rows: int) -> None:
    ipc = importlib.import_module("pyarrow.ipc")
    _write_by_arrow(file, blocks, lambda schema: ipc.new_file(file, schema))


def _write_by_arrow(file: IO[bytes], blocks: Blocks, opened: Callable[[Any], Any]) -> None:
    pa = importlib.import_module("pyarrow")
    with contextlib.ExitStack() as stack:
        writer = None
        for block in blocks(None):
            table = _arrow_table(pa, block)
            writer = writer or stack.enter_context(opened(table.schema))
            writer.write_table(table)


def _write_npz(file: IO[bytes], blocks: Blocks, rows: int) -> None:
    dtypes: dict[str, np.dtype[Any]] = {}
    for block in blocks(None):  # text is as wide as the longest of all blocks
        dtypes = {name: np.promote_types(dtypes.get(name, values.dtype), values.dtype) for name, values in block.items()}
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, dtype in dtypes.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
                np.lib.format.write_array_header_1_0(entry, header)
                for block in blocks([name]):
                    entry.write(block[name].astype(dtype).tobytes())


_WRITERS: dict[str, Callable[[IO[bytes], Blocks, int], None]] = {
    ".csv": _write_csv, ".csv.gz": _write_csv_gz,
    ".tsv": functools.partial(_write_csv, delimiter="\t"), ".tsv.gz": functools.partial(_write_csv_gz, delimiter="\t"),
    ".parquet": _write_parquet, ".arrow": _write_arrow, ".feather": _write_arrow, ".npz": _write_npz,
}  # fmt: skip
_BY_ARROW = (".parquet", ".arrow", ".feather")
