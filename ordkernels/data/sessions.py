"""What a user did before a row, as ids: the last items of a long history, and the last sessions. KuaiRand's, and any log's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._validation.numbers import positive_sizes
from ._kuairand_files import LOG_COLUMNS, TEST_DATES, TRAIN_DATES, Dates, Log, find_kuairand, read_log, select_dates
from ._shared import Split, start_of_run, starts_of_runs, to_tensors
from .kuairand import impressions

__all__ = ["GAP_MS", "kuairand_sessions", "user_log"]

GAP_MS = 30 * 60 * 1000


def kuairand_sessions(
    path: str | Path | None = None,
    *,
    sessions: int = 5,
    items: int = 5,
    long: int = 50,
    current: bool = True,
    grow: bool = True,
    quantiles: int = 20,
    train_dates: Dates = TRAIN_DATES,
    test_dates: Dates = TEST_DATES,
) -> Split:
    """``kuairand`` with clicks, long histories and the log cut into sessions wherever a user pauses for over 30 minutes.

    ``item`` covers the log; ids above it are of videos in histories alone (``n_ids`` counts both).

    Args:
        sessions: how many, S; iFusion reads K + 1.
        items: of a session, I.
        long: items of the history.
        current: the earlier part of the row's own session is its last session; False: only sessions before it.
        grow: impressions of the log join the history as they happen; False: it ends before ``train_dates``.
        path, quantiles, train_dates, test_dates: as ``kuairand``. Histories are read from ``histories.npz`` (their last 50 videos
            before 25 April 2022) where the folder has it, else from the log's rows before ``train_dates``.

    Returns:
        ``(train, test)``, two dicts of tensors: all that ``kuairand`` gives, and, of the same user's *strictly earlier* impressions
        alone (those at the same millisecond are excluded):

        - ``click``: float32 ``[N]``, 1 where the video was clicked.
        - ``long``: int32 ``[N, long]``, the last items, oldest first, ``item + 1``; 0 is padding, at the end.
        - ``long_length``: int64 ``[N]``, how many there are.
        - ``sessions``: int32 ``[N, S, I]``, the last sessions, oldest first and aligned to the end, so rows with fewer begin with
          empty ones; of each its last items, ``item + 1``, with padding 0 at the end.
        - ``feedback``: float32 ``[N, S, I, 3]``, of each of these whether it was clicked, log1p of the seconds watched, log1p of
          the hours since; 0 where there is padding.

    Raises:
        FileNotFoundError, ValueError: as ``kuairand``; sizes below 1.

    Example:
        >>> train, test = kuairand_sessions()  # doctest: +SKIP
        >>> model = ordkernels.models.IFusion(*n_ids(train, test), train["dense"].shape[1])  # doctest: +SKIP
    """
    positive_sizes(sessions=sessions, items=items, long=long, quantiles=quantiles)
    folder = find_kuairand(path)
    packed = folder / "histories.npz"
    if packed.is_file() and train_dates[0] < TRAIN_DATES[0]:  # it would contain the future of rows
        raise ValueError(f"train_dates: expected {TRAIN_DATES[0]} or later, where {packed} ends, got {train_dates[0]}")
    all_rows = read_log(folder, (*LOG_COLUMNS, "is_click"))
    log, in_train = select_dates(all_rows, folder, train_dates, test_dates)
    user_ids, user = np.unique(log["user_id"], return_inverse=True)
    video_ids, item = np.unique(log["video_id"], return_inverse=True)
    past_user, past_video = _earlier_views(folder, all_rows, train_dates[0])
    known = np.isin(past_user, user_ids)
    past_user, past_video = np.searchsorted(user_ids, past_user[known]), past_video[known]
    items_to_videos = np.concatenate((video_ids, np.setdiff1d(past_video, video_ids)))
    order = np.argsort(items_to_videos, kind="stable")
    past_item = order[np.searchsorted(items_to_videos[order], past_video)]

    click = log["is_click"].astype(np.float32)
    signals = np.stack((click, np.log1p(log["play_time_ms"] / 1000.0)), axis=1)
    columns = user_log(
        user, item, log["time_ms"], signals, past_user, past_item, sessions=sessions, items=items, long=long, current=current, grow=grow
    )
    columns |= {**impressions(folder, log, in_train, quantiles), "click": click}
    return to_tensors(columns, in_train), to_tensors(columns, ~in_train)


def user_log(
    user: np.ndarray,
    item: np.ndarray,
    time_ms: np.ndarray,
    signals: np.ndarray,
    past_user: np.ndarray | None = None,
    past_item: np.ndarray | None = None,
    *,
    sessions: int,
    items: int,
    long: int,
    gap_ms: float = GAP_MS,
    current: bool = True,
    grow: bool = True,
    of_user: np.ndarray | None = None,
    of_time_ms: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Histories and sessions of every event of a log, or of other rows, in any order of rows.

    Args:
        user, item: integers ``[N]``.
        time_ms: ``[N]``, milliseconds.
        signals: ``[N, F]``, what ``feedback`` says of an earlier event.
        past_user, past_item: ``[P]``, items from before the whole log, each user's oldest first.
        sessions, items, long, current, grow: as in ``kuairand_sessions``.
        gap_ms: the longest pause within a session.
        of_user, of_time_ms: ``[R]``, rows that are no events of the log: each sees the log before it, and no other row. None: the events.

    Returns:
        ``long``, ``long_length``, ``sessions`` and ``feedback`` as in ``kuairand_sessions``, in the order of the rows; ``feedback`` is
        ``[N, sessions, items, F + 1]``, the last entry log1p of the hours since.

    Raises:
        ValueError: sizes below 1, one of ``of_user`` and ``of_time_ms`` without the other.

    Example:
        >>> log = user_log(np.zeros(3, int), np.array([5, 6, 7]), np.array([0, 1000, 2000]), np.ones((3, 1)), sessions=1, items=2, long=2)
        >>> log["sessions"].tolist()
        [[[0, 0]], [[6, 0]], [[6, 7]]]
    """
    positive_sizes(sessions=sessions, items=items, long=long)
    if (of_user is None) != (of_time_ms is None):
        raise ValueError("of_user, of_time_ms: expected both or neither, got one of them")
    none = np.zeros(0, dtype=np.int64)
    past_user, past_item = (none if v is None else v for v in (past_user, past_item))
    order = np.lexsort((time_ms, user))
    u, t, token = user[order], time_ms[order], item[order].astype(np.int32) + 1
    if of_user is None or of_time_ms is None:
        first = starts_of_runs(u)
        end = start_of_run(first | starts_of_runs(t))  # one after the last event that is strictly earlier
        rows = _Rows(u, t, start_of_run(first), end)
    else:
        rows = _Rows(of_user, of_time_ms, np.searchsorted(u, of_user), _earlier(u, t, of_user, of_time_ms))
    found = _last_sessions(u, t, token, signals[order].astype(np.float32), rows, sessions, items, gap_ms, current)
    found |= _histories(u, token, past_user, past_item.astype(np.int32) + 1, rows, rows.end if grow else rows.begin, long)
    if of_user is not None:
        return found
    columns = {name: np.empty_like(column) for name, column in found.items()}
    for name, column in found.items():
        columns[name][order] = column
    return columns


class _Rows(NamedTuple):
    """Rows whose pasts are the events in places [begin, end) of a log in order of (user, time)."""

    user: np.ndarray
    time: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def _earlier(u: np.ndarray, t: np.ndarray, of_user: np.ndarray, of_time: np.ndarray) -> np.ndarray:
    """How many events in order of (user, time) come strictly before each row in that order."""
    order = np.lexsort((np.repeat((1, 0), (len(u), len(of_user))), np.concatenate((t, of_time)), np.concatenate((u, of_user))))
    events = np.cumsum(order < len(u))
    count = np.empty(len(order), dtype=np.int64)
    count[order] = events
    return count[len(u) :]


def _last_sessions(
    u: np.ndarray, t: np.ndarray, token: np.ndarray, signals: np.ndarray, rows: _Rows,
    sessions: int, items: int, gap_ms: float, current: bool,
) -> dict[str, np.ndarray]:  # fmt: skip
    """``sessions`` and ``feedback`` of rows, from events in order of (user, time)."""
    N, R, (_, time, begin, end) = len(u), len(rows.user), rows
    found = {
        "sessions": np.zeros((R, sessions, items), dtype=np.int32),
        "feedback": np.zeros((R, sessions, items, signals.shape[1] + 1), dtype=np.float32),
    }
    if not N:
        return found
    opens = starts_of_runs(u)
    opens[1:] |= t[1:] - t[:-1] > gap_ms
    session = np.cumsum(opens) - 1
    start = np.flatnonzero(opens)  # [number of sessions]
    stop = np.append(start[1:], N)
    last = np.where(end > begin, session[end - 1], -1)  # the last session with a strictly earlier event
    if not current:
        last = np.where((end > begin) & (time - t[end - 1] <= gap_ms), last - 1, last)
    first = session[np.minimum(begin, N - 1)]
    for k in range(sessions):
        s = last - k
        exists = (end > begin) & (s >= first)
        s = np.where(exists, s, 0)
        high = np.where(exists, np.minimum(stop[s], end), 0)
        low = np.maximum(start[s], high - items)
        event = low[:, None] + np.arange(items)  # [R, items]
        inside = (event < high[:, None]) & exists[:, None]
        event = np.where(inside, event, 0)
        hours = np.log1p(np.maximum(time[:, None] - t[event], 0) / 3.6e6)
        place = sessions - 1 - k
        found["sessions"][:, place] = np.where(inside, token[event], 0)
        found["feedback"][:, place] = np.where(inside[..., None], np.concatenate((signals[event], hours[..., None]), axis=2), 0)
    return found


def _histories(
    u: np.ndarray, token: np.ndarray, past_user: np.ndarray, past_token: np.ndarray, rows: _Rows, stop: np.ndarray, long: int
) -> dict[str, np.ndarray]:
    """``long`` and ``long_length`` of rows, of the past and of events before place ``stop``."""
    R = len(rows.user)
    history = np.concatenate((past_token, token))[np.argsort(np.concatenate((past_user, u)), kind="stable")]  # a user's past, then events
    past = np.sort(past_user)
    high = stop + np.searchsorted(past, rows.user, side="right")
    low = np.maximum(rows.begin + np.searchsorted(past, rows.user), high - long)
    found: dict[str, np.ndarray] = {"long": np.zeros((R, long), dtype=np.int32), "long_length": high - low}
    for j in range(long if R and len(history) else 0):  # a column at a time: no [R, long] of int64
        inside = low + j < high
        found["long"][:, j] = np.where(inside, history[np.where(inside, low + j, 0)], 0)
    return found


def _earlier_views(folder: Path, log: Log, first_date: int) -> tuple[np.ndarray, np.ndarray]:
    """``(user ids, video ids)`` of what was watched before the training rows, each user's oldest first."""
    packed = folder / "histories.npz"
    if packed.is_file():
        with np.load(packed) as source:
            user, videos, length = (source[name] for name in ("user_id", "hist", "hist_len"))
        inside = np.arange(videos.shape[1]) < length[:, None]
        return np.repeat(user, length).astype(np.int64), videos[inside].astype(np.int64) - 1
    rows = np.flatnonzero(log["date"] < first_date)
    rows = rows[np.argsort(log["time_ms"][rows], kind="stable")]
    return log["user_id"][rows], log["video_id"][rows]
