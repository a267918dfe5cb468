"""The models as regressors on a person's own table, with scikit-learn's interface. Needs the extra ``ordkernels[estimators]``.

>>> from ordkernels.estimators import FlowTimeRegressor
>>> model = FlowTimeRegressor(user="user", item="video", time="when", history=True)  # doctest: +SKIP
>>> model.fit(table, "seconds").predict_quantiles(new, [0.1, 0.5, 0.9])  # doctest: +SKIP

Tables are pandas, polars, Arrow, NumPy or dicts of columns. `TableRegressor` says what becomes of each column, and lists all arguments;
`FlowTimeRegressor`, `DiffoRRegressor`, `GRRegressor` and `IFusionRegressor` predict distributions, the others a number.
`expected_failed_checks` lists the few of scikit-learn's checks that cannot hold; `ordkernels.adapters.skpro` is skpro's interface.
"""

try:
    import narwhals as _narwhals  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"ordkernels.estimators: expected narwhals and scikit-learn, got {error}. They are an optional extra: "
        "pip install 'ordkernels[estimators]'"
    ) from error

from ._base import GenerativeRegressor, TableRegressor
from ._checks import expected_failed_checks
from ._distribution import PredictedDistribution
from .baselines import CREADRegressor, D2QRegressor, EGMNRegressor, TPMRegressor, ValueRegressor, WLRRegressor
from .generative import DiffoRRegressor, FlowTimeRegressor, GRRegressor, IFusionRegressor

__all__ = [
    "CREADRegressor", "D2QRegressor", "DiffoRRegressor", "EGMNRegressor", "FlowTimeRegressor", "GRRegressor", "GenerativeRegressor",
    "IFusionRegressor", "PredictedDistribution", "TPMRegressor", "TableRegressor", "ValueRegressor", "WLRRegressor",
    "expected_failed_checks",
]  # fmt: skip
