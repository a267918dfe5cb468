"""A person's own table as named NumPy columns: pandas, polars, Arrow, NumPy or a dict, through narwhals."""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning

__all__ = ["Column", "Kind", "Table", "described", "first_value", "row_count", "split_target", "table_columns", "target_column"]

_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?")

_TYPES: dict[str, Any] = {
    "booleans": bool | np.bool_, "text": str, "numbers": int | float | np.floating | np.integer | Decimal, "times": datetime.date,
}  # fmt: skip

Kind = Literal["number", "flag", "category", "time"]


class Column(NamedTuple):
    """values ``[N]``: numbers in float64, int64 or uint64, flags in float64, text as objects, times in int64 microseconds."""

    kind: Kind
    values: NDArray[Any]
    missing: NDArray[np.bool_]

    def rows(self, where: Any) -> Column:
        return Column(self.kind, self.values[where], self.missing[where])


class Table:
    """X before it is read: its columns' names, and the columns.

    Args:
        X: pandas, polars, Arrow, NumPy ``[N, F]``, what has ``__array__``, rows as lists, or a dict of columns.

    Raises:
        TypeError: no table; a sparse one.
        ValueError: no columns, or two of one name; an array of other than two dimensions.
    """

    def __init__(self, X: Any) -> None:
        self.has_names, self.series = _series(X)
        if not self.series:
            shape = tuple(getattr(X, "shape", (0, 0)))
            raise ValueError(f"X: expected at least one column, got none: 0 feature(s) (shape={shape}) while a minimum of 1 is required.")

    @property
    def names(self) -> list[str]:
        return list(self.series)

    def rows(self) -> int:
        return len(next(iter(self.series.values())))

    def columns(self, only: Iterable[str] | None = None) -> dict[str, Column]:
        """The columns, or those of these names that are there.

        Raises:
            TypeError: a column of neither numbers, booleans, text, categories nor times.
            ValueError: an infinite number; columns of different lengths.
        """
        wanted = self.series if only is None else {name for name in only if name in self.series}
        columns = {name: _column(name, series) for name, series in self.series.items() if name in wanted}
        first = next(iter(columns), "")
        for name, c in columns.items():
            if len(c.values) != len(columns[first].values):
                raise ValueError(f"column {name!r}: expected {len(columns[first].values)} rows, as {first!r} has, got {len(c.values)}")
            if c.values.dtype.kind == "f" and not np.isfinite(c.values).all():
                row = int(np.argmin(np.isfinite(c.values)))
                raise ValueError(f"column {name!r}: expected finite numbers, got {c.values[row]} at row {row}")
        return columns


def table_columns(X: Any) -> dict[str, Column]:
    """The columns by their names; those of a NumPy array are "0", "1", ... Errors as of `Table`."""
    return Table(X).columns()


def row_count(columns: Mapping[str, Column]) -> int:
    """Of `table_columns`, which has at least one column, and as many rows in each."""
    return len(next(iter(columns.values())).values)


def split_target(table: Table, y: Any) -> tuple[str | None, Any]:
    """The name of the target, where it has one, and its values: y, or the column that it names. The table's column is removed."""
    if not isinstance(y, str):
        name = getattr(y, "name", None)
        name = None if name is None else str(name)
        table.series.pop(name or "", None)
        found = name, y
    elif y in table.series:
        found = y, table.series.pop(y)
    else:
        raise ValueError(f"y: expected the target, or the name of a column ({', '.join(map(repr, table.names))}), got {y!r}")
    if not table.series:
        raise ValueError(f"X: expected at least one column besides the target, got {found[0]!r} alone")
    return found


def target_column(y: Any, rows: int, name: str = "y") -> NDArray[np.float64]:
    """The target, ``[N]`` finite numbers of at least 0.

    Raises:
        TypeError, ValueError: with the row, and what was expected.
    """
    if y is None:
        raise ValueError(f"{name}: expected a number for each row of X, got None; fit requires y to be passed, but the target y is None")
    column = _column(name, _one_column(y))
    if column.kind not in ("number", "flag"):
        raise TypeError(f"{name}: expected numbers, got {described(column.kind)}{first_value(column)}")
    values = column.values.astype(np.float64)
    if len(values) != rows:
        raise ValueError(f"{name}: expected {rows} rows, as X has, got {len(values)}")
    for bad, what in ((column.missing, "a missing value"), (~np.isfinite(values), "an infinite value"), (values < 0, "a negative value")):
        if bad.any():
            row = int(bad.argmax())
            shown = "" if column.missing[row] else f": {values[row]:g}"
            raise ValueError(f"{name}: expected finite numbers of at least 0, got {what} at row {row}{shown}")
    return values


def described(kind: Kind) -> str:
    return {"number": "numbers", "flag": "booleans", "category": "text", "time": "times"}[kind]


def first_value(c: Column) -> str:
    """The first value that is there, and its row: for a message."""
    if c.missing.all():
        return ""
    row = int(np.argmin(c.missing))
    value = str(np.datetime64(int(c.values[row]), "us")) if c.kind == "time" else c.values[row]
    return f" ({value!r} at row {row})"


def _one_column(y: Any) -> Any:
    """Of a table of one column, that one: with scikit-learn's warning."""
    shape = getattr(y, "shape", ())
    if len(shape) != 2:
        return y
    if shape[1] != 1:
        raise ValueError(f"y: expected one number a row, [N], got shape {list(shape)}")
    warnings.warn(
        f"A column-vector y was passed when a 1d array was expected: y has shape {tuple(shape)}, expected [N], as of y.ravel().",
        DataConversionWarning,
        stacklevel=4,
    )
    return y[:, 0] if isinstance(y, np.ndarray) else next(iter(_series(y)[1].values()))


def _series(X: Any) -> tuple[bool, dict[str, Any]]:
    """Whether the columns have names of their own, and the columns by their names."""
    if isinstance(X, Mapping):
        names, series = list(X), list(X.values())
        return True, _named(names, series)
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise TypeError(f"X: expected a dense table, got {type(X).__name__}: sparse data is not supported, X.toarray() makes it dense")
    try:
        frame = nw.from_native(X, pass_through=True)
    except DuplicateError:
        names = getattr(X, "column_names", None) or list(X.columns)
        raise _twice(next(name for name in names if names.count(name) > 1)) from None
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, nw.DataFrame):
        return True, _named(frame.columns, list(frame.iter_columns()))
    rows_of_cells = isinstance(X, list | tuple) and X and isinstance(X[0], list | tuple | np.ndarray)
    if not rows_of_cells and not isinstance(X, np.ndarray) and (not hasattr(X, "__array__") or isinstance(frame, nw.Series)):
        raise TypeError(f"X: expected a table (pandas, polars, Arrow, NumPy or a dict of columns), got {type(X).__name__}")
    array = np.asarray(X)
    if array.dtype.names:
        return True, {column: array[column] for column in array.dtype.names}
    if array.ndim != 2:
        raise ValueError(
            f"X: expected a table of rows and columns, [N, F], got an array of shape {list(array.shape)}. Reshape your data: "
            "X.reshape(-1, 1) if it is one column, X.reshape(1, -1) if it is one row."
        )
    return False, {str(k): array[:, k] for k in range(array.shape[1])}


def _named(names: list[Any], series: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in zip(map(str, names), series, strict=True):
        if name in found:
            raise _twice(name)
        found[name] = values
    return found


def _twice(name: str) -> ValueError:
    return ValueError(f"X: expected columns of different names, got {name!r} twice")


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
        return _of_text(s.cast(nw.String).fill_null("").to_numpy().astype(object), missing)
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
        return _of_text(a.astype(str).astype(object), none)
    if a.dtype.kind == "O":
        return _of_objects(name, a, none)
    if a.dtype.kind == "c":
        raise ValueError(f"column {name!r}: expected real numbers, got {a.dtype}. Complex data not supported")
    raise TypeError(f"column {name!r}: expected numbers, booleans, text, categories or times, got {a.dtype}")


def _of_objects(name: str, a: NDArray[Any], missing: NDArray[np.bool_]) -> Column:
    missing = missing | np.array([v is None or v != v or type(v).__name__ in ("NAType", "NaTType") for v in a], dtype=bool)
    present = [v for v, gone in zip(a.tolist(), missing, strict=True) if not gone]
    found = {_type_of(v) for v in present}
    if len(found) > 1 or not found <= set(_TYPES):
        first = _type_of(present[0])
        odd = next((v for v in present if _type_of(v) not in _TYPES), next((v for v in present if _type_of(v) != first), None))
        row = next(k for k, v in enumerate(a.tolist()) if v is odd)
        raise TypeError(
            f"column {name!r}: expected numbers, booleans, text, categories or times, got {' and '.join(sorted(found))} in it "
            f"({a[row]!r} at row {row})"
        )
    if found == {"times"}:
        return Column("time", np.array([0 if gone else _microseconds(v) for v, gone in zip(a, missing, strict=True)], np.int64), missing)
    filler: Any = "" if found == {"text"} else 0
    values = np.array([filler if gone else v for v, gone in zip(a.tolist(), missing, strict=True)], dtype=object)
    if found == {"text"}:
        return _of_text(values, missing)
    whole = all(isinstance(v, int) for v in present) and found == {"numbers"}
    try:
        return Column("flag" if found == {"booleans"} else "number", values.astype(np.int64 if whole else np.float64), missing)
    except OverflowError as error:
        raise ValueError(f"column {name!r}: expected numbers of at most 64 bits, got larger ones") from error


def _of_text(values: NDArray[Any], missing: NDArray[np.bool_]) -> Column:
    """Text, or times where all of it is ISO dates."""
    if missing.all() or not _ISO_DATE.fullmatch(values[int(np.argmin(missing))]):
        return Column("category", values, missing)
    found = np.where(missing, "1970-01-01", values).tolist()
    try:
        if all(map(_ISO_DATE.fullmatch, found)):
            return Column("time", np.array(found, dtype="datetime64[us]").astype(np.int64), missing)
    except ValueError:
        pass
    return Column("category", values, missing)


def _type_of(value: Any) -> str:
    for kind, types in _TYPES.items():
        if isinstance(value, types):
            return kind
    return type(value).__name__


def _microseconds(value: datetime.date) -> int:
    """Since 1970, in UTC where there is a time zone."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return int(np.datetime64(value, "us").astype(np.int64))
