"""KuaiRand-Pure: short-video watch times as tensors, with histories that never see the future.

Data: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos", CIKM 2022,
https://kuairand.com, CC BY-SA 4.0. Only NumPy is needed to read it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from .._validation.numbers import positive_sizes
from ._kuairand_features import USER_COLUMNS, VIDEO_COLUMNS, dense_columns, standardise
from ._kuairand_files import LOG_COLUMNS, TEST_DATES, TRAIN_DATES, Dates, FeatureTable, Log, find_kuairand, read_log, select_dates
from ._shared import Split, history_features, to_tensors

__all__ = ["kuairand", "kuairand_features", "n_ids"]


def kuairand(
    path: str | Path | None = None,
    *,
    quantiles: int = 20,
    train_dates: Dates = TRAIN_DATES,
    test_dates: Dates = TEST_DATES,
) -> Split:
    """KuaiRand-Pure's standard log, split by time into training and test rows, one row per impression.

    Args:
        path: a folder with ``interactions.npz``, ``user_features_pure.csv[.gz]`` and ``video_features_basic_pure.csv[.gz]``, or with
            KuaiRand-Pure's own ``log_standard_*.csv`` instead of the first; None looks for ``bench/data/kuairand_pure`` in the
            checkout that holds this package, then below the current directory.
        quantiles: of the histories, L.
        train_dates, test_dates: first and last day (YYYYMMDD, inclusive) of each split; rows outside of both are left out.

    Returns:
        ``(train, test)``, two dicts of tensors:

        - ``user``, ``item``: int64 ``[N]``, contiguous over both splits (``n_ids`` counts them).
        - ``dense``: float32 ``[N, F]``, standardised with the training split's mean and deviation and clipped to its range;
          ``kuairand_features()`` names the columns.
        - ``q_user``, ``q_item``: float32 ``[N, L]``, seconds: quantiles, at levels ``(l - 0.5) / L``, of the watch times of that
          user's (item's) *strictly earlier* impressions in either split (events at the same millisecond are excluded); without
          any, of the training split's watch times.
        - ``has_user``, ``has_item``: float32 ``[N]``, 1 where there was a strictly earlier impression.
        - ``y``: float32 ``[N]``, watch time, seconds.
        - ``row``: int64 ``[N]``, the row's number in time order, for row-keyed noise.
        - ``user_id``, ``video_id``, ``time_ms``, ``tab``, ``hour``: int64 ``[N]``, as in the source.
        - ``duration``: float32 ``[N]``, seconds.

    Raises:
        FileNotFoundError: the data is missing; the message says what to do.
        ValueError: a file that lacks a column or has cells that are not numbers, dates that select no training rows or let the splits
            overlap.

    Example:
        >>> train, test = kuairand()  # doctest: +SKIP
        >>> model = ordkernels.models.FlowTime(*n_ids(train, test), train["dense"].shape[1])  # doctest: +SKIP
    """
    positive_sizes(quantiles=quantiles)
    folder = find_kuairand(path)
    log, in_train = select_dates(read_log(folder), folder, train_dates, test_dates)
    columns = impressions(folder, log, in_train, quantiles)
    return to_tensors(columns, in_train), to_tensors(columns, ~in_train)


def impressions(folder: Path, log: Log, in_train: np.ndarray, quantiles: int) -> dict[str, np.ndarray]:
    """The columns of ``kuairand``, of a log in order of time."""
    user = np.unique(log["user_id"], return_inverse=True)[1]
    item = np.unique(log["video_id"], return_inverse=True)[1]
    users = FeatureTable.read(folder, "user_features_pure.csv", "user_id", USER_COLUMNS, log["user_id"])
    videos = FeatureTable.read(folder, "video_features_basic_pure.csv", "video_id", VIDEO_COLUMNS, log["video_id"])
    y = log["play_time_ms"] / 1000.0
    return {
        "user": user,
        "item": item,
        "dense": standardise(dense_columns(log, users, videos, user, item), in_train),
        "y": y.astype(np.float32),
        "row": np.arange(len(y)),
        "duration": (log["duration_ms"] / 1000.0).astype(np.float32),
        "hour": log["hourmin"] // 100,
        **{name: log[name] for name in ("user_id", "video_id", "time_ms", "tab")},
        **history_features(y, {"user": user, "item": item}, log["time_ms"], in_train, quantiles),
    }


def kuairand_features() -> list[str]:
    """Names of the columns of ``dense``, in order.

    Example:
        >>> kuairand_features()[:3]
        ['log_duration', 'duration', 'duration_missing']
    """
    empty = np.zeros(0, dtype=np.int64)
    users, videos = (FeatureTable.of_no_rows(columns) for columns in (USER_COLUMNS, VIDEO_COLUMNS))
    return list(dense_columns(dict.fromkeys(LOG_COLUMNS, empty), users, videos, empty, empty))


def n_ids(*parts: dict[str, Tensor]) -> tuple[int, int]:
    """``(n_users, n_items)``: one more than the largest id in any of the parts, as embedding tables need it.

    Args:
        parts: what a loader returned; items of ``long`` and ``sessions`` (there ``item + 1``) count too.

    Raises:
        ValueError: no part with rows.

    Example:
        >>> import torch
        >>> n_ids({"user": torch.tensor([0, 4]), "item": torch.tensor([2, 1])})
        (5, 3)
    """
    filled = [p for p in parts if len(p["user"])]
    if not filled:
        raise ValueError("parts: expected at least one part with rows, got none")
    earlier = [int(p[name].max()) for p in filled for name in ("long", "sessions") if name in p and p[name].numel()]
    return max(int(p["user"].max()) for p in filled) + 1, max(*(int(p["item"].max()) + 1 for p in filled), 0, *earlier)
