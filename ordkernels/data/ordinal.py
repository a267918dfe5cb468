"""Tables with ordered labels: abalone, wine, skill, housing and others, of 36 to 20,640 rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ._files import find, part, split_rows

__all__ = ["ordinal", "ordinal_names"]

_PUBLISHED = {"pasture": 30, "tae": 30, "toy": 30}  # sets with published hold-out splits, and how many
_DRAWN = (
    "ERA", "ESL", "abalone", "affairs", "auto_riskness", "bostonhousing_ord", "californiahousing", "cement_strength",
    "machine_ord", "skill", "stock_ord", "winequality_red", "winequality_white",
)  # fmt: skip
_ALIASES = {"wine": "winequality_white", "wine_red": "winequality_red", "wine_white": "winequality_white"}


def ordinal(
    name: str, path: str | Path | None = None, *, split: int = 0, test_share: float = 0.2
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One set of the tabular ordinal suite as ``(train, test)``: two dicts of tensors, one row per example.

    =========  ========================================================================================
    ``dense``  float32 ``[N, F]``, mean 0 and deviation 1 on the training rows (a constant column: 0)
    ``y``      float32 ``[N]``: the label as published (rings, score, class), a whole number
    ``row``    int64 ``[N]``: the row's number in the whole set, for row-keyed noise
    =========  ========================================================================================

    ``split`` numbers the split: for ``toy``, ``tae`` and ``pasture`` one of the 30 published hold-out splits; for the
    others the seed of a random one with ``test_share`` of the rows, the same for ever. ``ordinal_names()`` lists the
    sets; ``"wine"`` is ``"winequality_white"``, the larger of the two. ``path`` is a folder with ``suite.npz`` and
    ``orca_30holdout.npz``; ``None`` looks for ``bench/data/ordinal_tabular`` in the checkout that holds this package,
    then below the current directory.

    Errors: ``ValueError`` for an unknown name (with all names), a split or a share out of range; ``FileNotFoundError``
    where the data is missing, saying what to do.

    Example::

        train, test = ordkernels.data.ordinal("abalone")
        model = ordkernels.models.DiffoR(dense_width=train["dense"].shape[1])
    """
    full = _ALIASES.get(name, name)
    if full in _PUBLISHED:
        if not 0 <= split < _PUBLISHED[full]:
            raise ValueError(f"split: expected 0 to {_PUBLISHED[full] - 1} for {full}, whose splits are published, got {split}")
        with np.load(_file("orca_30holdout.npz", path)) as source:
            X, y = ([source[f"{full}/{split}/{half}_{key}"] for half in ("train", "test")] for key in ("X", "y"))
        rows = [np.arange(len(y[0])), np.arange(len(y[0]), len(y[0]) + len(y[1]))]
    elif full in _DRAWN:
        with np.load(_file("suite.npz", path)) as source:
            table, labels = source[f"{full}_X"], source[f"{full}_y"]
        rows = list(split_rows(len(labels), test_share, split))
        X, y = [table[r] for r in rows], [labels[r] for r in rows]
    else:
        raise ValueError(f"name: expected one of {', '.join(ordinal_names())}, got {name!r}")
    seen = X[0].astype(np.float64)
    train, test = (part(X[i], y[i], rows[i], seen.mean(0), seen.std(0)) for i in range(2))
    return train, test


def ordinal_names() -> list[str]:
    """The names that ``ordinal`` takes, sorted."""
    return sorted((*_PUBLISHED, *_DRAWN, *_ALIASES))


def _file(name: str, path: str | Path | None) -> Path:
    return find("ordinal", "ordinal_tabular", [name], path, f"pass the folder that holds {name} as path=") / name
