"""What is read of a file: columns by name, and of which kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

__all__ = ["Chunk", "Column", "Columns", "require", "require_kind"]


class Column(NamedTuple):
    """A column to read.

    kind: ``"number"``, ``"integer"`` (ids of 64 bits, those from 2^63 wrapped around) or ``"text"`` (of CSV alone).
    argument: what asks for it, which begins the message if the file lacks it.
    """

    name: str
    kind: str = "number"
    argument: str = ""


Columns = Sequence[Column]
Chunk = list[NDArray[Any]]


def require(path: Path, columns: Columns, names: Sequence[str]) -> None:
    """ValueError unless each of `columns` is one of `names`, once."""
    wrong = [column for column in columns if names.count(column.name) != 1]
    if not wrong:
        return
    found = ", ".join(map(repr, names[:20])) or "none"
    found += f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    name, _, argument = wrong[0]
    if not argument:
        raise ValueError(f"{path}: expected the columns {', '.join(column.name for column in wrong)}, once each, got {found}")
    if name in names:
        raise ValueError(f"{argument}: expected one column {name!r} in {path.name}, got {names.count(name)}")
    raise ValueError(f"{argument}: expected a column of {path.name}, one of {found}, got {name!r}")


def require_kind(column: Column, letter: str, got: Any) -> None:
    """TypeError unless the letter of a NumPy dtype is of the column's kind."""
    if letter not in ("iu" if column.kind == "integer" else "iufb"):
        raise TypeError(f"{column.name}: expected {'integers' if column.kind == 'integer' else 'numbers'}, got {got}")
