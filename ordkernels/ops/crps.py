"""Losses of a sample and of quantiles against what came: CRPS and pinball. Tensors, NumPy arrays or lists."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._validation import arrays
from .._validation import tensors as _checks
from ..reference import crps as reference
from ._autograd import DifferentiableOp

__all__ = ["crps", "pinball"]


def crps(samples: Any, y: Any, *, fair: bool = False) -> Any:
    """Continuous ranked probability score of a sample: ``mean |s - y| - mean |s - s'| / 2``, O(L log L) per row.

    ``fair=True`` averages the second term over the ``L (L - 1)`` pairs of different draws, which makes the score of a finite
    sample unbiased for the distribution it comes from; else over all ``L^2``. The derivative of ``|x|`` at 0 is 0; of equal
    samples the earlier counts as the smaller.

    Args:
        samples: ``[B, L]``, L at least 1 (2 if fair), in any order; y: ``[B]``. In the unit of y.

    Returns:
        ``[B]``, lower is better: a tensor for tensors (with gradients; fp32 for 16-bit inputs), else a NumPy array.

    Raises:
        TypeError, ValueError: shapes that do not match; NaN (the first row that has one), which in training, in compiled code and
            on a GPU stays in its row instead.

    Gradients: samples, y.

    Source: Gneiting and Raftery, JASA 102 (2007), for the energy form; Ferro, QJRMS 140 (2014), for the fair one.

    Example:
        >>> crps([[0.0, 2.0]], [1.0])
        array([0.5])
    """
    s, t = _row_tensors(samples=samples, y=y)
    least = 2 if fair else 1
    if s.dim() != 2 or s.shape[1] < least:
        raise ValueError(f"samples: expected [B, L] with L at least {least}, got {list(s.shape)}")
    if t.shape != s.shape[:1]:
        raise ValueError(f"y: expected [B] = [{s.shape[0]}], got {list(t.shape)}")
    out = _CRPS(s, t, bool(fair), _needs(s, t))
    _reject_nan(out, samples=s, y=t)
    return _like(samples, out)


def pinball(q: Any, y: Any, levels: Any) -> Any:
    """Quantile loss ``max(level (y - q), (level - 1) (y - q))``.

    Args:
        q: predicted quantiles ``[B, L]``; y: ``[B]``; levels: ``[L]`` in [0, 1].

    Returns:
        ``[B, L]``: a tensor for tensors (with gradients; fp32 for 16-bit inputs), else a NumPy array.

    Raises:
        TypeError, ValueError: shapes that do not match; levels outside [0, 1]; NaN, as for `crps`.

    Gradients: q, y.

    Source: Koenker and Bassett, Econometrica 46 (1978).

    Example:
        >>> pinball([[1.0, 4.0]], [3.0], [0.5, 0.75])
        array([[1.  , 0.25]])
    """
    p, t = _row_tensors(q=q, y=y)
    at = _levels(levels)
    if p.dim() != 2 or p.shape[1] != at.shape[0]:
        raise ValueError(f"q: expected [B, L] with L = {at.shape[0]}, as levels, got {list(p.shape)}")
    if t.shape != p.shape[:1]:
        raise ValueError(f"y: expected [B] = [{p.shape[0]}], got {list(t.shape)}")
    out = _PINBALL(p, t, at.to(p).expand(p.shape))
    _reject_nan(out, q=p, y=t)
    return _like(q, out)


def _levels(levels: Any) -> Tensor:
    if isinstance(levels, Tensor) and not _checks.may_look(levels):
        return levels.detach()
    return torch.from_numpy(arrays.levels("levels", levels))


def _row_tensors(**named: Any) -> list[Tensor]:
    """The two arguments of a row-wise score as tensors of one floating dtype, fp32 or fp64, on one device."""
    tensors = []
    for name, x in named.items():
        try:
            t = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: expected an array of numbers, got {type(x).__name__} ({error})") from None
        if t.is_complex():
            raise TypeError(f"{name}: expected numbers, got {t.dtype}")
        tensors.append(t if t.is_floating_point() else t.double())
    (first, a), (second, b) = zip(named, tensors, strict=True)
    if isinstance(named[first], Tensor) and isinstance(named[second], Tensor) and a.device != b.device:
        raise ValueError(f"{second}: expected the device of {first}, {a.device}, got {b.device}")
    dtype = torch.promote_types(torch.promote_types(a.dtype, torch.float32), b.dtype)
    return [a.to(dtype), b.to(device=a.device, dtype=dtype)]


def _reject_nan(out: Tensor, **named: Tensor) -> None:
    """Where no gradient is wanted. A NaN shows in its row's result, which is the smaller to look through."""
    if not out.numel() or out.requires_grad or any(t.requires_grad for t in named.values()) or not _checks.may_look(out):
        return
    if not torch.isnan(out.min()):  # the minimum of anything with a NaN is NaN
        return
    for name, t in named.items():
        rows = torch.isnan(t).reshape(t.shape[0], -1).any(1)
        if rows.any():
            raise ValueError(
                f"{name}: expected no NaN, got it in {int(rows.sum())} of {len(rows)} rows, the first at index {int(rows.int().argmax())}"
            )


def _like(given: Any, out: Tensor) -> Any:
    return out if isinstance(given, Tensor) else out.numpy()


def _needs(*tensors: Tensor) -> int:
    """Bit mask of the gradients wanted."""
    if torch._C._are_functorch_transforms_active():  # requires_grad speaks of one level only
        return 3
    if not torch.is_grad_enabled():
        return 0
    return sum((1 << i) * bool(t.requires_grad) for i, t in enumerate(tensors))


def _fake(samples: Tensor, y: Tensor, fair: bool, needs: int) -> tuple[Tensor, Tensor]:
    B, L = samples.shape
    return samples.new_empty(B), samples.new_empty((B if needs else 0, L))


def _fake_backward(slopes: Tensor, g: Tensor, fair: bool, needs: int) -> tuple[Tensor, Tensor]:
    B, L = slopes.shape
    return (
        slopes.new_empty((B, L) if needs & reference.SAMPLES else (0,)),
        slopes.new_empty(B if needs & reference.Y else 0),
    )


_CRPS = DifferentiableOp(
    "crps",
    tensors=2,
    public=1,
    reference=reference.crps,
    reference_backward=reference.crps_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: (out[1],),  # slopes
    triton="crps",
)
_PINBALL = DifferentiableOp(
    "pinball",
    tensors=3,
    public=1,
    reference=reference.pinball,
    reference_backward=reference.pinball_backward,
    fake=lambda q, y, levels: torch.empty_like(q, memory_format=torch.contiguous_format),
    fake_backward=lambda q, y, levels, g, wanted: (
        q.new_empty(q.shape if wanted & 1 else 0),
        q.new_empty(q.shape[0] if wanted & 2 else 0),
    ),
    saved=lambda inputs, out: inputs[:3],
    lazy=True,
    triton="pinball",
)
