"""Cells of text to numbers, by one rule, with and without pyarrow.

A number is ASCII digits with an optional sign, decimal point and exponent, or ``inf`` or ``infinity``; it is float64, and a whole number
without point and exponent is exact. ``true`` and ``false`` are 1 and 0 in a column that has nothing else. Case does not matter, nor do
spaces and tabs around a cell. The cells of `MISSING` are missing. Nothing else is a number: no ``1_000``, ``1,000``, ``0x10``, no digits
of other scripts.
"""

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MISSING", "CellError", "Parser", "shown"]

MISSING = frozenset(("", "na", "nan", "-nan", "n/a", "#n/a", "<na>", "null", "none"))
_BOOLEANS = {"true": 1.0, "false": 0.0}
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"([+-]?)0*([0-9]+)", re.ASCII)
_SPACE = " \t"
_IN_NUMBERS = {"number": b"0123456789+-.eE \t", "integer": b"0123456789+- \t"}


class CellError(TypeError):
    """A cell that is not what its column holds; `row` counts from 0."""

    def __init__(self, name: str, expected: str, cell: str, row: int) -> None:
        super().__init__(f"{name}: expected {expected}, got {shown(cell)} in row {row}")
        self.row = row


class Parser:
    """The numbers of one column, a chunk of its cells at a time: a list of text, or a pyarrow array of binary.

    Args:
        name: of the column, for messages.
        kind: ``"number"``, ``"integer"`` or ``"text"``, as in `Column`.
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.row = 0
        self._booleans: bool | None = None  # whether the cells so far are; None while all are missing
        self._negative = self._unsigned = False

    def __call__(self, cells: Any) -> NDArray[Any]:
        """Raises CellError for a cell that is no number, or a whole number that nothing holds exactly."""
        if self.kind == "text":
            found: NDArray[Any] = np.array(_as_text(cells), dtype=object)
        else:
            fast = _convert_text(cells, self.kind) if isinstance(cells, list) else _convert_arrow(cells, self.kind)
            found = self._each(_as_text(cells)) if fast is None or self._booleans else self._checked(cells, fast)
        self.row += len(found)
        return found

    def _checked(self, cells: Any, fast: NDArray[Any]) -> NDArray[Any]:
        if not len(fast):
            return fast
        if self.kind == "integer":
            if fast.min() < 0:
                i = int((fast < 0).argmax())
                self._require_one_sign(int(fast[i]), str(fast[i]), self.row + i)
            return fast
        self._booleans = False
        if np.abs(fast).max() < 2**53:
            return fast
        whole = None if isinstance(cells, list) else _convert_arrow(cells, "integer")
        return self._exact(_as_text(cells), fast) if whole is None else whole

    def _each(self, cells: Sequence[str]) -> NDArray[Any]:
        """Cell by cell: finds missing values, and names what is not a number."""
        parse = self._integer if self.kind == "integer" else self._number
        values = [parse(cell.strip(_SPACE), cell, self.row + i) for i, cell in enumerate(cells)]
        if self.kind == "integer":
            has_missing = any(v != v for v in values)
            return np.array(values, np.float64 if has_missing else np.int64)
        return self._exact(cells, np.array(values, np.float64))

    def _number(self, text: str, cell: str, row: int) -> float:
        lower = text.lower()
        if lower in MISSING:
            return np.nan
        is_boolean = lower in _BOOLEANS
        if self._booleans not in (None, is_boolean) or not (is_boolean or _NUMBER.fullmatch(text)):
            raise CellError(self.name, "true or false, as in the rows before" if self._booleans else "numbers", cell, row)
        self._booleans = is_boolean
        x = _BOOLEANS[lower] if is_boolean else float(text)
        if 2**53 <= abs(x) < np.inf and (n := _whole(text)) is not None:
            self._longdouble(n, cell, row)
        return x

    def _integer(self, text: str, cell: str, row: int) -> float:
        if text.lower() in MISSING:
            return np.nan
        n = _whole(text)
        if n is None or not -(2**63) <= n < 2**64:
            raise CellError(self.name, "integers of 64 bits", cell, row)
        self._require_one_sign(n, cell, row)
        return n if n < 2**63 else n - 2**64

    def _require_one_sign(self, n: int, cell: str, row: int) -> None:
        """Wrapped around, an id from 2^63 on could be taken for one below 0."""
        self._negative |= n < 0
        self._unsigned |= n >= 2**63
        if self._negative and self._unsigned:
            raise CellError(self.name, "integers of 64 bits, all signed or all unsigned", cell, row)

    def _exact(self, cells: Sequence[str], x: NDArray[np.float64]) -> NDArray[Any]:
        """`x`, or, where float64 rounds whole numbers among these cells, int64, uint64 or longdouble that holds them."""
        big = np.flatnonzero((np.abs(x) >= 2**53) & np.isfinite(x)).tolist()
        whole = {i: n for i in big if (n := _whole(cells[i].strip(_SPACE))) is not None and n != int(x[i])}
        if not whole:
            return x
        if np.isfinite(x).all() and (x == np.rint(x)).all():
            integers = [whole.get(i, int(v)) for i, v in enumerate(x.tolist())]
            if min(integers) >= 0 and max(integers) < 2**64:
                return np.array(integers, np.int64 if max(integers) < 2**63 else np.uint64)
            if min(integers) >= -(2**63) and max(integers) < 2**63:
                return np.array(integers, np.int64)
        wide = x.astype(np.longdouble)
        for i, n in whole.items():
            wide[i] = self._longdouble(n, cells[i], self.row + i)
        return wide

    def _longdouble(self, n: int, cell: str, row: int) -> np.longdouble:
        x = np.longdouble(str(n))
        if int(x) != n:
            raise CellError(self.name, "whole numbers of at most 64 bits", cell, row)
        return x


def shown(cell: str) -> str:
    """The cell in a message: on one line, and not longer than one."""
    return repr(cell) if len(cell) <= 60 else f"{cell[:40]!r}... of {len(cell):,} characters"


def _whole(text: str) -> int | None:
    match = _WHOLE.fullmatch(text)
    return int(match[1] + match[2][:400]) if match else None  # more digits overflow float64, and int() refuses very many


def _as_text(cells: Any) -> list[str]:
    return cells if isinstance(cells, list) else [cell.decode("utf-8", "surrogateescape") for cell in cells.to_pylist()]


def _convert_text(cells: list[str], kind: str) -> NDArray[Any] | None:
    """The numbers, if all cells are finite numbers: Python's own conversion takes more for one."""
    if "".join(cells).encode("ascii", "replace").translate(None, _IN_NUMBERS[kind]):
        return None
    try:
        if kind == "integer":
            return np.fromiter(map(int, cells), np.int64, len(cells))
        x = np.fromiter(map(float, cells), np.float64, len(cells))
    except (OverflowError, ValueError):
        return None
    return x if np.isfinite(x).all() else None


def _convert_arrow(cells: Any, kind: str) -> NDArray[Any] | None:
    """`_convert_text` of a pyarrow array."""
    pa, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    try:
        cells = compute.ascii_trim(cells.cast(pa.string()), characters=_SPACE)
        if kind == "integer":
            is_hexadecimal = compute.match_substring(cells, "x", ignore_case=True)  # the cast takes 0x10
            return None if compute.any(is_hexadecimal).as_py() else cells.cast(pa.int64()).to_numpy()
        x: NDArray[np.float64] = cells.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return x if np.isfinite(x).all() else None
