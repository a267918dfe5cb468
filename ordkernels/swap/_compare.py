"""Judging a replacement's results against fp64 of the original: an error budget for each output and gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Verdict", "compare", "leaves"]


# For fp64 results the original is its own truth, with errors that nothing tells: 4e-12 of the largest value, as far below a rounding of
# fp32 as above one of fp64.
_WIDE_ULPS = 2e4


@dataclass
class Verdict:
    """Largest error, what is over budget, and what could not be judged."""

    error: float | None = None
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def leaves(tree: Any) -> list[Tensor]:
    """The tensors, arrays and numbers of a result, in order, as tensors."""
    if isinstance(tree, Tensor):
        return [tree]
    if tree is None or isinstance(tree, str):
        return []
    if isinstance(tree, Mapping):
        return [t for value in tree.values() for t in leaves(value)]
    if isinstance(tree, (list, tuple)):
        return [t for value in tree for t in leaves(value)]
    if hasattr(tree, "to_numpy"):  # pandas, polars
        tree = tree.to_numpy()
    array = np.asarray(tree)
    return [torch.from_numpy(np.array(array))] if array.dtype.kind in "biuf" else []


def compare(
    kind: str, got: Sequence[Any], theirs: Sequence[Any], truth: Sequence[Any], nearby: Sequence[Sequence[Any]] = (),
    *, ulps: float = 8.0, slack: float = 1.0, tolerance: float = 0.0
) -> Verdict:  # fmt: skip
    """Each of ours within twice the original's own error, plus eight times what a rounding of all inputs changes, plus ``ulps``
    roundings of its largest value and one of the largest of all.

    Args:
        kind: what they are, for the messages.
        got: ours.
        theirs: the original's, on the same inputs.
        truth: the original's in fp64.
        nearby: the original's in fp64, on inputs that are off by a rounding, several times; none where that may change a result by a jump.
        ulps: roundings of the largest value.
        slack: factor on the whole budget.
        tolerance: an absolute error on top.
    """
    verdict = Verdict()
    if len(got) != len(theirs):
        verdict.failures.append(f"{len(got)} {kind}s, expected {len(theirs)}")
        return verdict
    group = max((t.double().abs().nan_to_num(0, 0, 0).max().item() for t in truth if t is not None and t.numel()), default=0.0)
    for i, (ours, own, true) in enumerate(zip(got, theirs, truth, strict=True)):
        name = kind if len(got) == 1 else f"{kind} {i}"
        if ours is None and own is None:
            continue
        ours = torch.zeros_like(own) if ours is None else ours  # a gradient that is not there is 0
        own = torch.zeros_like(ours) if own is None else own
        true = torch.zeros_like(own, dtype=torch.float64) if true is None else true
        near = [results[i] for results in nearby if results[i] is not None]
        _judge(verdict, name, ours.detach(), own.detach(), true.detach(), near, ulps, slack, tolerance + _eps(ours) * group)
    return verdict


def _eps(t: Tensor) -> float:
    return torch.finfo(t.dtype).eps if t.is_floating_point() else 0.0


def _judge(
    verdict: Verdict, name: str, ours: Tensor, own: Tensor, true: Tensor, near: list[Tensor], ulps: float, slack: float, tolerance: float
) -> None:
    kinds = [(list(t.shape), t.dtype, t.device) for t in (ours, own)]
    if kinds[0] != kinds[1]:
        verdict.failures.append(f"{name}: {kinds[0]}, the original's is {kinds[1]}")
        return
    if ours.numel() == 0:
        return
    if not ours.is_floating_point():
        wrong = int((ours != own).sum())
        if wrong:
            verdict.failures.append(f"{name}: {wrong} of {ours.numel()} values differ")
        return
    a, b, t = (x.double().flatten() for x in (ours, own, true))
    known = t.isfinite()
    lost = int((~known & a.isfinite()).sum())
    if lost:
        verdict.notes.append(f"{name}: {lost} of {len(t)} values are not finite in fp64 of the original; ours are, and are not judged")
    broken = int((known & ~b.isfinite()).sum())
    if broken:
        verdict.notes.append(f"{name}: the original overflows in {broken} of {len(t)} values; ours are judged against its fp64")
    if not known.any():
        return
    size = t[known].abs().max().item()
    error = (a - t)[known].abs().max().item()
    both = known & b.isfinite()
    theirs = (b - t)[both].abs().max().item() if both.any() else 0.0
    drift = max(((n.detach().double().flatten() - t)[known].abs().nan_to_num(0, 0, 0).max().item() for n in near), default=0.0)
    ulps = max(ulps, _WIDE_ULPS) if ours.dtype == torch.float64 else ulps
    budget = slack * (2 * theirs + 8 * drift + ulps * _eps(ours) * size) + tolerance
    verdict.error = max(verdict.error or 0.0, error) if not math.isnan(error) else math.nan
    if not error <= budget:
        verdict.failures.append(f"{name}: error {error:.3g} against fp64, budget {budget:.3g} (the original's own error is {theirs:.3g})")
