"""What the estimators share: fitting on a person's table, point and distribution predictions."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from .. import models
from .._validation.numbers import integer
from . import _saving
from ._columns import Column, row_count, table_columns, target_column
from ._distribution import PredictedDistribution
from ._features import Features, Roles
from ._past import Sessions

__all__ = ["GenerativeRegressor", "TableRegressor"]

Floats = NDArray[np.float64]

_BLOCK_ROWS, _BLOCK_DRAWS = 2**14, 2**18  # the most that are scored at a time


class TableRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor of a number of at least 0 on a table: a model of `ordkernels.models` behind scikit-learn's interface.

    Fitted attributes: ``model_``, ``features_``, ``history_`` (a dict an epoch, with ``valid`` where there is a validation part),
    ``n_features_in_`` and ``feature_names_in_`` (the columns of X).
    """

    _model: ClassVar[str]
    model_: Any
    _needs: ClassVar[tuple[str, ...]] = ()  # roles that the model cannot do without

    def __init__(
        self,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        row_id: str | None = None,
        capacity: str | None = None,
        history: bool = False,
        epochs: int = 20,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.1,
        patience: int | None = 3,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        verbose: bool = False,
    ) -> None:
        self.user, self.item, self.time, self.row_id, self.capacity = user, item, time, row_id, capacity
        self.history = history
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.validation_fraction, self.patience = validation_fraction, patience
        self.options = options
        self.random_state, self.verbose = random_state, verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TableRegressor:
        """Train on a table.

        Args:
            X: pandas, polars, Arrow, NumPy ``[N, F]`` or a dict of columns; its columns are features, but for those with a role.
            y: ``[N]``, finite, at least 0.
            sample_weight: ``[N]``, at least 0: rows are drawn for training in proportion to it.

        Returns:
            self.

        Raises:
            TypeError, ValueError: what is wrong, with the column and the row, and what was expected.
        """
        columns = table_columns(X)
        N = row_count(columns)
        target = target_column(y, N)
        if N < 2:
            raise ValueError(f"X: expected at least 2 rows to train on, got {N} sample")
        roles = Roles(self.user, self.item, self.time, self.row_id, self.capacity)
        for role in self._needs:
            if vars(roles)[role] is None:
                raise ValueError(f"{role}: expected the name of a column, which {type(self).__name__} cannot do without, got None")
        rows = self._training_rows(columns, N)
        self.features_ = Features(roles, history=self.history, sessions=self._sessions())
        train = self.features_.fit({name: c.rows(rows[0]) for name, c in columns.items()}, target[rows[0]])
        train = self._weighted(train, sample_weight, rows[0], N)
        valid = self._validation(columns, target, rows[1])
        torch_state = torch.random.get_rng_state()
        try:
            torch.manual_seed(self.random_state)
            self.model_ = self._make()
        finally:
            torch.random.set_rng_state(torch_state)
        self.n_features_in_, self.feature_names_in_ = len(columns), np.array(list(columns), dtype=object)
        self.history_ = models.fit(
            self.model_, train, epochs=self.epochs, batch_size=min(self.batch_size, len(train["y"])), lr=self.learning_rate,
            seed=self.random_state, progress=self.verbose, valid=valid, patience=self.patience if valid is not None else None,
        )  # fmt: skip
        return self

    def predict(self, X: Any) -> Floats:
        """Point predictions ``[N]``, in the target's unit."""
        return self._by_blocks(X, lambda batch, _: self.model_.predict(batch))

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator: ``config.json`` (class, parameters, schema of the table, versions, hashes), ``model.safetensors``,
        and ``table.safetensors`` (ids and the events of histories). Nothing is pickled.

        Args:
            directory: made if it is not there. A folder whose writing was cut short is refused by `from_pretrained`.

        Raises:
            ImportError: safetensors is not installed.
            TypeError: options that cannot be written without pickling.
            sklearn.exceptions.NotFittedError: before ``fit``.
        """
        check_is_fitted(self, "model_")
        _saving.save(self, directory)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """The estimator that `save_pretrained` wrote, on the CPU, with the same predictions bit for bit.

        Args:
            directory: a folder. Its estimator must be of this class or one derived from it: ``TableRegressor.from_pretrained`` takes all.

        Raises:
            ImportError: safetensors is not installed.
            ValueError: files that are missing, damaged, changed, of a newer version, of another class or of another program.
        """
        estimator: Self = _saving.load(cls, directory)
        return estimator

    def _make(self) -> nn.Module:
        f = self.features_
        model: nn.Module = getattr(models, self._model)(f.n_users, f.n_items, f.dense_width, quantiles=f.quantiles, **self._flags())
        return model

    def _sessions(self) -> Sessions | None:
        """Of which the model reads what a user did before."""
        return None

    def _flags(self) -> dict[str, Any]:
        return dict(self.options or {})

    def _by_blocks(self, X: Any, score: Callable[[dict[str, Tensor], Tensor], Tensor | Floats], n: int = 1) -> Floats:
        """What ``score(batch, row ids)`` makes of blocks of rows, one after the other: memory that does not grow with their number.

        Args:
            X: the table.
            score: -> ``[B, ...]``.
            n: draws of a row, which a block's rows times stay the same.
        """
        check_is_fitted(self, "model_")
        columns = table_columns(X)
        N = row_count(columns)
        ids = self.features_.row_ids(columns, N)
        size = min(_BLOCK_ROWS, max(1, _BLOCK_DRAWS // n))
        found = []
        for k in range(0, N, size):
            rows = {name: c.rows(slice(k, k + size)) for name, c in columns.items()}
            scored = score(self.features_.batch(rows, min(size, N - k)), ids[k : k + size])
            found.append(scored.double().cpu().numpy() if isinstance(scored, Tensor) else scored)
        return np.concatenate(found)

    def _training_rows(self, columns: dict[str, Column], N: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers of the training and the validation part: the latest rows where there is a time, else random ones."""
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: expected a share in [0, 1), got {self.validation_fraction!r}")
        held = int(N * self.validation_fraction)
        if self.time is not None and self.time in columns:
            order = np.argsort(columns[self.time].values, kind="stable")
        else:
            order = np.random.default_rng(self.random_state).permutation(N)
        return np.sort(order[: N - held]), np.sort(order[N - held :])

    def _validation(self, columns: dict[str, Column], y: Floats, rows: NDArray[np.int64]) -> dict[str, Tensor] | None:
        if not len(rows):
            return None
        batch = self.features_.batch({name: c.rows(rows) for name, c in columns.items()}, len(rows))
        return {**batch, "y": torch.from_numpy(y[rows].astype(np.float32))}

    def _weighted(self, train: dict[str, Tensor], weight: Any, rows: NDArray[np.int64], N: int) -> dict[str, Tensor]:
        if weight is None:
            return train
        w = np.asarray(weight, dtype=np.float64)
        if w.shape != (N,):
            raise ValueError(f"sample_weight: expected shape [N] = [{N}], got {list(w.shape)}")
        if not (np.isfinite(w).all() and (w >= 0).all()):
            raise ValueError("sample_weight: expected finite numbers of at least 0")
        if not w[rows].sum():
            raise ValueError("sample_weight: expected a positive weight in the training part, got none")
        drawn = np.random.default_rng(self.random_state).choice(len(rows), size=len(rows), p=w[rows] / w[rows].sum())
        return {name: t[torch.from_numpy(drawn)] for name, t in train.items()}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.target_tags.positive_only = True
        return tags


class GenerativeRegressor(TableRegressor):
    """A `TableRegressor` that predicts distributions, by draws."""

    def predict(self, X: Any, *, n: int = 32, seed: int = 0, statistic: str = "median") -> Floats:
        """The median or mean of n draws, ``[N]``, in the target's unit."""
        n = integer("n", n, least=1)
        return self._by_blocks(X, lambda batch, ids: self.model_.predict(batch, n, seed, ids, statistic), n)

    def predict_quantiles(self, X: Any, alpha: float | ArrayLike = (0.1, 0.5, 0.9), *, n: int = 128, seed: int = 0) -> Floats:
        """Quantiles ``[N, len(alpha)]`` of n draws, ``[N]`` of one level."""
        return self._statistic(X, n, seed, lambda d: d.ppf(alpha))

    def predict_interval(self, X: Any, coverage: float = 0.8, *, n: int = 128, seed: int = 0) -> Floats:
        """Lower and upper end, ``[N, 2]``, of the central interval of that coverage."""
        return self._statistic(X, n, seed, lambda d: d.interval(coverage))

    def predict_proba(self, X: Any, *, n: int = 128, seed: int = 0) -> PredictedDistribution:
        """The predictive distributions, from n draws a row. A row's draws depend on its row id and the seed."""
        return PredictedDistribution(self._statistic(X, n, seed, lambda d: d.draws))

    def _statistic(self, X: Any, n: int, seed: int, of: Callable[[PredictedDistribution], Floats]) -> Floats:
        n = integer("n", n, least=1)
        return self._by_blocks(
            X, lambda batch, ids: of(PredictedDistribution(self.model_.sample(batch, n, seed, ids).double().cpu().numpy())), n
        )
