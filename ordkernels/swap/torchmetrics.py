"""torchmetrics' Kendall correlation, which compares all pairs of rows, from counts in O(n log n).

``swap_in("torchmetrics")`` serves ``kendall_rank_corrcoef`` and every ``KendallRankCorrCoef``, `swap_in(metric)` that object. The
formulas after the counts are the original's, in its dtypes. From 77,937 rows on its int64 product of two counts of pairs overflows
(tau-b becomes NaN or wrong); ours does not. The original serves p-values (``t_test``) and missing values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..scores.xauc import pair_counts
from ._rules import Fallback, function, rule

_VERIFIED_ROWS = 2048  # the original's time grows with the square
_TEST = Fallback("the p-value of a test")


def _first_rows(preds: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (preds[:_VERIFIED_ROWS], target[:_VERIFIED_ROWS], *args), kwargs


@function("torchmetrics.functional.regression.kendall._kendall_corrcoef_compute", op="kendall_tau", smaller=_first_rows)
def _kendall_corrcoef_compute(original: Any, preds: Tensor, target: Tensor, variant: Any, alternative: Any = None) -> Any:
    if alternative is not None:
        return _TEST
    tau = _tau(preds, target, str(variant.value))
    return tau if isinstance(tau, Fallback) else (tau, None)


def _rebound(metric: Any) -> Any:
    """Their wrapper (cache, synchronization) around the swapped method, as they make it for the original one."""
    return metric._wrap_compute(type(metric).compute.__get__(metric))


def _smaller_copy(metric: Any, convert: Any) -> Any:
    cls = type(metric).__mro__[1] if "_swap_original" in vars(type(metric)) else type(metric)
    made = cls(variant=metric.variant.value, num_outputs=metric.num_outputs)
    if metric.preds:
        preds, target = _rows(metric)
        made.preds, made.target = [convert(preds[:_VERIFIED_ROWS])], [convert(target[:_VERIFIED_ROWS])]
    return made


@rule("torchmetrics.regression.kendall.KendallRankCorrCoef", op="kendall_tau", copy=_smaller_copy, attributes={"compute": _rebound})
class _KendallRankCorrCoef:
    alternative: Any
    variant: Any
    preds: Any

    def compute(self) -> Any:
        if self.alternative is not None:
            return _TEST
        if not len(self.preds):
            return Fallback("no rows")
        return _tau(*_rows(self), str(self.variant.value))


def _rows(metric: Any) -> tuple[Tensor, Tensor]:
    parts = ([x] if isinstance(x, Tensor) else list(x) for x in (metric.preds, metric.target))
    preds, target = (torch.cat([x if x.dim() else x[None] for x in part]) for part in parts)
    return preds, target


def _tau(preds: Tensor, target: Tensor, variant: str) -> Any:
    """[N, d] each -> [d], or a scalar for one column."""
    n = len(preds)
    if n < 2 or preds.dim() != 2 or not preds.shape[1] or preds.is_complex() or target.is_complex():
        return Fallback("fewer than 2 rows, or no numbers")
    if bool(preds.isnan().any()) or bool(target.isnan().any()):
        return Fallback("missing values")
    pairs = [pair_counts(target[:, i].detach(), preds[:, i].detach()) for i in range(preds.shape[1])]
    different_target = [different for _, _, different, _ in pairs]
    different_preds = [n * (n - 1) // 2 - tied - both for _, tied, _, both in pairs]
    ordered = _column([different - tied for _, tied, different, _ in pairs], preds)
    difference = _column([2 * concordant + tied - different for concordant, tied, different, _ in pairs], preds)
    if variant == "a":
        tau = difference / ordered
    elif variant == "b":
        products = [a * b for a, b in zip(different_preds, different_target, strict=True)]
        if max(products) < 2**63:
            tau = difference / torch.sqrt(_column(products, preds))
        else:
            tau = (difference / torch.tensor(products, dtype=torch.float64, device=preds.device).sqrt()).to(torch.get_default_dtype())
    else:
        classes = torch.minimum(*(_column([len(column.unique()) for column in x.T], x).to(x.dtype) for x in (preds, target)))
        tau = 2 * difference / ((classes - 1) / classes * torch.tensor(n, device=preds.device) ** 2)
    return (tau.squeeze() if len(tau) == 1 else tau).clamp(-1, 1)


def _column(values: list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)
