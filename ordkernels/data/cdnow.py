"""CDNOW: what a customer will spend, from the first purchases; zero for more than half, with a long tail.

Data: Fader and Hardie, brucehardie.com; the file is the one that the ``lifetimes`` package ships (MIT).
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np

from .._tables.column import Column, require
from .._validation.numbers import one_of
from ._shared import Split, find_folder, parse_numbers, require_finite, require_whole, split_by_hash, starts_of_runs, table_split

__all__ = ["cdnow", "cdnow_features"]

_FIRST = ("log_value", "log_discs", "day", "price", "weekend", "many_orders")
_HISTORY = ("log_total", "log_days_bought", "recency", "age", "log_mean_value", "came_back")
_CALIBRATION_DAYS = 273
_COLUMNS = ("customer_id", "date", "number_of_cds", "dollar_value")


def cdnow(
    path: str | Path | None = None,
    *,
    target: Literal["first_year", "holdout"] = "first_year",
    split: int = 0,
    test_share: float = 0.2,
) -> Split:
    """Customers of CDNOW, split at random into training and test rows, one row per customer.

    Args:
        path: a folder with ``CDNOW_master.txt[.gz]``, with a header line or, as its authors publish it, without; None looks for
            ``bench/data/cdnow_ltv`` in the checkout that holds this package, then below the current directory.
        target: ``"first_year"``: spending in the 365 days after the day of the first purchase, from what was bought on that day.
            ``"holdout"``: spending from day 273 on (1 October 1997), from everything before; customers who bought nothing
            before are left out.
        split: seed of the random split, which never changes.
        test_share: of the customers.

    Returns:
        ``(train, test)``, two dicts of tensors:

        - ``dense``: float32 ``[N, F]``, standardised on the training rows; ``cdnow_features(target)`` names the columns.
        - ``y``: float32 ``[N]``, dollars.
        - ``row``: int64 ``[N]``, the customer's place in the file, for row-keyed noise.

    Raises:
        ValueError: an unknown target, a malformed file, a split or a share out of range.
        FileNotFoundError: the data is missing; the message says what to do.

    Example:
        >>> train, test = cdnow()
        >>> train["dense"].shape, len(test["y"])
        (torch.Size([18856, 6]), 4714)
    """
    one_of("target", target, ("first_year", "holdout"))
    customer, day, discs, dollars = _read(path)
    n = int(customer.max()) + 1
    first_day = np.full(n, day.max())
    np.minimum.at(first_day, customer, day)
    columns = _first_purchase(customer, day, discs, dollars, first_day)
    if target == "first_year":
        in_target = (day > first_day[customer]) & (day <= first_day[customer] + 365)
    else:
        in_target = day >= _CALIBRATION_DAYS
        columns += _history(customer, day, dollars, first_day)
    y = np.bincount(customer[in_target], dollars[in_target], n)
    dense = np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
    known = np.ones(n, dtype=bool) if target == "first_year" else first_day < _CALIBRATION_DAYS
    rows = [r[known[r]] for r in split_by_hash(n, test_share, split)]
    return table_split([dense[r] for r in rows], [y[r] for r in rows], rows)


def cdnow_features(target: Literal["first_year", "holdout"] = "first_year") -> list[str]:
    """Names of the columns of ``dense``, in order; days count from 1 January 1997, ``log`` is ``log1p``.

    Example:
        >>> cdnow_features()
        ['log_value', 'log_discs', 'day', 'price', 'weekend', 'many_orders']
    """
    return [*_FIRST, *(_HISTORY if target == "holdout" else ())]


def _first_purchase(
    customer: np.ndarray, day: np.ndarray, discs: np.ndarray, dollars: np.ndarray, first_day: np.ndarray
) -> list[np.ndarray]:
    """The columns of ``_FIRST``, of what was bought on the day of the first purchase."""
    n, on_first = len(first_day), day == first_day[customer]
    value, count = (np.bincount(customer[on_first], x[on_first], n) for x in (dollars, discs))
    orders = np.bincount(customer[on_first], minlength=n)
    weekday = (first_day + 2) % 7  # day 0, 1 January 1997, was a Wednesday
    return [np.log1p(value), np.log1p(count), first_day, value / np.maximum(count, 1), weekday >= 5, orders > 1]


def _history(customer: np.ndarray, day: np.ndarray, dollars: np.ndarray, first_day: np.ndarray) -> list[np.ndarray]:
    """The columns of ``_HISTORY``, of everything before the holdout."""
    n, before = len(first_day), day < _CALIBRATION_DAYS
    new_day = starts_of_runs(customer) | starts_of_runs(day)
    spent = np.bincount(customer[before], dollars[before], n)
    days_bought = np.bincount(customer[before & new_day], minlength=n)
    last_day = np.zeros(n, dtype=np.int64)
    np.maximum.at(last_day, customer[before], day[before])
    return [
        np.log1p(spent), np.log1p(days_bought), _CALIBRATION_DAYS - last_day, _CALIBRATION_DAYS - first_day,
        np.log1p(spent / np.maximum(days_bought, 1)), last_day > first_day,
    ]  # fmt: skip


def _read(path: str | Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``(customer 0..n-1, day since 1 January 1997, discs, dollars)``, one entry per transaction, by customer and day."""
    names = ["CDNOW_master.txt.gz", "CDNOW_master.txt"]
    hint = "or take CDNOW_master.txt from the lifetimes package and pass its folder as path="
    folder = find_folder("cdnow", "cdnow_ltv", names, path, hint)
    file = next(folder / name for name in names if (folder / name).is_file())
    table = _columns(file)
    customer = np.unique(require_whole(file, _COLUMNS[0], table[_COLUMNS[0]]), return_inverse=True)[1]
    date = require_whole(file, "date", table["date"])
    month, day_of_month = date // 100 % 100, date % 100
    bad = (date < 10000101) | (date > 99991231) | (month < 1) | (month > 12) | (day_of_month < 1) | (day_of_month > 31)
    if bad.any():
        raise ValueError(f"{file}: date: expected YYYYMMDD, got {date[bad][0]} in row {int(bad.argmax())}")
    months = (date // 10000 - 1970) * 12 + month - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + day_of_month - 1
    day = days - np.datetime64("1997-01-01", "D").astype(np.int64)
    order = np.lexsort((day, customer))
    discs, dollars = (require_finite(file, name, table[name])[order] for name in _COLUMNS[2:])
    return customer[order], day[order], discs, dollars


def _columns(file: Path) -> dict[str, np.ndarray]:
    """The columns by name; without a header line, as the data's authors publish it, in the order of `_COLUMNS`."""
    with gzip.open(file, "rt", encoding="utf-8-sig") if file.suffix == ".gz" else open(file, encoding="utf-8-sig") as f:
        rows = [cells for line in f if (cells := line.split())]
    names = list(_COLUMNS)
    if rows and not rows[0][0].isdigit():
        names, rows = rows[0], rows[1:]
        require(file, [Column(name) for name in _COLUMNS], names)
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"{file}: expected the columns {' '.join(names)} in every row, got {len(row)} cells in row {i}")
    if not rows:
        raise ValueError(f"{file}: expected at least one row, got none")
    return {name: parse_numbers(file, name, list(cells)) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}
