"""Tables with ordered labels: abalone, wine, skill, housing and others, of 36 to 20,640 rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .._tables.column import Column, require
from ._shared import Split, find_folder, split_by_hash, table_split

__all__ = ["ordinal", "ordinal_names"]

_PUBLISHED_SPLITS = {"pasture": 30, "tae": 30, "toy": 30}  # of the sets that have them, how many
_OTHERS = (
    "ERA", "ESL", "abalone", "affairs", "auto_riskness", "bostonhousing_ord", "californiahousing", "cement_strength",
    "machine_ord", "skill", "stock_ord", "winequality_red", "winequality_white",
)  # fmt: skip
_ALIASES = {"wine": "winequality_white", "wine_red": "winequality_red", "wine_white": "winequality_white"}


def ordinal(name: str, path: str | Path | None = None, *, split: int = 0, test_share: float = 0.2) -> Split:
    """One set of the tabular ordinal suite, split into training and test rows, one row per example.

    Args:
        name: one of ``ordinal_names()``; ``"wine"`` is ``"winequality_white"``, the larger of the two.
        path: a folder with ``suite.npz`` and ``orca_30holdout.npz``; None looks for ``bench/data/ordinal_tabular`` in the checkout
            that holds this package, then below the current directory.
        split: for ``toy``, ``tae`` and ``pasture`` the number of one of the 30 published hold-out splits; for the others the seed
            of a random split, which never changes.
        test_share: of the rows, for random splits.

    Returns:
        ``(train, test)``, two dicts of tensors:

        - ``dense``: float32 ``[N, F]``, mean 0 and deviation 1 on the training rows (a constant column: 0).
        - ``y``: float32 ``[N]``, the label as published (rings, score, class), a whole number.
        - ``row``: int64 ``[N]``, the row's number in the whole set, for row-keyed noise.

    Raises:
        ValueError: an unknown name (with all names), a file that lacks an array, a split or a share out of range.
        FileNotFoundError: the data is missing; the message says what to do.

    Example:
        >>> train, test = ordinal("abalone")
        >>> train["dense"].shape, len(test["y"])
        (torch.Size([3342, 10]), 835)
    """
    full = _ALIASES.get(name, name)
    if full in _PUBLISHED_SPLITS:
        if not 0 <= split < _PUBLISHED_SPLITS[full]:
            raise ValueError(f"split: expected 0 to {_PUBLISHED_SPLITS[full] - 1} for {full}, whose splits are published, got {split}")
        names = [f"{full}/{split}/{half}_{key}" for key in ("X", "y") for half in ("train", "test")]
        *X, train_y, test_y = _load(_find_file("orca_30holdout.npz", path), names)
        y = [train_y, test_y]
        n_train = len(y[0])
        return table_split(X, y, (np.arange(n_train), np.arange(n_train, n_train + len(y[1]))))
    if full not in _OTHERS:
        raise ValueError(f"name: expected one of {', '.join(ordinal_names())}, got {name!r}")
    table, labels = _load(_find_file("suite.npz", path), [f"{full}_X", f"{full}_y"])
    rows = split_by_hash(len(labels), test_share, split)
    return table_split([table[r] for r in rows], [labels[r] for r in rows], rows)


def ordinal_names() -> list[str]:
    """The names that ``ordinal`` takes, sorted.

    Example:
        >>> ordinal_names()[:3]
        ['ERA', 'ESL', 'abalone']
    """
    return sorted((*_PUBLISHED_SPLITS, *_OTHERS, *_ALIASES))


def _find_file(name: str, path: str | Path | None) -> Path:
    return find_folder("ordinal", "ordinal_tabular", [name], path, f"pass the folder that holds {name} as path=") / name


def _load(file: Path, names: list[str]) -> list[np.ndarray]:
    with np.load(file) as source:
        require(file, [Column(name) for name in names], source.files)
        return [source[name] for name in names]
