"""Cells of text to a column of the first type that all of them are: whole numbers, numbers, booleans, times, or else text."""

import datetime
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .cells import _NUMBER, _SPACE, _WHOLE, MISSING

__all__ = ["column"]


def column(cells: Any, is_text: bool = False) -> Any:
    """Cells as `delimited.read_cells` has them, as a pyarrow array or, of a list, an array of objects; missing ones as None.

    Args:
        is_text: whether they are text, even if all of them could be numbers.
    """
    return _of_list(cells, is_text) if isinstance(cells, np.ndarray) else _of_arrow(cells, is_text)


def _of_arrow(cells: Any, is_text: bool) -> Any:
    pa, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    text = cells.cast(pa.string())
    trimmed = compute.ascii_trim(text, characters=_SPACE)
    missing = compute.is_in(compute.ascii_lower(trimmed), value_set=pa.array(sorted(MISSING)))
    if compute.any(missing).as_py():
        text, trimmed = (compute.if_else(missing, None, values) for values in (text, trimmed))
    if is_text:
        return text
    # the casts to integers and booleans take 0x10 and 1 too
    kinds = ((pa.int64(), "^[+-]?[0-9]+$"), (pa.float64(), None), (pa.bool_(), "^(?i:true|false)$"), (pa.timestamp("us"), None),
             (pa.timestamp("us", "UTC"), None))  # fmt: skip
    for kind, pattern in kinds:
        try:
            found = trimmed.cast(kind)
        except pa.ArrowInvalid:
            continue
        if pattern is None or compute.all(compute.match_substring_regex(trimmed, pattern)).as_py() is not False:
            return found
    return text


def _of_list(cells: Any, is_text: bool) -> Any:
    stripped = [cell.strip(_SPACE) for cell in cells]
    missing = [cell.lower() in MISSING for cell in stripped]
    text = [None if gone else cell for gone, cell in zip(missing, cells, strict=True)]
    found: Any = text
    for parse in () if is_text else (_integer, _number, _boolean, datetime.datetime.fromisoformat):
        try:
            found = [None if gone else parse(cell) for gone, cell in zip(missing, stripped, strict=True)]
        except (KeyError, ValueError):
            continue
        break
    objects = np.empty(len(found), dtype=object)
    objects[:] = found
    return objects


def _matching(pattern: Any, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(cell: str) -> Any:
        if not pattern.fullmatch(cell):
            raise ValueError
        return convert(cell)

    return parse


_integer, _number = _matching(_WHOLE, int), _matching(_NUMBER, float)


def _boolean(cell: str) -> bool:
    return {"true": True, "false": False}[cell.lower()]
