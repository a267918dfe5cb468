"""What a table's own log says of the time strictly before a row: quantiles of targets, items, sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.sessions import user_log
from ..quantiles import history_quantiles

__all__ = ["Pasts", "Sessions", "session_columns"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sessions:
    """What is read of a user's earlier events.

    Args:
        sessions: how many of the last ones.
        items: of a session.
        long: items of the history.
        gap: the longest pause within a session, in seconds.
        click: the column of 0 and 1 that a click is read from.
    """

    sessions: int
    items: int
    long: int
    gap: float
    click: str | None = None


class Pasts:
    """Where each row's past begins and ends among the events of its group: those at strictly earlier times.

    Args:
        group: ``[M]``, of the events, from 0 to ``unknown``.
        time: ``[M]``, likewise.
        unknown: the group without a past.
    """

    def __init__(self, group: Ids, time: NDArray[Any], unknown: int) -> None:
        known = np.flatnonzero(group != unknown)
        self.unknown = unknown
        self.order = known[np.lexsort((time[known], group[known]))]
        self.times = np.unique(time)
        self.width = len(self.times) + 1  # places of a group's keys: each time, and after them
        self.keys = self._keys(group[self.order], time[self.order])
        self.starts = np.searchsorted(self.keys, np.arange(unknown + 2) * self.width)  # of each group's events in `order`
        self.groups = np.flatnonzero(np.diff(self.starts))
        self.places = np.cumsum(np.diff(self.starts) > 0) - 1  # of a group among those with events

    def _keys(self, group: Ids, time: NDArray[Any]) -> Ids:
        """Numbers in the order of (group, time); a time between two events' is the later one's."""
        return np.asarray(group * self.width + np.searchsorted(self.times, time))

    def span(self, group: Ids, time: NDArray[Any]) -> tuple[Ids, Ids]:
        """The past of each row, as places in ``order`` ``[begin, end)``."""
        begin = self.starts[group]
        end = np.searchsorted(self.keys, self._keys(group, time))
        return begin, np.where(group == self.unknown, begin, end)

    def of_groups(self, groups: Ids) -> Ids:
        """The events of these groups."""
        begin, stop = self.starts[groups], self.starts[groups + 1]
        count = stop - begin
        first = np.repeat(begin - (np.cumsum(count) - count), count)
        return self.order[first + np.arange(count.sum())]

    def table(self, y: Floats, levels: Floats) -> NDArray[np.float32]:
        """Quantiles ``[M + G, L]`` of the past of every event in ``order``, then of all events of each group that has any."""
        group, time = self.keys // self.width, self.keys % self.width
        values = np.concatenate((y[self.order], np.zeros(len(self.groups))))
        end = np.full(len(self.groups), len(self.times))
        found = history_quantiles(values, np.concatenate((group, self.groups)), np.concatenate((time, end)), levels)
        return np.asarray(found, dtype=np.float32)

    def quantiles(self, table: NDArray[np.float32], group: Ids, time: NDArray[Any]) -> NDArray[np.float32]:
        """Of the targets in each row's past, NaN without any: ``[N, L]``. A past that ends before an event is that event's."""
        begin, end = self.span(group, time)
        at = np.where(end < self.starts[group + 1], end, len(self.keys) + self.places[group])
        found = np.full((len(group), table.shape[1]), np.nan, dtype=np.float32)
        past = end > begin
        found[past] = table[at[past]]
        return found


def session_columns(events: dict[str, NDArray[Any]], pasts: Pasts, of: Sessions, group: Ids, seconds: Floats) -> dict[str, NDArray[Any]]:
    """``long``, ``sessions`` and ``feedback`` of rows, of their users' events strictly before them.

    Args:
        events: ``user``, ``item``, ``seconds``, ``signals`` ``[M, F]``.
        pasts: of the users.
        of: what is read of them.
        group: users of the rows ``[N]``.
        seconds: times of the rows ``[N]``.
    """
    users = np.unique(group)
    log = pasts.of_groups(users[users != pasts.unknown])
    columns = user_log(
        events["user"][log], events["item"][log], events["seconds"][log] * 1e3, events["signals"][log], sessions=of.sessions,
        items=of.items, long=of.long, gap_ms=of.gap * 1e3, of_user=group, of_time_ms=seconds * 1e3,
    )  # fmt: skip
    return {name: columns[name] for name in ("long", "sessions", "feedback")}
