"""The four published systems as estimators."""

from __future__ import annotations

from typing import Any

from ._base import GenerativeRegressor

__all__ = ["DiffoRRegressor", "FlowTimeRegressor", "GRRegressor", "IFusionRegressor"]


class FlowTimeRegressor(GenerativeRegressor):
    """FlowTime (`ordkernels.models.FlowTime`) on a table: one call draws all samples of a row. Arguments as `TableRegressor`."""

    _model = "FlowTime"


class DiffoRRegressor(GenerativeRegressor):
    """DiffoR (`ordkernels.models.DiffoR`) on a table: a diffusion over ordinal increments. Arguments as `TableRegressor`."""

    _model = "DiffoR"

    def _flags(self) -> dict[str, Any]:
        return {"capacity": self.capacity is not None, **super()._flags()}


class GRRegressor(GenerativeRegressor):
    """GR (`ordkernels.models.GenerativeRegression`) on a table: the number as a sequence of value tokens. Arguments as `TableRegressor`."""

    _model = "GenerativeRegression"

    def _flags(self) -> dict[str, Any]:
        return {"capacity": self.capacity is not None, **super()._flags()}


class IFusionRegressor(GenerativeRegressor):
    """iFusion (`ordkernels.models.IFusion`) on a log of events: sessions fused by a guided chain. Needs user, item and time."""

    _model = "IFusion"
    _needs = ("user", "item", "time")
