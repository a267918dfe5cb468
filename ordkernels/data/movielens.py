"""MovieLens-100K and 1M from files of the user's own: ratings in order of time, with long histories and sessions.

Data: GroupLens, https://grouplens.org/datasets/movielens/: research use, no redistribution; nothing of it is shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._tables.column import Column, require
from .._validation.numbers import positive_sizes
from ._shared import Split, check_share, find_rows, history_features, parse_numbers, require_finite, require_whole, to_tensors
from .sessions import user_log
from .standardiser import Standardiser

__all__ = ["movielens"]

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_USERS = ("user_id", "age", "gender", "occupation")
_GENRES = tuple(f"genre_{i}" for i in range(19))  # flags of u.item


class _Layout(NamedTuple):
    """Files of ratings, users and films; of those without a header line the separators and all columns."""

    files: tuple[str, str, str]
    separators: tuple[str, str, str] = ("\t", "\t", "\t")
    columns: tuple[tuple[str, ...], ...] = ((), (), ())


_LAYOUTS = (
    *(_Layout((f"{name}.inter", f"{name}.user", f"{name}.item")) for name in ("ml-100k", "ml-1m")),
    _Layout(
        ("u.data", "u.user", "u.item"),
        ("\t", "|", "|"),
        (_RATINGS, (*_USERS, "zip_code"), ("item_id", "title", "release_date", "video_release_date", "url", *_GENRES)),
    ),
    _Layout(
        ("ratings.dat", "users.dat", "movies.dat"),
        ("::", "::", "::"),
        (_RATINGS, ("user_id", "gender", "age", "occupation", "zip_code"), ("item_id", "title", "genres")),
    ),
)


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
    """MovieLens-100K or 1M, split by time into training and test rows, one row per rating.

    Quantiles, histories and sessions are of strictly earlier ratings alone (ratings of the same second are excluded).

    Args:
        path: a folder with ``ml-100k.inter`` or ``ml-1m.inter``, ``.user`` and ``.item`` (RecBole's layout), or with GroupLens's own
            ``u.data``, ``u.user`` and ``u.item``, or ``ratings.dat``, ``users.dat`` and ``movies.dat``.
        sessions, items, long, current, quantiles: as ``kuairand_sessions``.
        test_share: the last ratings in time that make the test split; those of one second stay together.

    Returns:
        ``(train, test)``, two dicts of tensors with the keys of ``kuairand_sessions``: ``y`` is the rating (1 to 5, half
        stars too), ``click`` is 1 where it is at least 4, and ``feedback`` of an earlier rating is whether it was at least 4,
        log1p of the rating, log1p of the hours since. ``user_id``, ``item_id`` and ``time_ms`` are the source's. ``dense``:
        age, gender and occupation of the user, year and genres of the film, standardised on the training rows.

    Raises:
        FileNotFoundError: a file is missing; the message says what to do.
        ValueError: sizes below 1, a share outside (0, 1), files with other columns, or cells that are not numbers.

    Example:
        >>> train, test = movielens("ml-100k")  # doctest: +SKIP
    """
    positive_sizes(sessions=sessions, items=items, long=long, quantiles=quantiles)
    check_share(test_share)
    ratings, users, films = _open(Path(path))
    order = np.argsort(ratings.whole("timestamp"), kind="stable")
    user_id, item_id, seconds = (ratings.whole(name)[order] for name in ("user_id", "item_id", "timestamp"))
    y = ratings.finite("rating")[order]
    in_train = seconds < seconds[min(int(len(y) * (1 - test_share)), len(y) - 1)]
    if not in_train.any():
        raise ValueError(f"test_share: expected training rows to be left, got {test_share} of {len(y)} ratings")

    user, item = (np.unique(ids, return_inverse=True)[1] for ids in (user_id, item_id))
    click, time_ms = (y >= 4).astype(np.float32), seconds * 1000
    signals = np.stack((click, np.log1p(y)), axis=1)
    dense = np.concatenate((_user_features(users, user_id), _film_features(films, item_id)), axis=1)
    columns = {
        "user": user,
        "item": item,
        "user_id": user_id,
        "item_id": item_id,
        "time_ms": time_ms,
        "row": np.arange(len(y)),
        "dense": Standardiser(least_deviation=0.1).fit(dense[in_train]).transform(dense),
        "y": y.astype(np.float32),
        "click": click,
        **user_log(user, item, time_ms, signals, sessions=sessions, items=items, long=long, current=current),
        **history_features(y, {"user": user, "item": item}, seconds, in_train, quantiles),
    }
    return to_tensors(columns, in_train), to_tensors(columns, ~in_train)


class _Table:
    """A file's rows, as columns of text by name."""

    def __init__(self, file: Path, separator: str, names: tuple[str, ...]) -> None:
        """Without names the file begins with a header of ``name:type``, and is UTF-8; else it is Latin-1, as GroupLens has it."""
        text = file.read_bytes().decode("latin-1" if names else "utf-8-sig")
        rows = [line.split(separator) for line in text.replace("\r\n", "\n").split("\n") if line]
        header = list(names)
        if not names and rows:
            header, rows = [cell.partition(":")[0] for cell in rows[0]], rows[1:]
        for i, row in enumerate(rows):
            if len(row) != len(header):
                raise ValueError(f"{file}: expected the columns {' '.join(header)} in every row, got {len(row)} cells in row {i}")
        if not rows:
            raise ValueError(f"{file}: expected at least one row, got none")
        self.file, self.names, self._columns = file, header, list(zip(*rows, strict=True))

    def text(self, name: str) -> list[str]:
        require(self.file, [Column(name)], self.names)
        return list(self._columns[self.names.index(name)])

    def finite(self, name: str) -> np.ndarray:
        return require_finite(self.file, name, parse_numbers(self.file, name, self.text(name)))

    def whole(self, name: str) -> np.ndarray:
        return require_whole(self.file, name, parse_numbers(self.file, name, self.text(name)))


def _open(folder: Path) -> list[_Table]:
    """Ratings, users and films, in the first of the layouts whose ratings are there."""
    layout = next((layout for layout in _LAYOUTS if (folder / layout.files[0]).is_file()), None)
    if layout is None:
        raise FileNotFoundError(
            f"movielens: no {' and no '.join(layout.files[0] for layout in _LAYOUTS)} in {folder}. Its terms forbid shipping it: download "
            "ml-100k.zip or ml-1m.zip from https://grouplens.org/datasets/movielens/, unpack it, and pass its folder as path="
        )
    for name in layout.files:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"movielens: no {name} in {folder}; it belongs to {layout.files[0]}")
    return [
        _Table(folder / name, separator, names)
        for name, separator, names in zip(layout.files, layout.separators, layout.columns, strict=True)
    ]


def _user_features(users: _Table, ids: np.ndarray) -> np.ndarray:
    """Age, gender, occupation, ``[N, 2 + occupations]``."""
    is_woman = np.array(users.text("gender")) == "F"
    occupation = np.array(users.text("occupation"))
    flags = occupation[:, None] == np.unique(occupation)
    return _look_up(ids, users.whole("user_id"), np.column_stack((users.finite("age"), is_woman, flags)))


def _film_features(films: _Table, ids: np.ndarray) -> np.ndarray:
    """Year and genres, ``[N, 1 + genres]``."""
    if _GENRES[0] in films.names:
        flags = np.stack([films.finite(name) for name in _GENRES], axis=1)
    else:  # lists of names
        name = next((name for name in ("genres", "genre", "class") if name in films.names), "class")
        genres_of_film = [text.replace("|", " ").split() for text in films.text(name)]
        genres = sorted({genre for of_film in genres_of_film for genre in of_film})
        flags = np.array([[genre in of_film for genre in genres] for of_film in genres_of_film], dtype=np.float64)
    if "release_year" in films.names:
        years = films.text("release_year")
    elif "release_date" in films.names:
        years = [text[-4:] for text in films.text("release_date")]
    else:
        years = [text.rstrip()[-5:-1] for text in films.text("title")]  # Toy Story (1995)
    year = np.array([float(v) if v.isascii() and v.isdigit() else np.nan for v in years])
    return _look_up(ids, films.whole("item_id"), np.column_stack((year, flags)))


def _look_up(ids: np.ndarray, keys: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The table's rows of these ids; an id that it lacks has missing values."""
    return np.vstack((table, np.full(table.shape[1], np.nan)))[find_rows(ids, keys)]
