"""What the loaders share: where files are looked for, how rows are split, and features from ids, times and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._tables import Column, joined, read
from .._tables.cells import CellError, Parser
from ..quantiles import history_quantiles
from .standardiser import Standardiser

Split = tuple[dict[str, Tensor], dict[str, Tensor]]  # train, test


def find_folder(loader: str, folder: str, files: Sequence[str], path: str | Path | None, hint: str) -> Path:
    """The folder that holds any of ``files`` (patterns): ``path`` if given, else bench/data of the checkout, then of the current
    directory."""
    relative = Path("bench") / "data" / folder
    candidates = [Path(path)] if path is not None else [Path(__file__).resolve().parents[2] / relative, Path.cwd() / relative]
    for candidate in candidates:
        if any(any(candidate.glob(name)) for name in files):
            return candidate
    raise FileNotFoundError(
        f"{loader}: no {' and no '.join(files)} in {', '.join(map(str, candidates))}. "
        f"The source checkout of ordkernels has it in {relative}; {hint}"
    )


def read_columns(file: Path, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """All rows of some columns; numbers as `ordkernels._tables.read` gives them, ValueError for what is not one."""
    try:
        chunks = list(read(file, columns))
    except CellError as error:
        raise ValueError(f"{file}: {error}") from None
    if not chunks:
        raise ValueError(f"{file}: expected at least one row, got none")
    return dict(zip((column.name for column in columns), joined(chunks), strict=True))


def parse_numbers(file: Path, name: str, cells: list[str]) -> np.ndarray:
    """The numbers of a column, as `read_columns` reads them."""
    try:
        return Parser(name, "number")(cells)
    except CellError as error:
        raise ValueError(f"{file}: {error}") from None


def require_finite(file: Path, name: str, x: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(x) if x.dtype.kind == "f" else np.zeros(0, dtype=bool)
    if bad.any():
        i = int(bad.argmax())
        got = "a missing one" if np.isnan(x[i]) else str(x[i])
        raise ValueError(f"{file}: {name}: expected numbers, got {got} in row {i}")
    return x


def require_whole(file: Path, name: str, x: np.ndarray) -> np.ndarray:
    """As int64."""
    require_finite(file, name, x)
    bad = (x != np.rint(x)) | (np.abs(x) >= 2**63) if x.dtype.kind == "f" else np.zeros(0, dtype=bool)
    if bad.any():
        raise ValueError(f"{file}: {name}: expected whole numbers, got {x[bad][0]} in row {int(bad.argmax())}")
    return x.astype(np.int64)


def check_share(test_share: float) -> None:
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a share strictly between 0 and 1, got {test_share}")


def split_by_hash(n: int, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(training rows, test rows)``, each ascending: the rows of the smallest hashes are the test rows.

    SplitMix64 of the row and the seed, not a library's generator: the same split with every version of every library.
    """
    check_share(test_share)
    if seed < 0:
        raise ValueError(f"split: expected a number of at least 0, got {seed}")
    x = np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32)
    x = x * np.uint64(0x9E3779B97F4A7C15)  # wraps
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order = np.argsort(x ^ (x >> np.uint64(31)), kind="stable")
    n_test = round(n * test_share)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def table_split(dense: Sequence[np.ndarray], y: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> Split:
    """``dense``, standardised on the training rows, ``y`` and ``row`` of a training and a test part."""
    scale = Standardiser(clip=False).fit(dense[0])
    train, test = (
        to_tensors({
            "dense": scale.transform(x),
            "y": labels.astype(np.float32),
            "row": numbers.astype(np.int64),
        })
        for x, labels, numbers in zip(dense, y, rows, strict=True)
    )  # fmt: skip
    return train, test


def to_tensors(columns: Mapping[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> dict[str, Tensor]:
    """Some rows of all columns."""
    return {name: torch.from_numpy(np.ascontiguousarray(column[rows])) for name, column in columns.items()}


def history_features(
    y: np.ndarray, groups: Mapping[str, np.ndarray], time: np.ndarray, in_train: np.ndarray, quantiles: int
) -> dict[str, np.ndarray]:
    """``q_NAME`` and ``has_NAME`` of every group NAME, float32: quantiles of its strictly earlier labels, and whether it has any.

    Rows without an earlier label have the quantiles of all training labels.
    """
    levels = (np.arange(quantiles) + 0.5) / quantiles
    of_training = np.quantile(y[in_train], levels)
    columns = {}
    for name, group in groups.items():
        q = np.asarray(history_quantiles(y.astype(np.float64), group, time, levels))  # [N, L]
        has = ~np.isnan(q[:, 0])
        columns[f"q_{name}"] = np.where(has[:, None], q, of_training).astype(np.float32)
        columns[f"has_{name}"] = has.astype(np.float32)
    return columns


def find_rows(ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The index in ``keys`` of every id, -1 where it is not one of them."""
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys[order], ids), len(keys) - 1)
    return np.where(keys[order][at] == ids, order[at], -1)


def starts_of_runs(x: np.ndarray) -> np.ndarray:
    """``[N]`` bool: True where a value differs from the one before it."""
    starts = np.ones(len(x), dtype=bool)
    starts[1:] = x[1:] != x[:-1]
    return starts


def start_of_run(starts: np.ndarray) -> np.ndarray:
    """``[N]``: for each row the index where its run begins."""
    return np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
