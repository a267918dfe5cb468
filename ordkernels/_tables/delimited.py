"""CSV and TSV files, also compressed by gzip: a header with the columns' names, then rows of as many cells.

Cells with the delimiter or quotes in them are quoted, quotes in them doubled; there are no line breaks in cells. The text is UTF-8, with
or without a byte order mark, a line is a row, and lines end in LF, CRLF or CR; blank lines do not count. The standard library's csv
module defines how a file is read; pyarrow reads those parts where both agree. Lines have fewer than `BLOCK` characters, cells at most as
many as the csv module takes (131,072 unless a program changes it), headers at most `MAX_COLUMNS` names.
"""

import codecs
import contextlib
import csv
import gzip
import importlib
import importlib.util
import io
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from .cells import CellError, Parser
from .column import Chunk, Columns, require

__all__ = ["names", "read_cells", "read_delimited"]

BLOCK = 1 << 22
MAX_COLUMNS = 1 << 17
_LF, _CR, _QUOTE = b'\n\r"'
_BATCH = 1 << 14  # rows as lists of text: more objects alive at once make the garbage collector slow


def read_delimited(path: Path, columns: Columns) -> Iterator[Chunk]:
    with _opened(path, _delimiter(path)) as table:
        require(path, columns, table.names)
        parsers = [Parser(column.name, column.kind) for column in columns]
        with contextlib.closing(table.cells([column.name for column in columns])) as batches:
            for batch in batches:
                yield _parse(parsers, batch)


def names(path: Path) -> list[str]:
    with _opened(path, _found_delimiter(path)) as table:
        return table.names


def read_cells(path: Path, chosen: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cells of these columns in batches: as pyarrow arrays of binary, or lists of text."""
    with _opened(path, _found_delimiter(path)) as table, contextlib.closing(table.cells(chosen)) as batches:
        for batch in batches:
            yield dict(zip(chosen, batch, strict=True))


@contextlib.contextmanager
def _opened(path: Path, delimiter: str) -> Iterator["_Table"]:
    open_file: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with open_file(path, "rb") as f:
        yield _Table(path, f, delimiter)


def _delimiter(path: Path) -> str:
    return "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ","


def _found_delimiter(path: Path) -> str:
    """The one that the header has most of: many files that end in .csv have semicolons."""
    with _opened(path, _delimiter(path)) as table:
        header = table.delimiter.join(table.names)
    return max((_delimiter(path), "\t", ";", ",", "|"), key=header.count)


def _parse(parsers: Sequence[Parser], batch: Sequence[Any]) -> Chunk:
    chunk, errors = [], []
    for parser, cells in zip(parsers, batch, strict=True):
        try:
            chunk.append(parser(cells))
        except CellError as error:
            errors.append(error)
    if errors:
        raise min(errors, key=lambda error: error.row)  # the same with batches of any size
    return chunk


class _Table:
    """An open file: its header, and its columns in batches."""

    def __init__(self, path: Path, f: IO[bytes], delimiter: str) -> None:
        self.path, self.f, self.delimiter = path, f, delimiter
        self.begin = len(codecs.BOM_UTF8) if f.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0  # the byte where to read on
        self.n_rows = -1  # so far; the header is read as a row
        with self._rows_of_text() as rows:
            header = next((row for row in rows if row), None)
        if not header:
            raise ValueError(f"{path}: expected a header line with the columns' names, got none")
        if len(header) > MAX_COLUMNS:
            raise ValueError(f"{path}: expected at most {MAX_COLUMNS:,} columns, got {len(header):,}")
        for cell in header:
            cell.encode("utf-8", "surrogateescape").decode("utf-8")  # raises for another encoding
        self.names = [cell.strip() for cell in header]
        self.n_rows = 0

    @contextlib.contextmanager
    def _rows_of_text(self) -> Iterator[Iterator[list[str]]]:
        """The rows from `begin` on as the csv module reads them, a line each; `begin` moves on with every line."""
        self.f.seek(self.begin)
        text = io.TextIOWrapper(self.f, "utf-8", "surrogateescape", newline="")
        try:
            yield self._parsed(text)
        finally:
            text.detach()  # or it would close the file

    def _parsed(self, text: IO[str]) -> Iterator[list[str]]:
        in_row = False

        def lines() -> Iterator[str]:
            nonlocal in_row
            while line := text.readline(BLOCK):
                if len(line) >= BLOCK:
                    raise ValueError(f"{self.path}: expected lines of fewer than {BLOCK:,} characters, got a longer one {self._place()}")
                if in_row:
                    raise ValueError(f"{self.path}: expected one row per line, got a line break inside a cell {self._place()}")
                in_row = True
                self.begin += len(line.encode("utf-8", "surrogateescape")) if self.n_rows < 0 else 0  # only the header's end is needed
                yield line

        reader = csv.reader(lines(), delimiter=self.delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(f"{self.path}: expected CSV, got an error {self._place()}: {error}") from None
            in_row = False
            yield row

    def _place(self) -> str:
        return f"in row {self.n_rows}" if self.n_rows >= 0 else "in the header"

    def cells(self, chosen: Sequence[str]) -> Generator[list[Any], None, None]:
        """The columns of these names."""
        index = [self.names.index(name) for name in chosen]
        return self.by_csv(index) if importlib.util.find_spec("pyarrow") is None else self.by_arrow(index)

    def by_csv(self, index: Sequence[int]) -> Generator[list[Any], None, None]:
        """The columns at `index` of the rows from `begin` on, as lists of text."""
        batch: list[list[str]] = []
        with self._rows_of_text() as rows:
            try:
                for row in self._whole(rows):
                    batch.append([row[i] for i in index])
                    if len(batch) == _BATCH:
                        yield _columns(batch)
                        batch = []
            except ValueError:  # of a row; what is wrong with the cells before it comes first
                if batch:
                    yield _columns(batch)
                raise
            if batch:
                yield _columns(batch)

    def _whole(self, rows: Iterator[list[str]]) -> Iterator[list[str]]:
        width = len(self.names)
        for row in rows:
            if len(row) == width:
                yield row
                self.n_rows += 1
            elif row and not (len(row) == 1 and row[0].isspace()):  # else a blank line
                raise ValueError(f"{self.path}: expected {width} cells in every row, as in the header, got {len(row)} {self._place()}")

    def by_arrow(self, index: Sequence[int]) -> Generator[list[Any], None, None]:
        """`by_csv`, as pyarrow arrays of binary for as long as pyarrow reads the file as the csv module does."""
        names = [f"{i}" for i in range(len(self.names))]
        block, is_last = b"", False
        self.f.seek(self.begin)
        while not is_last:
            block += self.f.read(BLOCK - len(block))
            is_last = len(block) < BLOCK
            end = len(block) if is_last else block.rfind(b"\n") + 1
            batch = _arrow_batch(block[:end], names, index, self.delimiter)
            if batch is None:
                yield from self.by_csv(index)
                return
            yield batch
            self.n_rows += len(batch[0])
            self.begin, block = self.begin + end, block[end:]


def _columns(rows: list[list[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _is_plain(block: bytes, delimiter: int) -> bool:
    """Whether pyarrow and the csv module surely read the same: no CR but before LF, no line with a cell too long for the csv module, quotes
    around whole cells alone and doubled within them, no line breaks within them."""
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        return False
    a = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(a == _LF)
    if np.diff(ends, prepend=-1, append=len(a)).max() > csv.field_size_limit():
        return False
    if b'"' not in block:
        return True
    quotes = np.flatnonzero(a == _QUOTE)
    opening, closing = quotes[::2], quotes[1::2]
    before, after = a[opening[opening > 0] - 1], a[closing[closing < len(a) - 1] + 1]
    return (
        len(opening) == len(closing)
        and bool((np.searchsorted(quotes, ends) % 2 == 0).all())
        and bool(np.isin(before, (_LF, _QUOTE, delimiter)).all())
        and bool(np.isin(after, (_LF, _CR, _QUOTE, delimiter)).all())
    )


def _arrow_batch(block: bytes, names: list[str], index: Sequence[int], delimiter: str) -> list[Any] | None:
    """The columns at `index` of whole rows as pyarrow arrays; None for what the csv module must read, or say what is wrong with it."""
    if not _is_plain(block, ord(delimiter)):
        return None
    pa, arrow_csv = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.csv")
    types = {names[i]: pa.binary() for i in index}
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
            convert_options=arrow_csv.ConvertOptions(include_columns=list(types), column_types=types, strings_can_be_null=False),
        )
    except pa.ArrowInvalid:  # rows of other lengths, blank rows
        return None
    return [pa.concat_arrays(table.column(names[i]).chunks) for i in index]
