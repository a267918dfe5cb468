"""The demo's models, one entry each. To add a model, append an entry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import n_ids
from ..models import (
    CREAD,
    D2Q,
    EGMN,
    TPM,
    WLR,
    DiffoR,
    FlowTime,
    GenerativeRegression,
    HistoricalMedian,
    IFusion,
    PooledFusion,
    QuantileRegression,
    TableClassifier,
    TableRegression,
    ValueRegression,
    fit,
)
from .evaluation import Split
from .tasks import Task

__all__ = ["WATCH_TIMES", "Budget", "Entry", "entries", "fitted", "tables"]


class Budget(NamedTuple):
    """How long a model is trained; part of the key of a saved result."""

    epochs: int = 1
    batch_size: int = 1024
    every: int = 1  # every n-th training row
    lr: float = 2e-3


_ONCE = Budget()
_LIKELIHOOD = GenerativeRegression.likelihood()


@dataclass(frozen=True)
class Entry:
    """One line of the comparison.

    ``train(task, budget)`` returns the trained model. With ``draws=True`` it has ``sample(x, n, seed, row_ids) -> [B, n]``, and its
    prediction is ``point(model, x) -> [B]``, or the draws' median; otherwise it has ``predict(x) -> [B]``. A model that draws and
    has ``loss(batch)`` is timed too.
    """

    key: str  # on the command line and in file names
    name: str  # in tables and plots
    train: Callable[[Task, Budget], Any]
    full: Budget = _ONCE
    quick: Budget = _ONCE
    draws: bool = False
    point: Callable[[Any, Split], Tensor] | None = None  # the prediction of a model that draws, if not their median
    clicks: Callable[[Any, Split], Tensor] | None = None  # the probability of a click, for the table of clicks
    needs: str | None = None  # an optional package; without it the entry is skipped, with the reason


def entries(task: Task) -> list[Entry]:
    """The models that suit the task."""
    if task.grouped:
        return WATCH_TIMES
    if task.discrete:
        return tables(Budget(40, 256, lr=3e-3), Budget(8, 256, lr=3e-3), classes=True)
    return tables(Budget(8, 512), Budget(2, 512), classes=False)


def fitted(make: Callable[[Task], Any], **how: Any) -> Callable[[Task, Budget], Any]:
    """A ``train`` that fits ``make(task)`` with ``models.fit``."""

    def train(task: Task, budget: Budget) -> Any:
        model = make(task)
        fit(model, task.train, epochs=budget.epochs, batch_size=budget.batch_size, lr=budget.lr, seed=task.seed,
            progress=sys.stderr.isatty(), **how)  # fmt: skip
        return model

    return train


def _median(model: GenerativeRegression, x: Split) -> Tensor:
    """GR's median weighs draws by their first tokens' probabilities: less noise than that of the draws themselves."""
    return model.predict(x, row_ids=x["row"])


def _fusion(make: Callable[..., Any], **options: Any) -> Callable[[Task, Budget], Any]:
    """iFusion or a pooling: of the sessions' items too, and of 20 items of the history rather than 50, for time."""
    return fitted(lambda task: make(*n_ids(task.train, task.test), task.sizes[2], long=20, **options), weight_decay=0.01)


def _clicks(model: Any, x: Split) -> Tensor:
    return model.predict_click(x, row_ids=x["row"])


class _Constant:
    """Predicts the median of the training targets for every row."""

    def __init__(self, task: Task, _: Budget) -> None:
        self.value = float(task.train["y"].quantile(0.5))

    def predict(self, x: Split) -> Tensor:
        return torch.full((len(x["dense"]),), self.value)


class _Boosting:
    """scikit-learn's histogram boosting with absolute error, on the features and any history quantiles."""

    def __init__(self, task: Task, budget: Budget) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        # log1p keeps medians and order; the trees' steps are then in proportion to the target
        self.model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=budget.epochs, random_state=task.seed)
        self.numbers = task.numbers
        self.model.fit(self._table(task.train), np.log1p(task.train["y"].numpy()))

    def _table(self, x: Split) -> np.ndarray:
        parts = [x["dense"][:, : self.numbers]]  # trees split where they like
        if "q_user" in x:
            parts += [x["q_user"], x["q_item"], x["has_user"][:, None], x["has_item"][:, None]]
        return torch.cat(parts, dim=1).numpy()

    def predict(self, x: Split) -> Tensor:
        return torch.from_numpy(np.expm1(self.model.predict(self._table(x)))).float().clamp_min(0)


_FUSION = (Budget(1, 256, 2), Budget(1, 128, 16))  # one epoch, as its paper: full, quick

# KuaiRand: all of it in under 15 minutes on two cores, quick in under 4, whichever models join.
WATCH_TIMES = [
    Entry("flowtime", "FlowTime", fitted(lambda task: FlowTime(*task.sizes)), Budget(4), Budget(1, 512, 2), draws=True),
    Entry(
        "diffor", "DiffoR, last step", fitted(lambda task: DiffoR(*task.sizes, **DiffoR.last_step())),
        Budget(4), Budget(2, 512, 2), draws=True,
    ),
    Entry("gr", "GR, likelihood", fitted(lambda task: GenerativeRegression(*task.sizes, **_LIKELIHOOD)),
          Budget(4), Budget(2, 512, 4), draws=True, point=_median),
    Entry("ifusion", "iFusion", _fusion(IFusion, **IFusion.chain_loss()), *_FUSION, draws=True, clicks=_clicks),
    Entry("average", "average pooling", _fusion(PooledFusion, pooling="average"), *_FUSION, draws=True, clicks=_clicks),
    Entry("attention", "attention pooling", _fusion(PooledFusion, pooling="attention"), *_FUSION, draws=True, clicks=_clicks),
    Entry("quantiles", "quantile network", fitted(lambda task: QuantileRegression(*task.sizes)), Budget(4), Budget(2, 512, 2), draws=True),
    Entry("regression", "value regression", fitted(lambda task: ValueRegression(*task.sizes)), Budget(4), Budget(2, 512, 2)),
    *(Entry(key, name, fitted(lambda task, model=model: model(*task.sizes)), Budget(2, 512), Budget(1, 256, 4)) for key, name, model in (
        ("wlr", "WLR, weighted logistic", WLR), ("d2q", "D2Q, quantile by duration", D2Q), ("egmn", "EGMN, mixture mean", EGMN),
        ("tpm", "TPM, tree expectation", TPM), ("cread", "CREAD, restored", CREAD),
    )),
    Entry("median", "user's historical median", lambda task, _: HistoricalMedian("user")),
    Entry("boosting", "gradient boosting, |error|", _Boosting, Budget(300), Budget(100), needs="sklearn"),
]  # fmt: skip


def tables(full: Budget, quick: Budget, classes: bool) -> list[Entry]:
    """The models for a plain table; ``classes``: its labels are a few classes."""

    def network(key: str, name: str, make: Callable[[Task], Any], draws: bool = False) -> Entry:
        return Entry(key, name, fitted(make), full, quick, draws)

    likeliest = network("classes", "cross-entropy, likeliest", lambda task: TableClassifier(task.sizes[2], task.train["y"]))
    gr = Entry("gr", "GR, likelihood", fitted(lambda task: GenerativeRegression(*task.sizes, unit=0.01, **_LIKELIHOOD)),
               Budget(8, 256), Budget(2, 256), draws=True, point=_median)  # fmt: skip
    return [
        network("diffor", "DiffoR, MLP denoiser", lambda task: DiffoR(*task.sizes, discrete=task.discrete), draws=True),
        *([] if classes else [gr]),
        network("regression", "value regression", lambda task: TableRegression(task.sizes[2])),
        network("absolute", "absolute-error regression", lambda task: TableRegression(task.sizes[2], objective="absolute")),
        *([likeliest] if classes else []),
        Entry("median", "median of the training rows", _Constant),
        Entry("boosting", "gradient boosting, |error|", _Boosting, Budget(100), Budget(100), needs="sklearn"),
    ]
