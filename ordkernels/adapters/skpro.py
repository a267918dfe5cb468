"""The estimators as skpro regressors: for its pipelines, tuning and metrics."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from ..estimators import FlowTimeRegressor, GenerativeRegressor

try:
    import pandas as pd
    from skpro.distributions import Empirical
    from skpro.regression.base import BaseProbaRegressor
except ImportError as error:
    raise ImportError(f"ordkernels.adapters.skpro: expected skpro, got {error}: pip install 'ordkernels[skpro]'") from error

__all__ = ["ProbaRegressor"]


class ProbaRegressor(BaseProbaRegressor):
    """An estimator of `ordkernels.estimators` behind skpro's interface; ``predict_proba`` is its draws as a ``skpro`` distribution.

    Args:
        estimator: a `GenerativeRegressor`; None: ``FlowTimeRegressor()``. It is cloned; the fitted one is ``estimator_``.
        n: draws of a row.
        seed: of the draws.

    Raises:
        ImportError: skpro is not installed (the extra ``ordkernels[skpro]``).
        TypeError: at ``fit``, an estimator without draws.
        ValueError: at ``fit``, targets below 0.

    Source: https://skpro.readthedocs.io, ``BaseProbaRegressor``.

    Example:
        >>> import pandas as pd
        >>> from ordkernels.estimators import DiffoRRegressor
        >>> from ordkernels.adapters.skpro import ProbaRegressor
        >>> X, y = pd.DataFrame({"a": range(40)}), pd.DataFrame({"y": range(40)})
        >>> model = ProbaRegressor(DiffoRRegressor(epochs=1), n=16).fit(X, y)
        >>> model.predict_quantiles(X, alpha=[0.1, 0.9]).shape
        (40, 2)
    """

    _tags = {
        "authors": ["ordkernels"],
        "maintainers": ["ordkernels"],
        "python_dependencies": ["torch", "narwhals"],
        "capability:multioutput": False,
        "capability:missing": True,
    }

    def __init__(self, estimator: GenerativeRegressor | None = None, n: int = 128, seed: int = 0) -> None:
        self.estimator = estimator
        self.n = n
        self.seed = seed
        super().__init__()

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, C: Any = None) -> ProbaRegressor:
        estimator = FlowTimeRegressor() if self.estimator is None else self.estimator
        if not isinstance(estimator, GenerativeRegressor):
            raise TypeError(f"estimator: expected a GenerativeRegressor, got {type(estimator).__name__}")
        self._y_columns = y.columns
        self.estimator_ = clone(estimator).fit(X, y.to_numpy()[:, 0])
        return self

    def _predict_proba(self, X: pd.DataFrame) -> Empirical:
        draws = self.estimator_.predict_proba(X, n=self.n, seed=self.seed).draws
        index = pd.MultiIndex.from_product([range(self.n), X.index])
        return Empirical(pd.DataFrame(draws.T.reshape(-1, 1), index=index, columns=self._y_columns), index=X.index, columns=self._y_columns)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Small models, for skpro's ``check_estimator``."""
        options = {"latent": 8, "hidden": 8, "layers": 1}
        return [{"estimator": FlowTimeRegressor(epochs=1, options=options, random_state=seed), "n": 16} for seed in (0, 1)]
