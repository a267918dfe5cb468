"""The dense features of KuaiRand-Pure: what is known before a video is played, without any label."""

from __future__ import annotations

import numpy as np

from .._tables import Column
from ._kuairand_files import FeatureTable, Log
from ._shared import start_of_run, starts_of_runs
from .standardiser import Standardiser

_N_TABS, _N_TAGS = 15, 70
_ACTIVITY = ("full_active", "high_active", "middle_active", "low_active", "2_14_day_new")
_UPLOADS = ("LongImport", "Web", "ShortImport", "Kmovie", "LongPicture", "PictureSet", "LongCamera", "ShortCamera")
_USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
# the user one-hots with few categories, and how many; those with many (2, 3, 5, 7, 8) are identifiers in disguise
_USER_ONEHOTS = {0: 2, 1: 8, 4: 15, 6: 3, 9: 7, 10: 5, 11: 3, 12: 2, 13: 2, 14: 2, 15: 2, 16: 2, 17: 2}

USER_COLUMNS = (
    Column("user_active_degree", "text"),
    *(Column(name) for name in ("is_live_streamer", "is_video_author", *_USER_COUNTS, *(f"onehot_feat{i}" for i in _USER_ONEHOTS))),
)
VIDEO_COLUMNS = (
    *(Column(name, "text") for name in ("upload_type", "video_type", "tag")),
    *(Column(name) for name in ("server_width", "server_height", "music_type")),
)


def dense_columns(log: Log, users: FeatureTable, videos: FeatureTable, user: np.ndarray, item: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> [N]."""
    return _impression(log) | _user(users) | _video(videos) | _counts(user, item, log["time_ms"])


def _impression(log: Log) -> dict[str, np.ndarray]:
    duration = log["duration_ms"] / 1000.0
    angle = 2 * np.pi * (log["hourmin"] // 100 + log["hourmin"] % 100 / 60.0) / 24
    f = {
        "log_duration": np.log1p(duration),
        "duration": np.minimum(duration, 400.0),
        "duration_missing": duration == 0,
        "duration_below_10s": (duration > 0) & (duration < 10),
        "hour_sin": np.sin(angle),
        "hour_cos": np.cos(angle),
        "hour_sin2": np.sin(2 * angle),
        "hour_cos2": np.cos(2 * angle),
    }
    return f | {f"tab_{k}": log["tab"] == k for k in range(_N_TABS)}


def _user(users: FeatureTable) -> dict[str, np.ndarray]:
    f = {f"user_{name}": users.equals("user_active_degree", name) for name in _ACTIVITY}
    f |= {f"user_{name}": users.number(name) > 0 for name in ("is_live_streamer", "is_video_author")}
    f |= {f"user_log_{name}": np.log1p(np.maximum(users.number(name), 0)) for name in _USER_COUNTS}
    for i, categories in _USER_ONEHOTS.items():
        value = users.number(f"onehot_feat{i}")
        f |= {f"user_onehot{i}_{k}": value == k for k in range(1, categories)}
    return f


def _video(videos: FeatureTable) -> dict[str, np.ndarray]:
    f = {f"video_{name}": videos.equals("upload_type", name) for name in _UPLOADS}
    f["video_is_ad"] = videos.equals("video_type", "AD")
    width, height = videos.number("server_width"), videos.number("server_height")
    f["video_aspect"] = np.log(np.maximum(width, 1) / np.maximum(height, 1))
    f["video_music_known"] = ~np.isnan(videos.number("music_type"))
    f["video_music_original"] = videos.number("music_type") == 9
    return f | {f"video_tag_{k}": videos.contains("tag", str(k)) for k in range(1, _N_TAGS)}


def _counts(user: np.ndarray, item: np.ndarray, time: np.ndarray) -> dict[str, np.ndarray]:
    """How many earlier impressions the user and the item had, and how long ago the user's last one was."""
    user_count, user_last = _earlier(user, time)
    item_count, _ = _earlier(item, time)
    gap = np.where(user_count > 0, (time - user_last) / 1000.0, 0.0)
    return {
        "user_log_earlier": np.log1p(user_count),
        "item_log_earlier": np.log1p(item_count),
        "user_log_gap": np.log1p(gap),
        "user_new_session": (user_count == 0) | (gap > 1800.0),
    }


def _earlier(group: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each event: how many strictly earlier events its group has, and the time of the last of them (else 0)."""
    n = len(group)
    order = np.lexsort((time, group))
    t, new_group = time[order], starts_of_runs(group[order])
    group_start = start_of_run(new_group)
    tie_start = start_of_run(new_group | starts_of_runs(t))  # the first of the events at the same moment
    count, last = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    count[order] = tie_start - group_start
    last[order] = np.where(tie_start > group_start, t[tie_start - 1], 0) if n else 0
    return count, last


def standardise(columns: dict[str, np.ndarray], in_train: np.ndarray) -> np.ndarray:
    """``[N, F]``, on the training rows' scale (`Standardiser`), one column at a time."""
    out = np.empty((len(in_train), len(columns)), dtype=np.float32)
    for j, x in enumerate(columns.values()):
        column = x[:, None].astype(np.float64)
        out[:, j] = Standardiser(least_deviation=0.1).fit(column[in_train]).transform(column)[:, 0]
    return out
