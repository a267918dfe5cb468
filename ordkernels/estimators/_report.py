"""What an estimator made of a table, in sentences: for ``report_``, ``table_report`` and ``verbose``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ._columns import Column, described
from ._features import CATEGORIES, Feature, Features

__all__ = ["scoring_report", "training_report"]

Rows = NDArray[np.int64]


def training_report(f: Features, columns: Mapping[str, Column], rows: tuple[Rows, Rows], target: str | None) -> list[str]:
    """Of the table that the estimator was fitted on.

    Args:
        f: fitted.
        columns: of the table.
        rows: to train on, and to validate.
        target: the target's name, where it has one.
    """
    train, valid = map(len, rows)
    which = "the latest ones" if f.roles.time is not None else "chosen at random"
    found = [f"{train + valid} rows: {train} to train on, {valid} to validate" + (f" ({which})" if valid else "")]
    if target is not None:
        found.append(f"{target!r} is the target, and no feature")
    for role, name in f.roles.named().items():
        ids = f"; {len(f.ids[role])} ids" if role in f.ids else ""
        found.append(f"{name!r} is the {role.replace('_', ' ')}{ids}{_missing(columns[name])}")
    for name, c in columns.items():
        if name in f.columns:
            found.append(f"{name!r}: {_feature(f.columns[name])}{_missing(c)}")
        elif name not in f.roles.named().values() and not (f.sessions and f.sessions.click == name):
            found.append(f"{name!r}: left out, {'missing in all rows' if c.missing.all() else 'the same in all rows'}")
    return found


def scoring_report(f: Features, columns: Mapping[str, Column], names: list[str]) -> list[str]:
    """Of a table to score.

    Args:
        f: fitted.
        columns: that predictions need.
        names: of all columns of the table.
    """
    f.check_columns(columns)
    unread = [name for name in names if name not in columns]
    return [*_unknown(f, columns), *([f"not read: {', '.join(map(repr, unread))}"] if unread else [])]


def _unknown(f: Features, columns: Mapping[str, Column]) -> Iterator[str]:
    for name, c in columns.items():
        role = next((role for role in f.ids if vars(f.roles)[role] == name), None)
        if role is not None:
            new = (f.id(role, columns, len(c.values)) == len(f.ids[role])) & ~c.missing
            if new.any():
                yield f"{name!r}: {_of(new)} with a new {role}, which counts as unknown"
        elif name in f.columns and f.columns[name].kind == "category" and not f.columns[name].rare:
            new = ~np.isin(c.values.astype(str), f.columns[name].categories) & ~c.missing
            if new.any():
                yield f"{name!r}: {_of(new)} with a new category, which counts as unknown, as {c.values[int(new.argmax())]!r}"
        if c.missing.any():
            yield f"{name!r}: {_of(c.missing)} without a value"


def _feature(f: Feature) -> str:
    if f.kind != "category":
        bins = f", and in {len(f.edges) - 1} bins" if f.edges else ""
        return described(f.kind) + (", as log1p" if f.logarithm else "") + bins
    kept = f"; the {CATEGORIES} most frequent have a feature each" if f.rare else ""
    return f"{len(f.categories) + f.rare} categories{kept}"


def _missing(c: Column) -> str:
    return f"; {_of(c.missing)} without a value" if c.missing.any() else ""


def _of(rows: NDArray[np.bool_]) -> str:
    return f"{rows.sum()} of {len(rows)} rows"
