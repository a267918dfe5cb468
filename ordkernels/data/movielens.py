"""MovieLens-100K from files of the user's own: ratings in order of time, with long histories and sessions.

Data: GroupLens, https://grouplens.org/datasets/movielens/100k/: research use, no redistribution; nothing of it is shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..quantiles import history_quantiles
from .sessions import _sizes, user_log

__all__ = ["movielens"]

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
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MovieLens-100K as ``(train, test)``, split by time: dicts of tensors, one row per rating.

    The keys of ``kuairand_sessions``, with ``y`` the rating (1 to 5), ``click`` 1 where it is at least 4, and ``feedback`` of an
    earlier rating: whether it was at least 4, log1p of the rating, log1p of the hours since. ``user_id``, ``item_id`` and
    ``time_ms`` are the source's. ``dense``: age, gender and occupation of the user, year and genres of the film, standardised on
    the training rows. Quantiles, histories and sessions hold strictly earlier ratings alone (ratings of the same second are
    excluded).

    Args:
        path: a folder with ``ml-100k.inter``, ``.user`` and ``.item`` (RecBole's layout), or with GroupLens's own ``u.data``,
            ``u.user`` and ``u.item``.
        test_share: the last ratings in time that make the test split; those of one second stay together.
        sessions, items, long, current, quantiles: as ``kuairand_sessions``.

    Errors: ``FileNotFoundError`` where a file is missing, saying what to do; ``ValueError`` for sizes below 1, a share outside
    (0, 1) and files with other columns.

    Example::

        train, test = ordkernels.data.movielens("ml-100k")
    """
    _sizes(sessions=sessions, items=items, long=long, quantiles=quantiles)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a share strictly between 0 and 1, got {test_share}")
    folder = Path(path)
    ratings, users, films = _find(folder)
    log = np.array(_read(ratings, 4), dtype=np.float64).astype(np.int64).reshape(-1, 4)
    log = log[np.argsort(log[:, 3], kind="stable")]
    user_id, item_id, y, seconds = log.T
    if not len(log):
        raise ValueError(f"{ratings}: expected ratings, got none")
    in_train = seconds < seconds[min(int(len(log) * (1 - test_share)), len(log) - 1)]
    if not in_train.any():
        raise ValueError(f"test_share: expected training rows to be left, got {test_share} of {len(log)} ratings")

    user = np.unique(user_id, return_inverse=True)[1]
    item = np.unique(item_id, return_inverse=True)[1]
    click = (y >= 4).astype(np.float32)
    dense = np.concatenate((_users(users, user_id), _films(films, item_id)), axis=1)
    seen = dense[in_train]
    dense = np.clip((dense - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 0.1), -10, 10)
    out: dict[str, np.ndarray] = {
        "user": user, "item": item, "user_id": user_id, "item_id": item_id, "time_ms": seconds * 1000, "row": np.arange(len(y)),
        "dense": dense.astype(np.float32), "y": y.astype(np.float32), "click": click,
        **user_log(user, item, seconds * 1000, np.stack((click, np.log1p(y)), axis=1),
                   sessions=sessions, items=items, long=long, current=current),
    }  # fmt: skip
    levels = (np.arange(quantiles) + 0.5) / quantiles
    overall = np.quantile(y[in_train], levels)
    for side, group in (("user", user), ("item", item)):
        q = np.asarray(history_quantiles(y.astype(np.float64), group, seconds, levels))
        has = ~np.isnan(q[:, 0])
        out[f"q_{side}"] = np.where(has[:, None], q, overall).astype(np.float32)
        out[f"has_{side}"] = has.astype(np.float32)

    def part(rows: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(v[rows])) for name, v in out.items()}

    return part(in_train), part(~in_train)


def _find(folder: Path) -> tuple[Path, Path, Path]:
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


def _read(file: Path, columns: int) -> list[list[str]]:
    """The rows of either layout: RecBole's begins with a header, u.user and u.item are separated by bars."""
    lines = file.read_text(encoding="latin-1" if file.name == "u.item" else "utf-8").splitlines()
    rows = [line.split("|" if "|" in line else "\t") for line in lines if line]
    if rows and ":" in rows[0][0]:
        rows = rows[1:]
    for i, row in enumerate(rows):
        if len(row) < columns:
            raise ValueError(f"{file}: expected {columns} columns, got {len(row)} in row {i}")
    return [row[:columns] for row in rows]


def _users(file: Path, ids: np.ndarray) -> np.ndarray:
    """Age, gender, occupation, ``[N, 2 + occupations]``."""
    rows = _read(file, 4)
    age, woman = (np.array(v, dtype=np.float64) for v in ([r[1] for r in rows], [r[2] == "F" for r in rows]))
    job = np.array([r[3] for r in rows])
    flags = (job[:, None] == np.unique(job)).astype(np.float64)
    return _look_up(ids, [r[0] for r in rows], np.column_stack((age, woman, flags)))


def _films(file: Path, ids: np.ndarray) -> np.ndarray:
    """Year and genres, ``[N, 1 + genres]``."""
    if file.name == "u.item":
        rows = _read(file, 5 + _GENRES)
        years = [r[2][-4:] for r in rows]
        flags = np.array([r[5 : 5 + _GENRES] for r in rows], dtype=np.float64).reshape(-1, _GENRES)
    else:
        rows = _read(file, 4)
        years = [r[2] for r in rows]
        kinds = [r[3].split() for r in rows]
        genres = sorted({genre for kind in kinds for genre in kind})
        flags = np.array([[genre in kind for genre in genres] for kind in kinds], dtype=np.float64)
    year = np.array([float(v) if v.isdigit() else np.nan for v in years])
    year = np.where(np.isnan(year), np.nanmedian(year) if (~np.isnan(year)).any() else 0.0, year)
    return _look_up(ids, [r[0] for r in rows], np.column_stack((year, flags)))


def _look_up(ids: np.ndarray, known: list[str], table: np.ndarray) -> np.ndarray:
    """The table's rows of these ids; an id that it lacks has the mean of all rows."""
    keys = np.array(known, dtype=np.int64)
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys[order], ids), len(keys) - 1)
    return np.where((keys[order][at] == ids)[:, None], table[order[at]], table.mean(axis=0))
