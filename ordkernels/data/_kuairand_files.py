"""Reading KuaiRand-Pure: the log and the feature files, in the original layout or packed."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._shared import find_folder, find_rows

Dates = tuple[int, int]  # first and last, YYYYMMDD
Log = dict[str, np.ndarray]
TRAIN_DATES: Dates = (20220425, 20220430)
TEST_DATES: Dates = (20220501, 20220508)
LOG_COLUMNS = ("user_id", "video_id", "date", "hourmin", "time_ms", "play_time_ms", "duration_ms", "tab")


class FeatureTable:
    """Rows of a feature file looked up for every impression; a row or a column that the file lacks reads as missing.

    Columns are parsed and compared in the file's table, which has far fewer rows than there are impressions.
    """

    def __init__(self, columns: dict[str, np.ndarray], index: np.ndarray) -> None:
        self._columns, self._index = columns, index  # index [N], -1 where missing

    @classmethod
    def read(cls, folder: Path, name: str, key: str, ids: np.ndarray) -> FeatureTable:
        """The file's rows of these ids, which it has in the column ``key``."""
        file = next((f for f in (folder / name, folder / f"{name}.gz") if f.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"kuairand: no {name} (or {name}.gz) in {folder}; it is part of KuaiRand-Pure's data folder")
        columns = _read_csv(file)
        if key not in columns:
            raise ValueError(f"{file}: expected a column {key}, got {', '.join(columns) or 'none'}")
        return cls(columns, find_rows(ids, columns[key].astype(np.float64).astype(np.int64)))

    def _look_up(self, column: np.ndarray, missing: float | bool) -> np.ndarray:
        return np.append(column, missing)[self._index]  # index -1 is the appended one

    def _column(self, name: str) -> np.ndarray:
        return self._columns.get(name, np.full(max(map(len, self._columns.values()), default=0), ""))

    def equals(self, name: str, value: str) -> np.ndarray:
        return self._look_up(self._column(name) == value, False)

    def contains(self, name: str, value: str) -> np.ndarray:
        """Whether a comma-separated list has that entry."""
        texts, index = np.unique(self._column(name), return_inverse=True)
        return self._look_up(np.array([value in t.split(",") for t in texts], dtype=bool)[index], False)

    def number(self, name: str) -> np.ndarray:
        parsed = [float(v) if v not in ("", "nan", "NULL") else np.nan for v in self._column(name)]
        return self._look_up(np.array(parsed, dtype=np.float64), np.nan)


def find_kuairand(path: str | Path | None) -> Path:
    hint = "or download KuaiRand-Pure from https://kuairand.com, unpack it, and pass the folder with its CSV files as path="
    return find_folder("kuairand", "kuairand_pure", ["interactions.npz", "log_standard_*.csv*"], path, hint)


def read_log(folder: Path, columns: Sequence[str] = LOG_COLUMNS) -> Log:
    packed = folder / "interactions.npz"
    if packed.is_file():
        with np.load(packed) as source:
            _require_columns(packed, source.files, columns)
            return {name: source[name].astype(np.int64) for name in columns}
    parts = []
    for file in sorted(folder.glob("log_standard_*.csv*")):
        with _open(file) as f:
            header = next(csv.reader([f.readline()]))
            _require_columns(file, header, columns)
            index = [header.index(name) for name in columns]
            parts.append(np.loadtxt(f, delimiter=",", usecols=index, dtype=np.float64, ndmin=2))
    rows = np.concatenate(parts).astype(np.int64)  # all are integers below 2^53
    return dict(zip(columns, rows.T, strict=True))


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


def _require_columns(file: Path, found: Sequence[str], columns: Sequence[str]) -> None:
    lacking = [name for name in columns if name not in found]
    if lacking:
        raise ValueError(f"{file}: expected the columns {', '.join(columns)}, got none named {', '.join(lacking)}")


def _open(file: Path) -> io.TextIOBase:
    if file.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(file), encoding="utf-8-sig", newline="")
    return open(file, encoding="utf-8-sig", newline="")


def _read_csv(file: Path) -> dict[str, np.ndarray]:
    with _open(file) as f:
        header, *rows = (row for row in csv.reader(f) if row)
    return {name: np.array(column) for name, column in zip(header, zip(*rows, strict=True), strict=False)}
