"""A person's own table as named NumPy columns: pandas, polars, Arrow, NumPy or a dict, through narwhals."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

__all__ = ["Column", "Kind", "row_count", "table_columns", "target_column"]

Kind = Literal["number", "flag", "category", "time"]


class Column(NamedTuple):
    """values ``[N]``: numbers in float64, int64 or uint64, flags in float64, text as objects, times in int64 microseconds."""

    kind: Kind
    values: NDArray[Any]
    missing: NDArray[np.bool_]

    def rows(self, where: Any) -> Column:
        return Column(self.kind, self.values[where], self.missing[where])


def table_columns(X: Any, name: str = "X") -> dict[str, Column]:
    """The columns by their names; those of a NumPy array are "0", "1", ...

    Raises:
        TypeError: no table, or a column of neither numbers, booleans, text, categories nor times.
        ValueError: no rows or columns, two columns of one name, columns of different lengths.
    """
    columns = {column: _column(column, series) for column, series in _series(X, name).items()}
    if not columns:
        raise ValueError(f"{name}: expected at least one column, got none")
    lengths = {column: len(c.values) for column, c in columns.items()}
    first = next(iter(lengths))
    for column, length in lengths.items():
        if length != lengths[first]:
            raise ValueError(f"column {column!r}: expected {lengths[first]} rows, as {first!r} has, got {length}")
    return columns


def row_count(columns: Mapping[str, Column]) -> int:
    """Of `table_columns`, which has at least one column, and as many rows in each."""
    return len(next(iter(columns.values())).values)


def target_column(y: Any, rows: int, name: str = "y") -> NDArray[np.float64]:
    """The target, ``[N]`` finite numbers of at least 0."""
    if isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    column = _column(name, y)
    if column.kind not in ("number", "flag"):
        raise TypeError(f"{name}: expected numbers, got {'text' if column.kind == 'category' else 'times'}")
    values = column.values.astype(np.float64)
    if len(values) != rows:
        raise ValueError(f"{name}: expected {rows} rows, as X has, got {len(values)}")
    for bad, what in ((column.missing, "a missing value"), (~np.isfinite(values), "an infinite value"), (values < 0, "a negative value")):
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"{name}: expected finite numbers of at least 0, got {what} at row {row}" + _shown(values[row]))
    return values


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f": {value:g}"


def _series(X: Any, name: str) -> dict[str, Any]:
    if isinstance(X, Mapping):
        return {str(column): values for column, values in X.items()}
    if isinstance(X, np.ndarray) or (isinstance(X, list | tuple) and X and isinstance(X[0], list | tuple | np.ndarray)):
        array = np.asarray(X)
        if array.dtype.names:
            return {column: array[column] for column in array.dtype.names}
        if array.ndim != 2:
            raise ValueError(f"{name}: expected a table of rows and columns, [N, F], got an array of shape {list(array.shape)}")
        return {str(k): array[:, k] for k in range(array.shape[1])}
    frame = nw.from_native(X, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, nw.DataFrame):
        raise TypeError(f"{name}: expected a table (pandas, polars, Arrow, NumPy or a dict of columns), got {type(X).__name__}")
    names = list(map(str, frame.columns))
    for column in names:
        if names.count(column) > 1:
            raise ValueError(f"{name}: expected columns of different names, got {column!r} twice")
    return {str(column): frame[column] for column in frame.columns}


def _column(name: str, values: Any) -> Column:
    series = values if isinstance(values, nw.Series) else nw.from_native(values, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return _of_series(name, series)
    if isinstance(values, list | tuple):  # NumPy would make text of numbers beside text
        objects = np.empty(len(values), dtype=object)
        objects[:] = values
        return _of_array(name, objects)
    return _of_array(name, np.asarray(values))


def _of_series(name: str, s: Any) -> Column:
    dtype = s.dtype
    missing = s.is_null().to_numpy().astype(bool)
    if dtype == nw.Boolean:
        return Column("flag", s.fill_null(False).to_numpy().astype(np.float64), missing)
    if dtype.is_numeric():
        filled = s.cast(nw.Float64) if dtype.is_decimal() else s
        return _of_array(name, (filled.fill_null(0) if missing.any() else filled).to_numpy(), missing)
    if dtype == nw.Duration:
        return _of_array(name, s.dt.total_microseconds().fill_null(0).to_numpy() / 1e6, missing)
    if dtype in (nw.Datetime, nw.Date):
        return Column("time", s.cast(nw.Datetime("us")).dt.timestamp("us").fill_null(0).to_numpy().astype(np.int64), missing)
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return Column("category", s.cast(nw.String).fill_null("").to_numpy().astype(object), missing)
    if dtype == nw.Object:
        return _of_array(name, s.to_numpy())
    raise TypeError(f"column {name!r}: expected numbers, booleans, text, categories or times, got {dtype}")


def _of_array(name: str, a: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Column:
    if a.ndim != 1:
        raise ValueError(f"column {name!r}: expected one value a row, got shape {list(a.shape)}")
    none = np.zeros(len(a), dtype=bool) if missing is None else missing
    if a.dtype == bool:
        return Column("flag", a.astype(np.float64), none)
    if a.dtype.kind in "iu":
        return Column("number", a.astype(np.uint64 if a.dtype.kind == "u" else np.int64), none)
    if a.dtype.kind == "f":
        values = a.astype(np.float64)
        return Column("number", np.where(np.isnan(values), 0.0, values), none | np.isnan(values))
    if a.dtype.kind == "M":
        return Column("time", np.where(np.isnat(a), 0, a.astype("datetime64[us]").astype(np.int64)), none | np.isnat(a))
    if a.dtype.kind in "US":
        return Column("category", a.astype(str).astype(object), none)
    if a.dtype.kind == "O":
        return _of_objects(name, a, none)
    raise TypeError(f"column {name!r}: expected numbers, booleans, text, categories or times, got {a.dtype}")


def _of_objects(name: str, a: NDArray[Any], missing: NDArray[np.bool_]) -> Column:
    missing = missing | np.array([v is None or v != v or type(v).__name__ in ("NAType", "NaTType") for v in a], dtype=bool)
    present = [v for v, gone in zip(a.tolist(), missing, strict=True) if not gone]
    found = {_type_of(v) for v in present}
    if len(found) > 1 or not found <= {"booleans", "text", "numbers", "times"}:
        raise TypeError(f"column {name!r}: expected numbers, booleans, text, categories or times, got {' and '.join(sorted(found))} in it")
    if found == {"times"}:
        return Column("time", np.array([0 if gone else _microseconds(v) for v, gone in zip(a, missing, strict=True)], np.int64), missing)
    filler: Any = "" if found == {"text"} else 0
    values = np.array([filler if gone else v for v, gone in zip(a.tolist(), missing, strict=True)], dtype=object)
    if found == {"text"}:
        return Column("category", values, missing)
    whole = all(isinstance(v, int) for v in present) and found == {"numbers"}
    return Column("flag" if found == {"booleans"} else "number", values.astype(np.int64 if whole else np.float64), missing)


def _type_of(value: Any) -> str:
    for kind, types in (("booleans", bool | np.bool_), ("text", str), ("numbers", int | float | np.number), ("times", datetime.date)):
        if isinstance(value, types):
            return kind
    return type(value).__name__


def _microseconds(value: datetime.date) -> int:
    """Since 1970, in UTC where there is a time zone."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return int(np.datetime64(value, "us").astype(np.int64))
