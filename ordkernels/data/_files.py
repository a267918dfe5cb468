"""Where data files are looked for, how a split is drawn, how features are standardised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def find(loader: str, folder: str, files: Sequence[str], path: str | Path | None, hint: str) -> Path:
    """The folder that holds any of ``files``: ``path`` if given, else bench/data of the checkout, then of the current directory."""
    relative = Path("bench") / "data" / folder
    candidates = [Path(path)] if path is not None else [Path(__file__).resolve().parents[2] / relative, Path.cwd() / relative]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in files):
            return candidate
    raise FileNotFoundError(
        f"{loader}: no {' and no '.join(files)} in {', '.join(map(str, candidates))}. "
        f"The source checkout of ordkernels has it in {relative}; {hint}"
    )


def split_rows(n: int, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(training rows, test rows)``, each ascending: the rows of the smallest hashes are the test rows.

    SplitMix64 of the row and the seed, not a library's generator: the same split with every version of every library.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a share strictly between 0 and 1, got {test_share}")
    if seed < 0:
        raise ValueError(f"split: expected a number of at least 0, got {seed}")
    x = np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32)
    x = x * np.uint64(0x9E3779B97F4A7C15)  # wraps
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order = np.argsort(x ^ (x >> np.uint64(31)), kind="stable")
    cut = round(n * test_share)
    return np.sort(order[cut:]), np.sort(order[:cut])


def part(dense: np.ndarray, y: np.ndarray, row: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> dict[str, Tensor]:
    """One split as the loaders give it: ``dense`` standardised float32, ``y`` float32, ``row`` int64."""
    z = (dense - mean) / np.where(spread > 0, spread, 1.0)
    return {
        "dense": torch.from_numpy(np.ascontiguousarray(z, dtype=np.float32)),
        "y": torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32)),
        "row": torch.from_numpy(np.ascontiguousarray(row, dtype=np.int64)),
    }
