"""The four published systems as estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .._validation.numbers import positive_sizes
from ..models import GenerativeRegression
from ._base import GenerativeRegressor
from ._past import Sessions

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
    """GR (`ordkernels.models.GenerativeRegression`) on a table: the number as a sequence of value tokens. Arguments as `TableRegressor`.

    Trained by ``GenerativeRegression.likelihood()``, for draws; ``options=GenerativeRegression.paper_loss()`` is the paper's training.
    """

    _model = "GenerativeRegression"

    def _flags(self) -> dict[str, Any]:
        return {"capacity": self.capacity is not None, **GenerativeRegression.likelihood(), **super()._flags()}


class IFusionRegressor(GenerativeRegressor):
    """iFusion (`ordkernels.models.IFusion`) on a log of events: sessions fused by a guided chain. Needs user, item and time.

    The table is the log: a row's history and sessions are its user's training events at strictly earlier times, with feedback
    ``log1p(y / mean)``, the click where it is asked for, and log1p of the hours since. The log is kept with the model, and rows to score
    go on from it; a time that is a number counts in seconds.

    Besides the arguments of the model, ``options`` takes

    - ``session_gap``: the longest pause within a session, in seconds (1800);
    - ``session_items``: the last items of a session that are read (5);
    - ``click``: the column of X with 0 and 1 that the click head learns, no feature, and not needed for predictions; without it there is
      no such head.
    """

    _model = "IFusion"
    _needs = ("user", "item", "time")

    def predict_click(self, X: Any, *, n: int = 1, seed: int = 0) -> NDArray[np.float64]:
        """The probability of a click, ``[N]``, from n fused interests a row.

        Raises:
            ValueError: fitted without ``click`` among the options.
        """
        check_is_fitted(self, "model_")
        if self.features_.sessions is None or self.features_.sessions.click is None:
            raise ValueError("options: expected the column 'click' in training, to predict clicks, got none")
        return self._by_blocks(X, lambda batch, ids: self.model_.predict_click(batch, n, seed, ids), n)

    def _sessions(self) -> Sessions:
        o = self.options or {}
        sessions, items, long, gap = (
            o.get(*option) for option in (("sessions", 4), ("session_items", 5), ("long", 50), ("session_gap", 1800))
        )
        positive_sizes(sessions=sessions, session_items=items, long=long)
        if isinstance(gap, bool) or not isinstance(gap, int | float) or not gap > 0:
            raise ValueError(f"session_gap: expected seconds above 0, got {gap!r}")
        return Sessions(sessions + 1, items, long, float(gap), o.get("click"))

    def _flags(self) -> dict[str, Any]:
        own = {name: value for name, value in super()._flags().items() if name not in ("session_gap", "session_items", "click")}
        click = self._sessions().click is not None
        return {"click_weight": float(click), "feedback_width": 2 + click, **own}
