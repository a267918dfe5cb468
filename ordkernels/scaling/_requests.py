"""Bodies of requests as columns and options, and predictions as bodies of responses: JSON and Arrow streams."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation.numbers import integer, real

__all__ = ["ARROW", "JSON", "Asked", "RequestError", "arrow_body", "arrow_request", "json_body", "json_request"]

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
_OPTIONS = ("quantiles", "samples", "draws", "seed", "row_id")


class RequestError(ValueError):
    """What is wrong with a request, and the status that says so."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """Rows to predict, and what of them.

    Args:
        columns: by name, of one length.
        rows: how many.
        row_id: column of ids, None: the model's own, or the rows' places.
    """

    columns: Mapping[str, Any]
    rows: int
    quantiles: tuple[float, ...] | None = None
    samples: int = 0
    draws: int = 128
    seed: int = 0
    row_id: str | None = field(default=None)


def json_request(body: bytes, most_rows: int) -> Asked:
    """``{"rows": [{...}, ...]}`` or ``{"columns": {name: [...]}}``, with options beside them.

    Raises:
        RequestError: 400 another body, 413 too many rows.
        TypeError, ValueError: options out of range.
    """
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"body: expected JSON, got {_short(error)}") from error
    if not isinstance(content, dict) or ("rows" in content) == ("columns" in content):
        raise RequestError(400, 'body: expected an object with either "rows", a list of objects, or "columns", an object of lists')
    if unknown := [name for name in content if name not in ("rows", "columns", *_OPTIONS)]:
        raise RequestError(400, f"body: expected rows or columns, {', '.join(_OPTIONS)}, got {unknown[0]!r}")
    columns = _of_rows(content["rows"], most_rows) if "rows" in content else _of_columns(content["columns"], most_rows)
    rows = len(next(iter(columns.values())))
    return Asked(columns, rows, **_options({name: content[name] for name in _OPTIONS if content.get(name) is not None}))


def arrow_request(body: bytes, query: Any, most_rows: int) -> Asked:
    """An Arrow IPC stream, with options from the query.

    Args:
        query: multi-dict of the query's parameters.

    Raises:
        RequestError: 400 another body, 413 too many rows, 415 compressed buffers, whose sizes only decompression tells; no pyarrow.
        TypeError, ValueError: options out of range.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise RequestError(415, f"content-type: expected {JSON}, Arrow needs pyarrow on the server: pip install 'ordkernels[files]'")
    pa, ipc = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.ipc")
    if unknown := [name for name in query if name not in _OPTIONS]:
        raise RequestError(400, f"query: expected {', '.join(_OPTIONS)}, got {unknown[0]!r}")
    options: dict[str, Any] = {name: _number(name, query[name]) for name in ("samples", "draws", "seed") if name in query}
    if "quantiles" in query:
        options["quantiles"] = [_number("quantiles", q) for text in query.getlist("quantiles") for q in text.split(",")]
    options |= {"row_id": query["row_id"]} if "row_id" in query else {}
    try:
        for message in ipc.MessageReader.open_stream(body):
            if _is_compressed(message.metadata.to_pybytes()):
                raise RequestError(415, "body: expected an Arrow stream without compression, got compressed buffers")
        batches, rows = [], 0
        with ipc.open_stream(body) as reader:
            for batch in reader:
                rows += batch.num_rows
                if rows > most_rows:
                    raise RequestError(413, f"rows: expected at most {most_rows:,}, got more")
                batch.validate(full=True)
                batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, OSError, struct.error, IndexError, KeyError) as error:
        raise RequestError(400, f"body: expected an Arrow IPC stream, got {_short(error)}") from error
    names = table.column_names
    if not rows or len(set(names)) < len(names):
        raise RequestError(400, f"body: expected rows, and columns of different names, got {rows} rows of {', '.join(map(repr, names))}")
    return Asked({name: table[name] for name in names}, rows, **_options(options))


def json_body(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Predictions as ``{"predictions": {name: [...]}}``: decimals that give the same bits again, null where there is no finite one."""
    lists = {
        name: c.tolist() if np.isfinite(c).all() else [v if math.isfinite(v) else None for v in c.tolist()] for name, c in columns.items()
    }
    return json.dumps({"predictions": lists}).encode()


def arrow_body(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Predictions as an Arrow IPC stream."""
    pa, ipc = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.ipc")
    table = pa.table({name: pa.array(c) for name, c in columns.items()})
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def times(columns: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The columns with those of times parsed, where they are text in ISO 8601."""
    found = dict(columns)
    for name in names:
        values = found.get(name)
        if isinstance(values, list) and any(isinstance(v, str) for v in values):
            found[name] = [_time(name, v) if isinstance(v, str) else v for v in values]
    return found


def _time(name: str, text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise RequestError(400, f"column {name!r}: expected times, as text in ISO 8601, got {text[:40]!r}") from error


def _of_rows(rows: Any, most_rows: int) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError(400, "rows: expected a list of at least one object")
    if len(rows) > most_rows:
        raise RequestError(413, f"rows: expected at most {most_rows:,}, got {len(rows):,}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) * len(rows) > 4 * sum(map(len, rows)) + 1000:  # objects of names of their own would grow to a table of their square
        raise RequestError(400, "rows: expected objects of the same names, got others in most rows")
    if not names:
        raise RequestError(400, "rows: expected objects with values, got empty ones")
    return {name: [row.get(name) for row in rows] for name in names}


def _of_columns(columns: Any, most_rows: int) -> dict[str, list[Any]]:
    if not isinstance(columns, dict) or not columns or not all(isinstance(c, list) for c in columns.values()):
        raise RequestError(400, "columns: expected an object of lists")
    lengths = {name: len(c) for name, c in columns.items()}
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise RequestError(400, f"column {name!r}: expected {lengths[first]} rows, as {first!r} has, got {length}")
    if not lengths[first]:
        raise RequestError(400, "columns: expected at least one row, got none")
    if lengths[first] > most_rows:
        raise RequestError(413, f"rows: expected at most {most_rows:,}, got {lengths[first]:,}")
    return columns


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked; argument errors name them."""
    found = dict(given)
    if "quantiles" in found:
        if not isinstance(found["quantiles"], list):
            raise TypeError(f"quantiles: expected a list of levels, got {found['quantiles']!r}")
        levels = [real("quantiles", q) for q in found["quantiles"]]
        if not all(0 < q < 1 for q in levels) or len({f"{q:g}" for q in levels}) < len(levels) or len(levels) > 1000:
            raise ValueError("quantiles: expected at most 1000 different levels strictly between 0 and 1")
        found["quantiles"] = tuple(levels)
    for name, least, most in (("samples", 0, 2**15), ("draws", 1, 2**15), ("seed", 0, 2**63 - 1)):
        if name in found:
            found[name] = integer(name, found[name], least=least, most=most)
    if not isinstance(found.get("row_id", ""), str):
        raise TypeError(f"row_id: expected the name of a column, got {found['row_id']!r}")
    return found


def _number(name: str, text: str) -> float:
    try:
        return int(text) if name != "quantiles" else float(text)
    except ValueError as error:
        raise RequestError(400, f"{name}: expected a number, got {text[:40]!r}") from error


def _no_constant(text: str) -> float:
    raise ValueError(f"{text}, which JSON has not")


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message's header, a FlatBuffer of Arrow's Message.fbs, is of a batch with ``compression``."""

    def field_at(table: int, number: int) -> int:
        """Where a table's field is; 0 for one that is not set."""
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        size: int = struct.unpack_from("<H", metadata, vtable)[0]
        place = 4 + 2 * number
        offset: int = struct.unpack_from("<H", metadata, vtable + place)[0] if place + 2 <= size else 0
        return table + offset if offset else 0

    def table_at(position: int) -> int:
        target: int = position + struct.unpack_from("<I", metadata, position)[0]
        return target

    root = table_at(0)
    kind_at, header_at = field_at(root, 1), field_at(root, 2)
    kind = metadata[kind_at] if kind_at else 0
    if not header_at or kind not in (2, 3):  # DictionaryBatch, RecordBatch
        return False
    batch = table_at(header_at)
    if kind == 2:
        data = field_at(batch, 1)
        if not data:
            return False
        batch = table_at(data)
    return bool(field_at(batch, 3))
