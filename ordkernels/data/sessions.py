"""What a user did before a row, as ids: the last items of a long history, and the last sessions. KuaiRand's, and any log's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kuairand import _LOG_COLUMNS, TEST_DATES, TRAIN_DATES, Dates, _find, _read_log, kuairand, select

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
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``kuairand`` with clicks, long histories and the log cut into sessions wherever a user pauses for over 30 minutes.

    All that ``kuairand`` gives, and, of the same user, nothing but *strictly earlier* impressions (those at the same millisecond
    are excluded):

    ==================  =================================================================================================
    ``click``           float32 ``[N]``: 1 where the video was clicked
    ``long``            int32 ``[N, long]``: the last items, oldest first, ``item + 1``; 0 is padding, behind
    ``long_length``     int64 ``[N]``: how many there are
    ``sessions``        int32 ``[N, sessions, items]``: the last sessions, oldest first, so the last one is at the last place and
                        rows with fewer begin with empty ones; of each its last items, ``item + 1``, 0 behind
    ``feedback``        float32 ``[N, sessions, items, 3]``: of each of these, whether it was clicked, log1p of the seconds
                        watched, log1p of the hours since; 0 where there is padding
    ==================  =================================================================================================

    Args:
        sessions: how many; iFusion reads K + 1. items: of a session; long: of the history.
        current: the earlier part of the row's own session is its last session; False: sessions before it alone.
        grow: impressions of the log join the history as they happen; False: it ends before ``train_dates``.
        path, quantiles, train_dates, test_dates: as ``kuairand``. Histories are read from ``histories.npz`` (their last 50 videos
            before 25 April 2022) where the folder has it, else from the log's rows before ``train_dates``.

    ``item`` covers the log; ids above it are of videos in histories alone (``n_ids`` counts both).

    Errors: as ``kuairand``; ``ValueError`` for sizes below 1.

    Example::

        train, test = ordkernels.data.kuairand_sessions()
        model = ordkernels.models.IFusion(*ordkernels.data.n_ids(train, test), train["dense"].shape[1])
    """
    _sizes(sessions=sessions, items=items, long=long)
    folder = _find(path)
    packed = folder / "histories.npz"
    if packed.is_file() and train_dates[0] < TRAIN_DATES[0]:  # it would hold rows' own future
        raise ValueError(f"train_dates: expected {TRAIN_DATES[0]} or later, where {packed} ends, got {train_dates[0]}")
    train, test = kuairand(path, quantiles=quantiles, train_dates=train_dates, test_dates=test_dates)
    whole = _read_log(folder, (*_LOG_COLUMNS, "is_click"))
    log, in_train = select(whole, folder, train_dates, test_dates)
    user_ids, user = np.unique(log["user_id"], return_inverse=True)
    video_ids, item = np.unique(log["video_id"], return_inverse=True)
    past_user, past_video = _past(folder, whole, train_dates[0])
    known = np.isin(past_user, user_ids)
    past_user, past_video = np.searchsorted(user_ids, past_user[known]), past_video[known]
    new_ids = np.setdiff1d(past_video, video_ids)
    order = np.argsort(np.concatenate((video_ids, new_ids)), kind="stable")  # the place of an id in this list is its item
    past_item = order[np.searchsorted(np.concatenate((video_ids, new_ids))[order], past_video)]

    click = log["is_click"].astype(np.float32)
    signals = np.stack((click, np.log1p(log["play_time_ms"] / 1000.0)), axis=1)
    extra = user_log(
        user, item, log["time_ms"], signals, past_user, past_item, sessions=sessions, items=items, long=long, current=current, grow=grow
    )
    extra["click"] = click
    for part, rows in ((train, in_train), (test, ~in_train)):
        part.update({name: torch.from_numpy(np.ascontiguousarray(v[rows])) for name, v in extra.items()})
    return train, test


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
    gap_ms: int = GAP_MS,
    current: bool = True,
    grow: bool = True,
) -> dict[str, np.ndarray]:
    """``long``, ``long_length``, ``sessions`` and ``feedback`` of every event of a log, as in ``kuairand_sessions``.

    Any order of rows in, the same order out. ``signals [N, F]`` are put into ``feedback [N, sessions, items, F + 1]`` together
    with log1p of the hours since. ``past_user``, ``past_item`` are items before the whole log, each user's oldest first.
    """
    N = len(user)
    _sizes(sessions=sessions, items=items, long=long)
    order = np.lexsort((time_ms, user))
    u, t, at = user[order], time_ms[order], np.arange(N)
    first = np.ones(N, dtype=bool)
    first[1:] = u[1:] != u[:-1]
    tie = first.copy()
    tie[1:] |= t[1:] != t[:-1]
    opens = first.copy()
    opens[1:] |= t[1:] - t[:-1] > gap_ms
    begin = np.maximum.accumulate(np.where(first, at, 0))  # [N], places in order: the user's first event
    end = np.maximum.accumulate(np.where(tie, at, 0))  # behind the last event that is strictly earlier
    session = np.cumsum(opens) - 1
    start = np.flatnonzero(opens)  # [number of sessions]
    stop = np.append(start[1:], N)

    out = {
        "sessions": np.zeros((N, sessions, items), dtype=np.int32),
        "feedback": np.zeros((N, sessions, items, signals.shape[1] + 1), dtype=np.float32),
    }
    token, signals = item[order].astype(np.int32) + 1, signals[order].astype(np.float32)
    last = np.where(end > begin, session[end - 1], -1)  # the last session with a strictly earlier event
    if not current:
        last = np.where(last == session, last - 1, last)
    for k in range(sessions):
        s = last - k
        there = (end > begin) & (s >= session[begin])
        s = np.where(there, s, 0)
        high = np.where(there, np.minimum(stop[s], end), 0) if N else s
        low = np.maximum(start[s], high - items) if N else s
        where = low[:, None] + np.arange(items)  # [N, items]
        inside = (where < high[:, None]) & there[:, None]
        where = np.where(inside, where, 0)
        place = sessions - 1 - k
        hours = np.log1p(np.maximum(t[:, None] - t[where], 0) / 3.6e6) if N else where
        out["sessions"][order, place] = np.where(inside, token[where], 0) if N else 0
        found = np.concatenate((signals[where], hours[..., None]), axis=2) if N else 0
        out["feedback"][order, place] = np.where(inside[..., None], found, 0)

    none = np.zeros(0, dtype=np.int64)
    past_user, past_item = (none if v is None else v for v in (past_user, past_item))
    both = np.argsort(np.concatenate((past_user, u)), kind="stable")  # a user's past, then the log in order
    flat = np.concatenate((past_item.astype(np.int32) + 1, token))[both]
    place_of = np.empty(len(both), dtype=np.int64)
    place_of[both] = np.arange(len(both))
    in_log = place_of[len(past_user) :]  # [N], of each event
    stop_at = in_log[end if grow else begin]
    low = np.maximum(np.searchsorted(np.concatenate((past_user, u))[both], u), stop_at - long)
    out["long_length"] = np.empty(N, dtype=np.int64)
    out["long_length"][order] = stop_at - low
    out["long"] = np.zeros((N, long), dtype=np.int32)
    for j in range(long):  # a column at a time: no [N, long] of int64
        where = low + j
        inside = where < stop_at
        out["long"][order, j] = np.where(inside, flat[np.where(inside, where, 0)], 0) if N else 0
    return out


def _past(folder: Path, log: dict[str, np.ndarray], first_date: int) -> tuple[np.ndarray, np.ndarray]:
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


def _sizes(**sizes: Any) -> None:
    for name, n in sizes.items():
        if n < 1:
            raise ValueError(f"{name}: expected at least 1, got {n}")
