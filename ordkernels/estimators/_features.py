"""Columns of a table as what the models read: standardised numbers, flags and categories in ``dense``, ids, histories, capacities."""

from __future__ import annotations

import math
import time as clock
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.piecewise_linear import bins_for, piecewise_linear, quantile_edges
from ._columns import Column, Kind, described, first_value
from ._past import Pasts, Sessions, session_columns

__all__ = ["Features", "Roles"]

Floats = NDArray[np.float64]

CATEGORIES = 32  # of a column that get a feature each; the others share one
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Roles:
    """Names of the columns with a meaning of their own; the others are features."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    row_id: str | None = None
    capacity: str | None = None

    def named(self) -> dict[str, str]:
        return {role: name for role, name in vars(self).items() if name is not None}


@dataclass
class Feature:
    """How one column becomes features: what was seen of it in training."""

    kind: Kind
    mean: float = 0.0
    spread: float = 1.0
    logarithm: bool = False
    edges: list[float] = field(default_factory=list)  # of the bins of a number with many values, before it is standardised
    categories: list[str] = field(default_factory=list)
    rare: int = 0  # categories that share a feature
    has_missing: bool = False
    constant: bool = False

    @classmethod
    def of(cls, c: Column) -> Feature:
        seen = c.values[~c.missing]
        found = cls(c.kind, has_missing=bool(c.missing.any()))
        if c.kind == "category":
            counts = Counter(seen.tolist())
            found.categories = sorted(counts, key=lambda name: (-counts[name], name))[:CATEGORIES]
            found.rare = len(counts) - len(found.categories)
        elif len(seen):
            x = seen.astype(np.float64)
            found.logarithm = c.kind == "number" and x.min() >= 0 and x.max() > 50 * max(float(np.median(x)), 1e-12)
            x = np.log1p(x) if found.logarithm else x
            found.mean, found.spread = float(x.mean()), float(x.std())
            found.edges = quantile_edges(x, bins_for(len(x))).tolist()
        found.constant = not len(seen) or (not found.categories and not found.spread)
        found.spread = found.spread or 1.0
        return found

    def width(self) -> int:
        return len(self.names(""))

    def names(self, name: str) -> list[str]:
        """Of the features, in their order."""
        found = [f"{name}={c}" for c in self.categories] + [f"{name}={UNKNOWN}"] if self.kind == "category" else [name]
        if self.kind == "time":
            found += [f"{name} {part}" for part in ("hour sin", "hour cos", "weekday sin", "weekday cos")]
        found += [f"{name} bin {k}" for k in range(1, len(self.edges))]
        return found + ([f"{name} missing"] if self.has_missing else [])

    def fill(self, out: NDArray[np.float32], c: Column) -> None:
        """Writes the features ``[N, width]`` into zeros; a missing number counts as the mean, a missing or unknown category as unknown."""
        if self.kind == "category":
            place, unknown = {name: k for k, name in enumerate(self.categories)}, len(self.categories)
            code = np.array([place.get(name, unknown) for name in c.values.tolist()], dtype=np.int64)
            code[c.missing] = unknown
            out[np.arange(len(code)), code] = 1
        else:
            x = c.values.astype(np.float64)
            x = np.log1p(np.maximum(x, 0)) if self.logarithm else x
            out[:, 0] = np.clip(np.where(c.missing, 0.0, (x - self.mean) / self.spread), -1e3, 1e3)
            if self.edges:
                bins = piecewise_linear(np.where(c.missing, np.nan, x), np.array(self.edges))
                end = out.shape[1] - self.has_missing
                out[:, end - bins.shape[1] : end] = bins
        if self.kind == "time":
            day, week = 2 * math.pi * (c.values / 8.64e10 % 1), 2 * math.pi * (c.values / 6.048e11 % 1)
            out[:, 1:5] = np.stack((np.sin(day), np.cos(day), np.sin(week), np.cos(week)), axis=1)
        if self.has_missing:
            out[:, -1] = c.missing


@dataclass
class Features:
    """What a fitted estimator knows of its table: roles, features, ids, and the events of its histories.

    Args:
        roles: names of columns.
        quantiles: L of the history quantiles.
        history: quantiles of each user's and item's strictly earlier targets.
        sessions: of each user's strictly earlier events, for the models that read them.
    """

    roles: Roles
    quantiles: int = 20
    history: bool = False
    sessions: Sessions | None = None
    columns: dict[str, Feature] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    ids: dict[str, dict[str, int]] = field(default_factory=dict)
    events: dict[str, NDArray[Any]] = field(default_factory=dict)  # user, item, time, y (and click) of the training rows

    def __post_init__(self) -> None:
        self._derived: dict[str, Any] = {}  # of the events: what a batch looks up, made when it is first needed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": {}}

    @property
    def n_users(self) -> int:
        return len(self.ids.get("user", ())) + 1  # the last one: unknown

    @property
    def n_items(self) -> int:
        return len(self.ids.get("item", ())) + 1

    @property
    def dense_width(self) -> int:
        return max(1, sum(f.width() for f in self.columns.values()))

    def fit(self, columns: Mapping[str, Column], y: Floats) -> dict[str, Tensor]:
        """Learns from the training rows; returns their batch, with ``y``."""
        taken = set(self.roles.named().values()) - {self.roles.time} | ({self.sessions.click} if self.sessions else set())
        self.columns = {name: Feature.of(c) for name, c in columns.items() if name not in taken}
        self.columns = {
            name: f for name, f in self.columns.items() if not f.constant or (f.has_missing and not columns[name].missing.all())
        }
        self.kinds = {name: c.kind for name, c in columns.items()}
        for role in ("user", "item"):
            name = vars(self.roles)[role]
            if name is not None:
                seen = np.unique(columns[name].values[~columns[name].missing]).tolist()
                self.ids[role] = {key: k for k, key in enumerate(sorted(map(_key, seen)))}
        self._derived = {}
        if self.history or self.sessions:
            self.events = {side: self.id(side, columns, len(y)) for side in ("user", "item")}
            self.events |= {"time": self._times(columns), "y": y}
        click = {"click": self._clicks(columns)} if self.sessions and self.sessions.click else {}
        self.events |= click
        found = {**self.batch(columns, len(y)), "y": torch.from_numpy(y.astype(np.float32))}
        return found | {name: torch.from_numpy(a.astype(np.float32)) for name, a in click.items()}

    def batch(self, columns: Mapping[str, Column], N: int) -> dict[str, Tensor]:
        """What the models read of these rows, without the target. Histories are of training events strictly before the row: the
        training rows' own, and those that rows to score go on from, whose targets no other row sees."""
        dense, begin = np.zeros((N, self.dense_width), dtype=np.float32), 0
        for name, f in self.columns.items():
            end = begin + f.width()
            f.fill(dense[:, begin:end], columns[name])
            begin = end
        found: dict[str, NDArray[Any]] = {"dense": dense}
        for side in ("user", "item"):
            found[side] = self.id(side, columns, N)
            q = self._histories(side, columns, found[side])
            has = np.asarray(~np.isnan(q).any(axis=1))
            found[f"q_{side}"] = np.where(has[:, None], q, 0.0).astype(np.float32)
            found[f"has_{side}"] = has.astype(np.float32)
        if self.sessions:
            found |= session_columns(self._log(), self._pasts("user"), self.sessions, found["user"], self._seconds(self._times(columns)))
        if self.roles.capacity is not None:
            found["capacity"] = self._capacity(columns[self.roles.capacity])
            found["duration"] = found["capacity"]
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in found.items()}

    def row_ids(self, columns: Mapping[str, Column], N: int) -> Tensor:
        """What the rows' noise belongs to: the column of that role, or the rows' places."""
        name = self.roles.row_id
        if name is None:
            return torch.arange(N)
        c = columns[name]
        if c.missing.any():
            raise ValueError(f"column {name!r}: expected a row id in every row, got none at row {int(c.missing.argmax())}")
        if c.kind != "number":
            raise TypeError(f"column {name!r}: expected whole numbers as row ids, got {described(c.kind)}{first_value(c)}")
        parts = c.values != np.floor(c.values)
        if parts.any():
            row = int(parts.argmax())
            raise ValueError(f"column {name!r}: expected whole numbers as row ids, got {c.values[row]:g} at row {row}")
        return torch.from_numpy(c.values.astype(np.int64))

    def check_training(self, columns: Mapping[str, Column], N: int) -> None:
        """TypeError, ValueError: roles of columns that are not there, or that have not what the role needs."""
        self._check_roles(columns)
        if all(c.missing.all() for c in columns.values()):
            raise ValueError(f"X: expected a value in at least one column, got missing ones alone in all {N} rows of {_listed(columns)}")
        for role in ("user", "item"):
            name = vars(self.roles)[role]
            if name is not None and columns[name].missing.all():
                raise ValueError(f"column {name!r}: expected an id in at least one row, as the role {role}, got none in rows 0 to {N - 1}")
        if self.sessions and self.sessions.click:
            self._clicks(columns)
        if self.roles.capacity is not None:
            self._capacity(columns[self.roles.capacity])
        if self.roles.time is not None:
            self._times(columns)
            c = columns[self.roles.time]
            tomorrow = int((clock.time() + 86400) * 1e6)  # no time zone is a day ahead
            if c.kind == "time" and (c.values > tomorrow).any():
                row = int(np.argmax(c.values > tomorrow))
                found = np.datetime64(int(c.values[row]), "us")
                raise ValueError(f"column {self.roles.time!r}: expected times of events that have happened, got {found} at row {row}")

    def prepare(self, columns: Mapping[str, Column]) -> None:
        """Checks the columns of rows to score, and makes once what their batches look up."""
        self.check_columns(columns)
        if self.roles.capacity is not None:  # of all rows, so that messages have their places in the table
            self._capacity(columns[self.roles.capacity])
        if self.history or self.sessions:
            self._times(columns)
        self.batch({name: c.rows(slice(0, 0)) for name, c in columns.items()}, 0)

    def _check_roles(self, columns: Mapping[str, Column]) -> None:
        for role, name in self.roles.named().items():
            if name not in columns:
                raise ValueError(f"{role}: expected the name of a column ({_listed(columns)}), got {name!r}")
        if self.history:
            if self.roles.time is None:
                raise ValueError("history: expected time= with it, the column whose order tells what was earlier, got None")
            if self.roles.user is None and self.roles.item is None:
                raise ValueError("history: expected user= or item= with it, whose histories to take, got neither")

    def needed(self) -> list[str]:
        """The columns that predictions depend on."""
        return [name for name in self.kinds if name in self.columns or name in self.roles.named().values()]

    def check_columns(self, columns: Mapping[str, Column]) -> None:
        for name in self.needed():
            if name not in columns:
                raise ValueError(f"X: expected the column {name!r}, as in training, got {_listed(columns)}")
            found, expected = columns[name].kind, self.kinds[name]
            if found != expected and not columns[name].missing.all() and not {found, expected} <= {"number", "flag"}:
                raise TypeError(
                    f"column {name!r}: expected {described(expected)}, as in training, got {described(found)}{first_value(columns[name])}"
                )

    def id(self, side: str, columns: Mapping[str, Column], N: int) -> NDArray[np.int64]:
        """Numbers of the rows' users or items; one more than those of training: unknown."""
        name, known = vars(self.roles)[side], self.ids.get(side, {})
        if name is None:
            return np.zeros(N, dtype=np.int64)
        c, unknown = columns[name], len(known)
        if c.kind == "category":
            ids = np.array([known.get(key, unknown) for key in c.values.tolist()], dtype=np.int64)
        elif c.values.dtype == np.int64 and (numbers := self._whole(side)) is not None:
            values, codes = numbers
            place = np.minimum(np.searchsorted(values, c.values), len(values) - 1)
            ids = np.where(values[place] == c.values, codes[place], unknown)
        else:
            values, where = np.unique(c.values, return_inverse=True)
            ids = np.array([known.get(key, unknown) for key in map(_key, values.tolist())], dtype=np.int64)[where.reshape(-1)]
        return np.where(c.missing, unknown, ids)

    def _whole(self, side: str) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Ids that are whole numbers, in rising order, and the numbers that they have here; None where one is not."""
        key = f"whole ids of {side}"
        if key not in self._derived:
            try:
                values = np.array([int(text) for text in self.ids[side]], dtype=np.int64)
                order = np.argsort(values)
                self._derived[key] = values[order], np.fromiter(self.ids[side].values(), np.int64, len(values))[order]
            except (OverflowError, ValueError):
                self._derived[key] = None
        found: tuple[NDArray[np.int64], NDArray[np.int64]] | None = self._derived[key]
        return found

    def _times(self, columns: Mapping[str, Column]) -> NDArray[Any]:
        assert self.roles.time is not None
        c = columns[self.roles.time]
        if c.missing.any():
            raise ValueError(f"column {self.roles.time!r}: expected a time in every row, got none at row {int(c.missing.argmax())}")
        if c.kind not in ("time", "number"):
            raise TypeError(f"column {self.roles.time!r}: expected times or numbers, got {described(c.kind)}{first_value(c)}")
        return c.values

    def _seconds(self, time: NDArray[Any]) -> Floats:
        """Times as numbers are seconds already."""
        assert self.roles.time is not None
        return time / 1e6 if self.kinds[self.roles.time] == "time" else time.astype(np.float64)

    def _pasts(self, side: str) -> Pasts:
        key = f"pasts of {side}"
        if key not in self._derived:
            self._derived[key] = Pasts(self.events[side], self.events["time"], len(self.ids[side]))
        found: Pasts = self._derived[key]
        return found

    def _histories(self, side: str, columns: Mapping[str, Column], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Quantiles of the targets of strictly earlier training events of the row's user or item, NaN without any: ``[N, L]``."""
        L, key = self.quantiles, f"quantiles of {side}"
        if not self.history or vars(self.roles)[side] is None:
            return np.full((len(ids), L), np.nan, dtype=np.float32)
        pasts = self._pasts(side)
        if key not in self._derived:
            self._derived[key] = pasts.table(self.events["y"], (np.arange(L) + 0.5) / L)
        return pasts.quantiles(self._derived[key], ids, self._times(columns))

    def _log(self) -> dict[str, NDArray[Any]]:
        """The events with their feedback: log1p of targets over their mean, and the click where there is one."""
        if "log" not in self._derived:
            e = self.events
            signals = [np.log1p(e["y"] / (e["y"].mean() or 1.0)), *([e["click"]] if "click" in e else [])]
            self._derived["log"] = {**e, "seconds": self._seconds(e["time"]), "signals": np.stack(signals, axis=1)}
        found: dict[str, NDArray[Any]] = self._derived["log"]
        return found

    def _clicks(self, columns: Mapping[str, Column]) -> Floats:
        assert self.sessions is not None
        assert self.sessions.click is not None
        name = self.sessions.click
        if name not in columns:
            raise ValueError(f"click: expected the name of a column ({_listed(columns)}), got {name!r}")
        c = columns[name]
        bad = c.missing | (c.kind not in ("flag", "number")) | ~np.isin(c.values, (0, 1))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"column {name!r}: expected 0 or 1 in every row, got {'none' if c.missing[row] else c.values[row]} at row {row}"
            )
        return c.values.astype(np.float64)

    def _capacity(self, c: Column) -> NDArray[np.float32]:
        name = self.roles.capacity
        if c.kind != "number":
            raise TypeError(f"column {name!r}: expected numbers as capacities, got {described(c.kind)}{first_value(c)}")
        bad: NDArray[np.bool_] = np.asarray(c.missing | ~(c.values >= 0))
        if bad.any():
            row = int(bad.argmax())
            what = "a missing value" if c.missing[row] else f"{c.values[row]:g}"
            raise ValueError(f"column {name!r}: expected a capacity of at least 0 in every row, got {what} at row {row}")
        return c.values.astype(np.float32)


def _listed(columns: Mapping[str, Column]) -> str:
    return ", ".join(map(repr, columns))


def _key(value: Any) -> str:
    """An id as text: 7, 7.0 and "7" of a column of numbers are one id; text is as it is."""
    return value if isinstance(value, str) else str(int(value)) if float(value).is_integer() else repr(value)
