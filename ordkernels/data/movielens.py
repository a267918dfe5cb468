"""MovieLens-100K from files of the user's own: ratings in order of time, with long histories and sessions.

Data: GroupLens, https://grouplens.org/datasets/movielens/100k/: research use, no redistribution; nothing of it is shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .._validation.numbers import positive_sizes
from ._shared import Split, check_share, find_rows, history_features, to_tensors
from .sessions import user_log

__all__ = ["movielens"]

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_GENRES = 19  # the columns of u.item
_FILES = (("ml-100k.inter", "ml-100k.user", "ml-100k.item"), ("u.data", "u.user", "u.item"))


def movielens(
    path: str | Path,
    *,
    sessions: int = 5,
    items: int = 10,
    long: int = 50,
    current: bool = True,
    quantiles: int = 20,
    test_share: float = 0.2,
) -> Split:
    """MovieLens-100K, split by time into training and test rows, one row per rating.

    Quantiles, histories and sessions are of strictly earlier ratings alone (ratings of the same second are excluded).

    Args:
        path: a folder with ``ml-100k.inter``, ``.user`` and ``.item`` (RecBole's layout), or with GroupLens's own ``u.data``,
            ``u.user`` and ``u.item``.
        sessions, items, long, current, quantiles: as ``kuairand_sessions``.
        test_share: the last ratings in time that make the test split; those of one second stay together.

    Returns:
        ``(train, test)``, two dicts of tensors with the keys of ``kuairand_sessions``: ``y`` is the rating (1 to 5, half
        stars too), ``click`` is 1 where it is at least 4, and ``feedback`` of an earlier rating is whether it was at least 4,
        log1p of the rating, log1p of the hours since. ``user_id``, ``item_id`` and ``time_ms`` are the source's. ``dense``:
        age, gender and occupation of the user, year and genres of the film, standardised on the training rows.

    Raises:
        FileNotFoundError: a file is missing; the message says what to do.
        ValueError: sizes below 1, a share outside (0, 1), files with other columns.

    Example:
        >>> train, test = movielens("ml-100k")  # doctest: +SKIP
    """
    positive_sizes(sessions=sessions, items=items, long=long, quantiles=quantiles)
    check_share(test_share)
    rating_file, user_file, film_file = _find_files(Path(path))
    log = np.array(_read(rating_file, 4, _RATINGS), dtype=np.float64).reshape(-1, 4)
    if not len(log):
        raise ValueError(f"{rating_file}: expected ratings, got none")
    user_id, item_id, seconds = log[:, [0, 1, 3]].astype(np.int64).T
    order = np.argsort(seconds, kind="stable")
    user_id, item_id, seconds, y = user_id[order], item_id[order], seconds[order], log[order, 2]
    in_train = seconds < seconds[min(int(len(log) * (1 - test_share)), len(log) - 1)]
    if not in_train.any():
        raise ValueError(f"test_share: expected training rows to be left, got {test_share} of {len(log)} ratings")

    user, item = (np.unique(ids, return_inverse=True)[1] for ids in (user_id, item_id))
    click, time_ms = (y >= 4).astype(np.float32), seconds * 1000
    signals = np.stack((click, np.log1p(y)), axis=1)
    dense = np.concatenate((_user_features(user_file, user_id), _film_features(film_file, item_id)), axis=1)
    seen = dense[in_train]
    columns = {
        "user": user,
        "item": item,
        "user_id": user_id,
        "item_id": item_id,
        "time_ms": time_ms,
        "row": np.arange(len(y)),
        "dense": np.clip((dense - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 0.1), -10, 10).astype(np.float32),
        "y": y.astype(np.float32),
        "click": click,
        **user_log(user, item, time_ms, signals, sessions=sessions, items=items, long=long, current=current),
        **history_features(y, {"user": user, "item": item}, seconds, in_train, quantiles),
    }
    return to_tensors(columns, in_train), to_tensors(columns, ~in_train)


def _find_files(folder: Path) -> tuple[Path, Path, Path]:
    for names in _FILES:
        if (folder / names[0]).is_file():
            for name in names[1:]:
                if not (folder / name).is_file():
                    raise FileNotFoundError(f"movielens: no {name} in {folder}; it belongs to {names[0]}")
            return folder / names[0], folder / names[1], folder / names[2]
    raise FileNotFoundError(
        f"movielens: no ml-100k.inter and no u.data in {folder}. Its terms forbid shipping it: download ml-100k.zip from "
        "https://grouplens.org/datasets/movielens/100k/, unpack it, and pass its folder as path="
    )


def _read(file: Path, columns: int, names: tuple[str, ...] = ()) -> list[list[str]]:
    """The rows of either layout: RecBole's begins with a header ``name:type``, u.user and u.item are separated by bars.

    names: of the columns, which a header may have in another order.
    """
    lines = file.read_text(encoding="latin-1" if file.name == "u.item" else "utf-8").splitlines()
    rows = [line.split("|" if "|" in line else "\t") for line in lines if line]
    header: list[str] = []
    if rows and ":" in rows[0][0]:
        header, rows = [cell.partition(":")[0] for cell in rows[0]], rows[1:]
        for name in names:
            if name not in header:
                raise ValueError(f"{file}: expected the column {name}, got {', '.join(header)}")
    for i, row in enumerate(rows):
        if len(row) < columns:
            raise ValueError(f"{file}: expected {columns} columns, got {len(row)} in row {i}")
    at = [header.index(name) for name in names] if header and names else range(columns)
    return [[row[i] for i in at] for row in rows]


def _user_features(file: Path, ids: np.ndarray) -> np.ndarray:
    """Age, gender, occupation, ``[N, 2 + occupations]``."""
    rows = _read(file, 4)
    age, is_woman = np.array([float(r[1]) for r in rows]), np.array([r[2] == "F" for r in rows], dtype=np.float64)
    occupation = np.array([r[3] for r in rows])
    flags = (occupation[:, None] == np.unique(occupation)).astype(np.float64)
    return _look_up(ids, [r[0] for r in rows], np.column_stack((age, is_woman, flags)))


def _film_features(file: Path, ids: np.ndarray) -> np.ndarray:
    """Year and genres, ``[N, 1 + genres]``."""
    if file.name == "u.item":
        rows = _read(file, 5 + _GENRES)
        years = [r[2][-4:] for r in rows]
        flags = np.array([r[5 : 5 + _GENRES] for r in rows], dtype=np.float64).reshape(-1, _GENRES)
    else:
        rows = _read(file, 4)
        years = [r[2] for r in rows]
        genres_of_film = [r[3].split() for r in rows]
        genres = sorted({genre for of_film in genres_of_film for genre in of_film})
        flags = np.array([[genre in of_film for genre in genres] for of_film in genres_of_film], dtype=np.float64)
    year = np.array([float(v) if v.isdigit() else np.nan for v in years])
    year = np.where(np.isnan(year), np.nanmedian(year) if (~np.isnan(year)).any() else 0.0, year)
    return _look_up(ids, [r[0] for r in rows], np.column_stack((year, flags)))


def _look_up(ids: np.ndarray, keys: list[str], table: np.ndarray) -> np.ndarray:
    """The table's rows of these ids; an id that it lacks has the mean of all rows."""
    return np.vstack((table, table.mean(axis=0)))[find_rows(ids, np.array(keys, dtype=np.int64))]
