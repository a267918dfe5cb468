"""Reading KuaiRand-Pure: the log and the feature files, in the original layout or packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._tables import Column
from ._shared import find_folder, find_rows, read_columns, require_whole

Dates = tuple[int, int]  # first and last, YYYYMMDD
Log = dict[str, np.ndarray]
TRAIN_DATES: Dates = (20220425, 20220430)
TEST_DATES: Dates = (20220501, 20220508)
_LOGS = ("log_standard_*.csv", "log_standard_*.csv.gz")
LOG_COLUMNS = ("user_id", "video_id", "date", "hourmin", "time_ms", "play_time_ms", "duration_ms", "tab")


class FeatureTable:
    """Rows of a feature file looked up for every impression; a row that the file lacks reads as missing.

    Columns are compared in the file's table, which has far fewer rows than there are impressions.
    """

    def __init__(self, columns: dict[str, np.ndarray], index: np.ndarray) -> None:
        self._columns, self._index = columns, index  # index [N], -1 where missing

    @classmethod
    def read(cls, folder: Path, name: str, key: str, columns: Sequence[Column], ids: np.ndarray) -> FeatureTable:
        """The file's rows of these ids, which it has in the column ``key``."""
        file = next((f for f in (folder / name, folder / f"{name}.gz") if f.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"kuairand: no {name} (or {name}.gz) in {folder}; it is part of KuaiRand-Pure's data folder")
        found = read_columns(file, [Column(key), *columns])
        return cls(found, find_rows(ids, require_whole(file, key, found[key])))

    @classmethod
    def of_no_rows(cls, columns: Sequence[Column]) -> FeatureTable:
        empty = {column.name: np.zeros(0, dtype=object if column.kind == "text" else np.float64) for column in columns}
        return cls(empty, np.zeros(0, dtype=np.int64))

    def _look_up(self, column: np.ndarray, missing: float | bool) -> np.ndarray:
        return np.append(column, missing)[self._index]  # index -1 is the appended one

    def equals(self, name: str, value: str) -> np.ndarray:
        return self._look_up(self._columns[name] == value, False)

    def contains(self, name: str, value: str) -> np.ndarray:
        """Whether a comma-separated list has that entry."""
        texts, index = np.unique(self._columns[name], return_inverse=True)
        return self._look_up(np.array([value in t.split(",") for t in texts], dtype=bool)[index], False)

    def number(self, name: str) -> np.ndarray:
        return self._look_up(self._columns[name].astype(np.float64), np.nan)


def find_kuairand(path: str | Path | None) -> Path:
    hint = "or download KuaiRand-Pure from https://kuairand.com, unpack it, and pass the folder with its CSV files as path="
    return find_folder("kuairand", "kuairand_pure", ["interactions.npz", *_LOGS], path, hint)


def read_log(folder: Path, columns: Sequence[str] = LOG_COLUMNS) -> Log:
    packed = folder / "interactions.npz"
    files = [packed] if packed.is_file() else _log_files(folder)
    parts = []
    for file in files:
        found = read_columns(file, [Column(name) for name in columns])
        parts.append({name: require_whole(file, name, column) for name, column in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def _log_files(folder: Path) -> list[Path]:
    """Each log once, also where it lies both compressed and not."""
    names = {file.name.removesuffix(".gz") for pattern in _LOGS for file in folder.glob(pattern)}
    return [file if file.is_file() else folder / f"{file.name}.gz" for file in (folder / name for name in sorted(names))]


def select_dates(log: Log, folder: Path, train_dates: Dates, test_dates: Dates) -> tuple[Log, np.ndarray]:
    """The rows of either split in order of time, and which of them are training rows."""
    if not train_dates[0] <= train_dates[1] < test_dates[0] <= test_dates[1]:
        raise ValueError(f"train_dates, test_dates: expected first <= last, training before test, got {train_dates}, {test_dates}")
    date = log["date"]
    in_train = (date >= train_dates[0]) & (date <= train_dates[1])
    rows = np.flatnonzero(in_train | ((date >= test_dates[0]) & (date <= test_dates[1])))
    rows = rows[np.argsort(log["time_ms"][rows], kind="stable")]
    in_train = in_train[rows]
    if not in_train.any():
        raise ValueError(f"train_dates: expected dates that occur in {folder}, got {train_dates}")
    return {name: column[rows] for name, column in log.items()}, in_train
