"""KuaiRand-Pure: short-video watch times as tensors, with histories that never see the future.

Data: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos", CIKM 2022,
https://kuairand.com, CC BY-SA 4.0. Only NumPy is needed to read it.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..quantiles import history_quantiles

__all__ = ["kuairand", "kuairand_features", "n_ids"]

Dates = tuple[int, int]
TRAIN_DATES: Dates = (20220425, 20220430)
TEST_DATES: Dates = (20220501, 20220508)

_LOG_COLUMNS = ("user_id", "video_id", "date", "hourmin", "time_ms", "play_time_ms", "duration_ms", "tab")
_N_TABS, _N_TAGS = 15, 70
_ACTIVITY = ("full_active", "high_active", "middle_active", "low_active", "2_14_day_new")
_UPLOADS = ("LongImport", "Web", "ShortImport", "Kmovie", "LongPicture", "PictureSet", "LongCamera", "ShortCamera")
_USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
# the user one-hots with few categories, and how many; the wide ones (2, 3, 5, 7, 8) are identifiers in disguise
_USER_ONEHOTS = {0: 2, 1: 8, 4: 15, 6: 3, 9: 7, 10: 5, 11: 3, 12: 2, 13: 2, 14: 2, 15: 2, 16: 2, 17: 2}


def kuairand(
    path: str | Path | None = None,
    *,
    quantiles: int = 20,
    train_dates: Dates = TRAIN_DATES,
    test_dates: Dates = TEST_DATES,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """KuaiRand-Pure's standard log as ``(train, test)``, split by time: two dicts of tensors, one row per impression.

    ========================  =======================================================================================
    ``user``, ``item``        int64 ``[N]``, contiguous over both splits (``n_ids`` counts them)
    ``dense``                 float32 ``[N, F]``: standardised with the training split's mean and deviation and kept
                              within the training split's range; ``kuairand_features()`` names the columns
    ``q_user``, ``q_item``    float32 ``[N, quantiles]``, seconds: quantiles, at levels ``(l - 0.5) / quantiles``, of
                              the watch times of that user's (item's) *strictly earlier* impressions in either split
                              (events at the same millisecond are excluded); without any, the training split's own
    ``has_user``, ``has_item``  float32 ``[N]``: 1 where there was a strictly earlier impression
    ``y``                     float32 ``[N]``: watch time, seconds
    ``row``                   int64 ``[N]``: the row's number in time order, for row-keyed noise
    ``user_id``, ``video_id``, ``time_ms``, ``tab``, ``hour``   int64 ``[N]``: the source's columns
    ``duration``              float32 ``[N]``, seconds
    ========================  =======================================================================================

    ``path`` is a folder with ``interactions.npz``, ``user_features_pure.csv[.gz]`` and
    ``video_features_basic_pure.csv[.gz]``, or with KuaiRand-Pure's own ``log_standard_*.csv`` instead of the first;
    ``None`` looks for ``bench/data/kuairand_pure`` in the checkout that holds this package, then below the current
    directory. Rows outside ``train_dates`` and ``test_dates`` (YYYYMMDD, inclusive) are left out.

    Errors: ``FileNotFoundError`` where the data is missing, saying what to do; ``ValueError`` for a file that lacks a
    column, and for dates that select no training rows or let the splits overlap.

    Example::

        train, test = ordkernels.data.kuairand()
        model = ordkernels.models.FlowTime(*ordkernels.data.n_ids(train, test), train["dense"].shape[1])
    """
    if quantiles < 1:
        raise ValueError(f"quantiles: expected at least 1, got {quantiles}")
    if not train_dates[0] <= train_dates[1] < test_dates[0] <= test_dates[1]:
        raise ValueError(f"train_dates, test_dates: expected first <= last, training before test, got {train_dates}, {test_dates}")
    folder = _find(path)
    users = _read_csv(_first(folder, "user_features_pure.csv"))
    videos = _read_csv(_first(folder, "video_features_basic_pure.csv"))
    log, in_train = select(_read_log(folder), folder, train_dates, test_dates)

    user = np.unique(log["user_id"], return_inverse=True)[1]
    item = np.unique(log["video_id"], return_inverse=True)[1]
    y = log["play_time_ms"] / 1000.0
    levels = (np.arange(quantiles) + 0.5) / quantiles
    columns = _dense(log, _join(log["user_id"], users, "user_id"), _join(log["video_id"], videos, "video_id"))
    columns.update(_counts(user, item, log["time_ms"]))
    out: dict[str, np.ndarray] = {
        "user": user,
        "item": item,
        "dense": _standardise(columns, in_train),
        "y": y.astype(np.float32),
        "row": np.arange(len(y)),
        "duration": (log["duration_ms"] / 1000.0).astype(np.float32),
        "hour": log["hourmin"] // 100,
        **{name: log[name] for name in ("user_id", "video_id", "time_ms", "tab")},
    }
    overall = np.quantile(y[in_train], levels)
    for side, group in (("user", user), ("item", item)):
        q = np.asarray(history_quantiles(y, group, log["time_ms"], levels))  # [N, L]
        has = ~np.isnan(q[:, 0])
        out[f"q_{side}"] = np.where(has[:, None], q, overall).astype(np.float32)
        out[f"has_{side}"] = has.astype(np.float32)

    def part(rows: np.ndarray) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(np.ascontiguousarray(v[rows] if v.dtype.kind == "f" else v[rows].astype(np.int64)))
            for name, v in out.items()
        }

    return part(in_train), part(~in_train)


def select(log: dict[str, np.ndarray], folder: Path, train_dates: Dates, test_dates: Dates) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows of either split in order of time, and which of them are training rows."""
    date = log["date"]
    in_train = (date >= train_dates[0]) & (date <= train_dates[1])
    keep = np.flatnonzero(in_train | ((date >= test_dates[0]) & (date <= test_dates[1])))
    keep = keep[np.argsort(log["time_ms"][keep], kind="stable")]
    in_train = in_train[keep]
    if not in_train.any():
        raise ValueError(f"train_dates: expected dates that occur in {folder}, got {train_dates}")
    return {name: column[keep] for name, column in log.items()}, in_train


def kuairand_features() -> list[str]:
    """Names of the columns of ``dense``, in order."""
    empty = {name: np.zeros(0) for name in _LOG_COLUMNS}
    no_rows = np.zeros(0, dtype=np.int64)
    return [*_dense(empty, _Table(no_rows, {}), _Table(no_rows, {})), *_counts(no_rows, no_rows, no_rows)]


def n_ids(*parts: dict[str, Tensor]) -> tuple[int, int]:
    """``(n_users, n_items)``: one more than the largest id in any of the parts, as embedding tables need it.

    Items of ``long`` and ``sessions`` (there ``item + 1``) count too.
    """
    filled = [p for p in parts if len(p["user"])]
    if not filled:
        raise ValueError("parts: expected at least one part with rows, got none")
    earlier = [int(p[name].max()) for p in filled for name in ("long", "sessions") if name in p and p[name].numel()]
    return max(int(p["user"].max()) for p in filled) + 1, max(*(int(p["item"].max()) + 1 for p in filled), 0, *earlier)


# ---------------------------------------------------------------------------------------------------- features


class _Table:
    """Rows of a side table looked up for every impression; a row that the table lacks reads as missing.

    Columns are parsed and compared in the table, which has far fewer rows than there are impressions.
    """

    def __init__(self, index: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        self.index, self.columns = index, columns  # index [N], -1 where missing

    def _look_up(self, column: np.ndarray, missing: float | bool) -> np.ndarray:
        return np.append(column, missing)[self.index]  # index -1 is the appended one

    def _column(self, name: str) -> np.ndarray:
        return self.columns.get(name, np.full(max(map(len, self.columns.values()), default=0), ""))

    def equals(self, name: str, value: str) -> np.ndarray:
        return self._look_up(self._column(name) == value, False)

    def contains(self, name: str, value: str) -> np.ndarray:
        """Whether a comma-separated list has that entry."""
        texts, which = np.unique(self._column(name), return_inverse=True)
        return self._look_up(np.array([value in t.split(",") for t in texts], dtype=bool)[which], False)

    def number(self, name: str) -> np.ndarray:
        parsed = [float(v) if v not in ("", "nan", "NULL") else np.nan for v in self._column(name)]
        return self._look_up(np.array(parsed, dtype=np.float64), np.nan)


def _dense(log: dict[str, np.ndarray], users: _Table, videos: _Table) -> dict[str, np.ndarray]:
    """What is known before the video is played, without any label: name -> [N]."""
    duration = log["duration_ms"] / 1000.0
    angle = 2 * np.pi * (log["hourmin"] // 100 + log["hourmin"] % 100 / 60.0) / 24
    f: dict[str, np.ndarray] = {
        "log_duration": np.log1p(duration),
        "duration": np.minimum(duration, 400.0),
        "duration_missing": duration == 0,
        "duration_below_10s": (duration > 0) & (duration < 10),
        "hour_sin": np.sin(angle),
        "hour_cos": np.cos(angle),
        "hour_sin2": np.sin(2 * angle),
        "hour_cos2": np.cos(2 * angle),
    }
    f |= {f"tab_{k}": log["tab"] == k for k in range(_N_TABS)}

    f |= {f"user_{name}": users.equals("user_active_degree", name) for name in _ACTIVITY}
    f |= {f"user_{name}": users.number(name) > 0 for name in ("is_live_streamer", "is_video_author")}
    f |= {f"user_log_{name}": np.log1p(np.maximum(_fill(users.number(name)), 0)) for name in _USER_COUNTS}
    for i, size in _USER_ONEHOTS.items():
        value = users.number(f"onehot_feat{i}")
        f |= {f"user_onehot{i}_{k}": value == k for k in range(1, size)}

    f |= {f"video_{name}": videos.equals("upload_type", name) for name in _UPLOADS}
    f["video_is_ad"] = videos.equals("video_type", "AD")
    width, height = _fill(videos.number("server_width")), _fill(videos.number("server_height"))
    f["video_aspect"] = np.log(np.maximum(width, 1) / np.maximum(height, 1))
    f["video_music_known"] = ~np.isnan(videos.number("music_type"))
    f["video_music_original"] = videos.number("music_type") == 9
    f |= {f"video_tag_{k}": videos.contains("tag", str(k)) for k in range(1, _N_TAGS)}
    return f


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
    g, t, at = group[order], time[order], np.arange(n)
    new_group = np.ones(n, dtype=bool)
    new_group[1:] = g[1:] != g[:-1]
    new_time = new_group.copy()
    new_time[1:] |= t[1:] != t[:-1]
    group_start = np.maximum.accumulate(np.where(new_group, at, 0))
    tie_start = np.maximum.accumulate(np.where(new_time, at, 0))  # the first of the events at the same moment
    count, last = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    count[order] = tie_start - group_start
    last[order] = np.where(tie_start > group_start, t[tie_start - 1], 0) if n else 0
    return count, last


def _standardise(columns: dict[str, np.ndarray], in_train: np.ndarray) -> np.ndarray:
    """``[N, F]``, mean 0 and deviation 1 on the training rows, one column at a time.

    Kept within the training rows' range, since counts keep growing after them; the deviation is taken as at least
    0.1, or a flag set on one row in a thousand would become a 30.
    """
    out = np.empty((len(in_train), len(columns)), dtype=np.float32)
    for j, x in enumerate(columns.values()):
        seen = x[in_train].astype(np.float64)
        out[:, j] = (np.clip(x, seen.min(), seen.max()) - seen.mean()) / max(seen.std(), 0.1)
    return out


def _fill(x: np.ndarray) -> np.ndarray:
    """Missing numbers as the median of the known ones (0 if none is known)."""
    known = ~np.isnan(x)
    return np.where(known, x, np.median(x[known]) if known.any() else 0.0)


# ---------------------------------------------------------------------------------------------------- reading


def _find(path: str | Path | None) -> Path:
    if path is not None:
        candidates: Sequence[Path] = [Path(path)]
    else:
        relative = Path("bench") / "data" / "kuairand_pure"
        candidates = [Path(__file__).resolve().parents[2] / relative, Path.cwd() / relative]
    for folder in candidates:
        if (folder / "interactions.npz").is_file() or any(folder.glob("log_standard_*.csv*")):
            return folder
    raise FileNotFoundError(
        "kuairand: no interactions.npz and no log_standard_*.csv in "
        + ", ".join(str(c) for c in candidates)
        + ". The source checkout of ordkernels has it in bench/data/kuairand_pure; or download KuaiRand-Pure from "
        "https://kuairand.com, unpack it, and pass the folder with its CSV files as path="
    )


def _first(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"kuairand: no {name} (or {name}.gz) in {folder}; it is part of KuaiRand-Pure's data folder")


def _read_log(folder: Path, columns: Sequence[str] = _LOG_COLUMNS) -> dict[str, np.ndarray]:
    packed = folder / "interactions.npz"
    if packed.is_file():
        with np.load(packed) as source:
            _need(packed, source.files, columns)
            return {name: source[name].astype(np.int64) for name in columns}
    parts = []
    for file in sorted(folder.glob("log_standard_*.csv*")):
        with _open(file) as f:
            header = next(csv.reader([f.readline()]))
            _need(file, header, columns)
            where = [header.index(name) for name in columns]
            parts.append(np.loadtxt(f, delimiter=",", usecols=where, dtype=np.float64, ndmin=2))
    rows = np.concatenate(parts).astype(np.int64)  # all are integers below 2^53
    return dict(zip(columns, rows.T, strict=True))


def _need(file: Path, found: Sequence[str], columns: Sequence[str]) -> None:
    lacking = [name for name in columns if name not in found]
    if lacking:
        raise ValueError(f"{file}: expected the columns {', '.join(columns)}, got none named {', '.join(lacking)}")


def _open(file: Path) -> io.TextIOBase:
    if file.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(file), encoding="utf-8", newline="")
    return open(file, encoding="utf-8", newline="")


def _read_csv(file: Path) -> dict[str, np.ndarray]:
    with _open(file) as f:
        header, *rows = csv.reader(f)
    return {name: np.array(column) for name, column in zip(header, zip(*rows, strict=True), strict=False)}


def _join(ids: np.ndarray, table: dict[str, np.ndarray], key: str) -> _Table:
    if key not in table:
        raise ValueError(f"{key}: expected a column of that name in the feature file, got {', '.join(table) or 'none'}")
    known = table[key].astype(np.float64).astype(np.int64)
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
    return _Table(np.where(known[order][at] == ids, order[at], -1), table)
