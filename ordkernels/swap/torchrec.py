"""TorchRec's XAUC: its two sums over all pairs of rows of a batch, in O(n log n) and without an n x n matrix.

Sums are exact in fp64; the original's carry the rounding of the weights' dtype in each product. It serves weights that are negative,
infinite or need gradients, and missing values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..scores.xauc import xauc
from ._rules import Fallback, function

_VERIFIED_ROWS = 1024
_DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64)


def _first_rows(*tensors: Tensor, **named: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(t[:, :_VERIFIED_ROWS] for t in tensors), {k: t[:, :_VERIFIED_ROWS] for k, t in named.items()}


def _unless(*names: str) -> Any:
    def reason(original: Any) -> str | None:
        found = set(getattr(getattr(original, "__code__", None), "co_names", ()))
        return None if set(names) <= found else "a function of another structure than TorchRec's"

    return reason


_PAIRS = "meshgrid", "triu", "sum", "cat"


@function(
    "torchrec.metrics.xauc.compute_error_sum",
    op="xauc",
    smaller=_first_rows,
    unless=_unless(*_PAIRS, "logical_or", "logical_and", "double"),
)
def compute_error_sum(original: Any, labels: Tensor, predictions: Tensor, weights: Tensor) -> Any:
    if not (labels.shape == predictions.shape == weights.shape) or bool(labels.isnan().any()) or bool(predictions.isnan().any()):
        return Fallback("shapes that differ, or missing values")
    reason = _unsuitable(weights)
    if reason is not None:
        return Fallback(reason)
    sums = []
    for y, p, w in zip(labels.detach(), predictions.detach().double(), weights.detach(), strict=True):
        found = xauc(y, p, ties="torchrec", weight=None if bool((w == 1).all()) else w.double())
        sums.append(found.concordant + found.tied_prediction)  # with these ties: tied in both
    return torch.tensor(sums, dtype=torch.float64, device=weights.device)


@function("torchrec.metrics.xauc.compute_weighted_num_pairs", op="xauc", smaller=_first_rows, unless=_unless(*_PAIRS))
def compute_weighted_num_pairs(original: Any, weights: Tensor) -> Any:
    reason = _unsuitable(weights)
    if reason is not None:
        return Fallback(reason)
    wide = weights.double() if weights.is_floating_point() else weights.long()
    total = (wide[:, 1:] * wide.cumsum(1)[:, :-1]).sum(1)
    return total.to(weights.dtype if weights.is_floating_point() else torch.int64)


def _unsuitable(weights: Tensor) -> str | None:
    if weights.dim() != 2 or not weights.numel() or weights.dtype not in _DTYPES:
        return "no rows, or weights of another dtype or shape"
    if weights.requires_grad and torch.is_grad_enabled():
        return "gradients of the weights"
    return None if bool(((weights >= 0) & (weights < torch.inf)).all()) else "weights that are negative, infinite or missing"
