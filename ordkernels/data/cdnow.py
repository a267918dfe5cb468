"""CDNOW: what a customer will spend, from the first purchases; zero for more than half, with a long tail.

Data: Fader and Hardie, brucehardie.com; the file is the one that the ``lifetimes`` package ships (MIT).
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from ._files import find, part, split_rows

__all__ = ["cdnow", "cdnow_features"]

_FIRST = ("log_value", "log_discs", "day", "price", "weekend", "many_orders")
_HISTORY = ("log_total", "log_days_bought", "recency", "age", "log_mean_value", "came_back")
_CALIBRATION_DAYS = 273


def cdnow(
    path: str | Path | None = None,
    *,
    target: Literal["first_year", "holdout"] = "first_year",
    split: int = 0,
    test_share: float = 0.2,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Customers of CDNOW as ``(train, test)``: two dicts of tensors, one row per customer.

    =========  ========================================================================================
    ``dense``  float32 ``[N, F]``, standardised on the training rows; ``cdnow_features(target)`` names the columns
    ``y``      float32 ``[N]``, dollars
    ``row``    int64 ``[N]``: the customer's place in the file, for row-keyed noise
    =========  ========================================================================================

    ``target="first_year"``: spending in the 365 days after the day of the first purchase, from what was bought on that
    day. ``"holdout"``: spending from day 273 on (1 October 1997), from everything before. ``split`` is the seed of a
    random split with ``test_share`` of the customers, the same for ever. ``path`` is a folder with
    ``CDNOW_master.txt[.gz]``; ``None`` looks for ``bench/data/cdnow_ltv`` in the checkout that holds this package, then
    below the current directory.

    Errors: ``ValueError`` for an unknown target, a malformed file, a split or a share out of range;
    ``FileNotFoundError`` where the data is missing, saying what to do.

    Example::

        train, test = ordkernels.data.cdnow()
        model = ordkernels.models.DiffoR(dense_width=train["dense"].shape[1])
    """
    if target not in ("first_year", "holdout"):
        raise ValueError(f"target: expected 'first_year' or 'holdout', got {target!r}")
    who, day, discs, dollars = _read(path)
    n = int(who.max()) + 1

    def total(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.bincount(who[rows], of[rows], n)

    first = np.full(n, day.max())
    np.minimum.at(first, who, day)
    on_first = day == first[who]
    value, count = total(on_first, dollars), total(on_first, discs)
    # 1 January 1997, day 0, was a Wednesday
    weekday, orders = (first + 2) % 7, total(on_first, np.ones_like(dollars))
    columns = [np.log1p(value), np.log1p(count), first, value / np.maximum(count, 1), weekday >= 5, orders > 1]
    if target == "first_year":
        y = total((day > first[who]) & (day <= first[who] + 365), dollars)
    else:
        y = total(day >= _CALIBRATION_DAYS, dollars)
        before = day < _CALIBRATION_DAYS
        spent = total(before, dollars)
        new_day = np.ones(len(day), dtype=bool)
        new_day[1:] = (who[1:] != who[:-1]) | (day[1:] != day[:-1])
        bought = total(before & new_day, np.ones_like(dollars))
        last = np.zeros(n, dtype=np.int64)
        np.maximum.at(last, who[before], day[before])
        columns += [np.log1p(spent), np.log1p(bought), _CALIBRATION_DAYS - last, _CALIBRATION_DAYS - first]
        columns += [np.log1p(spent / bought), last > first]
    dense = np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
    rows = split_rows(n, test_share, split)
    seen = dense[rows[0]]
    train, test = (part(dense[r], y[r], r, seen.mean(0), seen.std(0)) for r in rows)
    return train, test


def cdnow_features(target: Literal["first_year", "holdout"] = "first_year") -> list[str]:
    """Names of the columns of ``dense``, in order; days count from 1 January 1997, ``log`` is ``log1p``."""
    return [*_FIRST, *(_HISTORY if target == "holdout" else ())]


def _read(path: str | Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``(customer 0..n-1, day since 1 January 1997, discs, dollars)``, one entry per transaction."""
    names = ["CDNOW_master.txt.gz", "CDNOW_master.txt"]
    folder = find("cdnow", "cdnow_ltv", names, path, "or take CDNOW_master.txt from the lifetimes package and pass its folder as path=")
    file = next(folder / name for name in names if (folder / name).is_file())
    with gzip.open(file, "rt") if file.suffix == ".gz" else open(file) as f:
        header = f.readline().split()
        if len(header) != 4 or header[0] != "customer_id":
            raise ValueError(f"{file}: expected the columns customer_id date number_of_cds dollar_value, got {' '.join(header)}")
        table = np.loadtxt(f, dtype=np.float64, ndmin=2)
    who = np.unique(table[:, 0].astype(np.int64), return_inverse=True)[1]
    date = table[:, 1].astype(np.int64)
    months = (date // 10000 - 1970) * 12 + date // 100 % 100 - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + date % 100 - 1
    day = days - np.datetime64("1997-01-01", "D").astype(np.int64)
    order = np.lexsort((day, who))
    return who[order], day[order], table[order, 2], table[order, 3]
