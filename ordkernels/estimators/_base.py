"""What the estimators share: fitting on a person's table, point and distribution predictions."""

from __future__ import annotations

import os
import warnings
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
from ..models import _processes
from ..scaling.predictor import Predictor
from . import _saving
from ._columns import Column, Table, row_count, split_target, target_column
from ._distribution import PredictedDistribution
from ._features import Features, Roles
from ._past import Sessions
from ._report import scoring_report, training_report

__all__ = ["GenerativeRegressor", "TableRegressor"]

Floats = NDArray[np.float64]

_BLOCK = 256  # rows: few, so that one row is predicted soon


class TableRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor of a number of at least 0 on a table: a model of `ordkernels.models` behind scikit-learn's interface.

    Columns of X without a role are features: numbers (standardised; as log1p where they are long-tailed; from 4,000 rows on in quantile
    bins too, :class:`ordkernels.data.PiecewiseLinearEncoder`), booleans, text and categories (the 32 most frequent one by one), times
    (with hour and weekday). A missing value counts as the mean, or as unknown, with a flag where training had some. The same
    ``random_state`` and rows give the same model.

    Args:
        user: the column of users, which get an embedding each; new ones count as unknown.
        item: the column of items, likewise.
        time: the column of times, or of numbers in their order; the validation part is then the latest rows. Numbers count in seconds.
        row_id: a column of whole numbers: a row's draws belong to its id, not to its place.
        capacity: the column of what the target cannot exceed, as a video's length (used by DiffoR, GR and D2Q).
        history: quantiles of each user's and item's targets at strictly earlier times as features. Those of training are kept with the
            model, and rows to score go on from them; needs ``time``, and ``user`` or ``item``.
        epochs: at most.
        batch_size: rows of a step; None: a 40th of the training rows, from 64 to 256.
        learning_rate: of Adam, at the start of its cosine.
        validation_fraction: of the rows, to stop early by; 0: no validation, all epochs.
        patience: epochs without a better validation score (CRPS, or the absolute error of models without draws) after which training
            stops; the best epoch's weights are kept. None: never.
        options: further arguments of the model, by name.
        random_state: of the weights, the shuffling and the validation part.
        verbose: a progress bar, and what became of the columns, in `fit` and when scoring.

    Attributes:
        model_: the trained model of `ordkernels.models`.
        features_: what is known of the table.
        history_: the losses of each epoch, with ``valid``, the validation score.
        report_: sentences about the training table: roles, features, missing values, what was left out.
        n_features_in_: columns of X.
        feature_names_in_: their names, where X had some.
        target_: the target's name, where it had one.
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
        epochs: int = 40,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.1,
        patience: int | None = 8,
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on a table.

        Args:
            X: pandas, polars, Arrow, NumPy ``[N, F]`` or a dict of columns; its columns are features, but for those with a role. Text
                that is ISO dates counts as times. Missing values, and categories and ids that are new later, are handled: ``report_``.
            y: ``[N]``, finite, at least 0; or the name of the column of X that has it. A column of X with y's name is no feature.
            sample_weight: ``[N]``, at least 0: rows are repeated in proportion to it.

        Returns:
            self.

        Raises:
            TypeError, ValueError: what is wrong, with the column and the row, and what was expected.
        """
        table = Table(X)
        target, y = split_target(table, y)
        columns = table.columns()
        N = row_count(columns)
        y = target_column(y, N)
        if N < 2:
            raise ValueError(f"X: expected at least 2 rows to train on, got {N} sample")
        self.features_ = Features(self._roles(), history=self.history, sessions=self._sessions())
        self.features_.check_training(columns, N)
        rows = self._training_rows(columns, N)
        train = self.features_.fit({name: c.rows(rows[0]) for name, c in columns.items()}, y[rows[0]])
        train = self._weighted(train, sample_weight, rows[0], N)
        valid = self._validation(columns, y, rows[1])
        self.report_ = training_report(self.features_, columns, rows, target)
        if self.verbose and not _processes.rank():
            print("\n".join(self.report_))
        torch_state = torch.random.get_rng_state()
        try:
            torch.manual_seed(self.random_state)
            self.model_ = self._make()
        finally:
            torch.random.set_rng_state(torch_state)
        self._name_columns(table, target)
        self.history_ = models.fit(
            self.model_, train, epochs=self.epochs, batch_size=self._batch_size(len(train["y"])), lr=self.learning_rate,
            seed=self.random_state, progress=self.verbose, valid=valid, patience=self.patience if valid is not None else None,
        )  # fmt: skip
        return self

    def predict(self, X: Any) -> Floats:
        """Point predictions ``[N]``, in the target's unit.

        Args:
            X: a table with the columns that training had, of the same types; others are not read.

        Raises:
            TypeError, ValueError: a column that is not there or of another type, with its name and what was expected.
        """
        return self._by_blocks(X, lambda batch, _: self.model_.predict(batch))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of `predict`; X and y as of `fit`."""
        table = Table(X)
        _, y = split_target(table, y)
        found: float = super().score(table.series, target_column(y, table.rows()), sample_weight)
        return found

    def table_report(self, X: Any) -> list[str]:
        """What of a table to score the estimator does not know: missing values, new ids and categories, columns that are not read."""
        check_is_fitted(self, "model_")
        table = self._aligned(Table(X))
        return scoring_report(self.features_, table.columns(self.features_.needed()), table.names)

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

    def _roles(self) -> Roles:
        roles = Roles(self.user, self.item, self.time, self.row_id, self.capacity)
        for role in self._needs:
            if vars(roles)[role] is None:
                raise ValueError(f"{role}: expected the name of a column, which {type(self).__name__} cannot do without, got None")
        return roles

    def _name_columns(self, table: Table, target: str | None) -> None:
        self.n_features_in_ = len(table.names)
        for name, value in (("feature_names_in_", np.array(table.names, dtype=object) if table.has_names else None), ("target_", target)):
            if value is not None:
                setattr(self, name, value)
            elif hasattr(self, name):
                delattr(self, name)  # of an earlier fit

    def _aligned(self, table: Table) -> Table:
        """With the names of training, where one of both has none: then the places count. An array's names are "0", "1", ..."""
        named = hasattr(self, "feature_names_in_")
        if table.has_names and (named or set(self.features_.needed()) <= set(table.names)):
            return table
        if len(table.names) != self.n_features_in_:
            cls = type(self).__name__
            raise ValueError(f"X has {len(table.names)} features, but {cls} is expecting {self.n_features_in_} features as input")
        if table.has_names != named:
            given, fitted = ("does not have valid", "with") if named else ("has", "without")
            warnings.warn(
                f"X {given} feature names, but {type(self).__name__} was fitted {fitted} feature names; columns are taken in their order",
                UserWarning,
                stacklevel=4,
            )
            table.series = dict(zip(self.features_.kinds, table.series.values(), strict=True))
        return table

    def rows_to_score(self, X: Any) -> tuple[Callable[[Tensor], dict[str, Tensor]], int, Tensor]:
        """For `ordkernels.Predictor`: what makes a batch of some rows of X, the number of rows, and their ids."""
        check_is_fitted(self, "model_")
        table = self._aligned(Table(X))
        columns, N = table.columns(self.features_.needed()), table.rows()
        self.features_.prepare(columns)
        if self.verbose:
            print("\n".join(scoring_report(self.features_, columns, table.names)))

        def batch_of(chosen: Tensor) -> dict[str, Tensor]:
            found = self.features_.batch({name: c.rows(chosen.numpy()) for name, c in columns.items()}, len(chosen))
            return {name: t.clone() for name, t in found.items()}  # torch's own memory: its alignment decides on rounding too

        return batch_of, N, self.features_.row_ids(columns, N)

    def _by_blocks(self, X: Any, score: Callable[[dict[str, Tensor], Tensor], Tensor], n: int = 1) -> Floats:
        """What ``score(batch, row ids)``, -> ``[B, ...]`` of n draws a row, makes of blocks of one size."""
        batch_of, N, ids = self.rows_to_score(X)
        with Predictor(self, _BLOCK, threads=min(torch.get_num_threads(), 1 + N // _BLOCK)) as predictor:
            found: Floats = predictor.in_blocks(batch_of, N, ids, n, score).double().numpy()
        return found

    def _training_rows(self, columns: dict[str, Column], N: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers of the training and the validation part: the latest rows where there is a time, else random ones."""
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: expected a share in [0, 1), got {self.validation_fraction!r}")
        held = int(N * self.validation_fraction)
        if self.time is not None:
            order = np.argsort(columns[self.time].values, kind="stable")
        else:
            order = np.random.default_rng(self.random_state).permutation(N)
        return np.sort(order[: N - held]), np.sort(order[N - held :])

    def _batch_size(self, rows: int) -> int:
        """Of one epoch, at least 40 steps where the table is small."""
        return min(max(64, min(rows // 40, 256)) if self.batch_size is None else integer("batch_size", self.batch_size, least=1), rows)

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
        bad = ~(np.isfinite(w) & (w >= 0))
        if bad.any():
            raise ValueError(f"sample_weight: expected finite numbers of at least 0, got {w[bad][0]:g} at row {bad.argmax()}")
        total = w[rows].sum()
        if not total:
            raise ValueError("sample_weight: expected a positive weight in the training part, got the weight zero in all of its rows")
        # as many rows as before, each the whole part of its share in it times, or once more: equal weights leave all as they are
        start = np.random.default_rng(self.random_state).random()
        places = np.searchsorted(np.cumsum(w[rows]) / total, (np.arange(len(rows)) + start) / len(rows), side="right")
        repeated = torch.from_numpy(np.minimum(places, np.flatnonzero(w[rows])[-1]))
        return {name: t[repeated] for name, t in train.items()}

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
        """The median or mean of n draws, ``[N]``, in the target's unit.

        Args:
            X: a table, as of training.
            n: draws of each row.
            seed: of the draws.
            statistic: ``"median"``, which the absolute error is least for, or ``"mean"`` (the squared error).
        """
        n = integer("n", n, least=1)
        return self._by_blocks(X, lambda batch, ids: self.model_.predict(batch, n, seed, ids, statistic), n)

    def predict_quantiles(self, X: Any, alpha: float | ArrayLike = (0.1, 0.5, 0.9), *, n: int = 128, seed: int = 0) -> Floats:
        """Quantiles ``[N, len(alpha)]`` of n draws, ``[N]`` of one level.

        Args:
            X: a table, as of training.
            alpha: levels strictly between 0 and 1.
            n: draws of each row.
            seed: of the draws.

        Raises:
            ValueError: other levels; and as `predict`.

        Example:
            >>> from ordkernels.estimators import FlowTimeRegressor
            >>> table = {"age": range(50), "city": ["Oslo", "Rome"] * 25, "spent": range(50)}
            >>> FlowTimeRegressor(epochs=1).fit(table, "spent").predict_quantiles(table, [0.1, 0.9]).shape
            (50, 2)
        """
        return self._statistic(X, n, seed, lambda d: d.ppf(alpha))

    def predict_interval(self, X: Any, coverage: float = 0.8, *, n: int = 128, seed: int = 0) -> Floats:
        """Lower and upper end, ``[N, 2]``, of the central interval of that coverage.

        Args:
            X: a table, as of training.
            coverage: the share of outcomes that it is to hold, strictly between 0 and 1.
            n: draws of each row.
            seed: of the draws.
        """
        return self._statistic(X, n, seed, lambda d: d.interval(coverage))

    def predict_proba(self, X: Any, *, n: int = 128, seed: int = 0) -> PredictedDistribution:
        """The predictive distributions: ``.ppf(alpha)``, ``.cdf(y)``, ``.mean()``, ``.var()``, ``.interval(coverage)``, ``.sample(n)``.

        Args:
            X: a table, as of training.
            n: draws of each row, which depend on the row, its id and the seed alone.
            seed: of the draws.
        """
        return PredictedDistribution(self._statistic(X, n, seed, lambda d: d.draws))

    def _statistic(self, X: Any, n: int, seed: int, of: Callable[[PredictedDistribution], Floats]) -> Floats:
        n = integer("n", n, least=1)

        def score(batch: dict[str, Tensor], ids: Tensor) -> Tensor:
            draws = self.model_.sample(batch, n, seed, ids).double().cpu().numpy()
            return torch.from_numpy(of(PredictedDistribution(draws)))

        return self._by_blocks(X, score, n)
