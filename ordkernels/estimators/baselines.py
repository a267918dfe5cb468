"""The field's baselines as estimators."""

from __future__ import annotations

from ._base import TableRegressor

__all__ = ["CREADRegressor", "D2QRegressor", "EGMNRegressor", "TPMRegressor", "ValueRegressor", "WLRRegressor"]


class ValueRegressor(TableRegressor):
    """One number by squared, absolute or Huber error (`ordkernels.models.ValueRegression`). Arguments as `TableRegressor`."""

    _model = "ValueRegression"


class CREADRegressor(TableRegressor):
    """Classifiers at adaptive edges (`ordkernels.models.CREAD`). Arguments as `TableRegressor`."""

    _model = "CREAD"


class TPMRegressor(TableRegressor):
    """A tree of classifiers (`ordkernels.models.TPM`). Arguments as `TableRegressor`."""

    _model = "TPM"


class WLRRegressor(TableRegressor):
    """Weighted logistic regression (`ordkernels.models.WLR`). Arguments as `TableRegressor`."""

    _model = "WLR"


class D2QRegressor(TableRegressor):
    """Ranks among rows of like duration (`ordkernels.models.D2Q`); the column of role ``capacity`` is the duration."""

    _model = "D2Q"
    _needs = ("capacity",)


class EGMNRegressor(TableRegressor):
    """An exponential-Gaussian mixture (`ordkernels.models.EGMN`). Arguments as `TableRegressor`."""

    _model = "EGMN"
