"""A target as K increments, and increments as a value that respects their order and a capacity."""

import math
from typing import Any

from torch import Tensor

from .._validation import tensors as _checks
from ..reference import increments as reference
from ._autograd import DifferentiableOp, Kernel, _front

__all__ = ["encode_increments", "nested_min"]


def encode_increments(y: Tensor, widths: Tensor) -> Tensor:
    r"""Split targets at the edges :math:`c_k = w_1 + \dots + w_k` into increments that sum to them.

    .. math:: v_k = \mathrm{clip}(y - c_{k-1},\ 0,\ w_k), \qquad \sum_k v_k = \mathrm{clip}(y, 0, c_K)

    Args:
        y: targets ``[B]``.
        widths: ``[K]`` for all rows or ``[B, K]``, not negative, in the units of y.

    Returns:
        ``[B, K]`` like y. Where y meets an edge, both sides pass the gradient, as torch.clamp does.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; one dtype and device.

    Source: DiffoR, monotone increment aggregation.

    Example:
        >>> import torch
        >>> from ordkernels.ops import encode_increments
        >>> encode_increments(torch.tensor([2.5]), torch.tensor([1.0, 1.0, 1.0, 1.0]))
        tensor([[1.0000, 1.0000, 0.5000, 0.0000]])
    """
    _checks.floating("y", y)
    _checks.dims("y", y, (1,), "[B]")
    _check_widths(widths, "y", y, y.shape[0], None)
    return _ENCODE(y, widths)


def nested_min(increments: Tensor, widths: Tensor, capacity: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Add increments up in order until the capacity is reached.

    .. math:: a_k = \mathrm{clip}(v_k, 0, w_k), \quad \bar v_k = \min\Big(a_k,\ C - \sum_{j<k} \bar v_j\Big), \quad
              \hat y = \sum_k \bar v_k \le C

    The gradient passes the clip inside and at its ties, as torch.clamp does. From the first k where the sum reaches C (a tie
    is reached) the cap holds: :math:`\bar v_k` has derivative 1 in C and -1 in every earlier :math:`a_j`; later ones have none.

    Args:
        increments: ``[B, K]``.
        widths: ``[K]`` for all rows or ``[B, K]``, not negative, in the units of the increments.
        capacity: largest value of a row: a number, ``[B]``, or None for no cap; not negative (on a GPU tensors are not looked at).

    Returns:
        value ``[B]`` and clipped ``[B, K]``, like increments. A NaN makes its row's value and every later part NaN.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; one dtype and device.

    Source: DiffoR, order-preserving aggregation.

    Example:
        >>> import torch
        >>> from ordkernels.ops import nested_min
        >>> value, clipped = nested_min(torch.tensor([[1.0, 0.5, 2.0]]), torch.ones(3), capacity=2.0)
        >>> value, clipped
        (tensor([2.]), tensor([[1.0000, 0.5000, 0.5000]]))
    """
    _checks.floating("increments", increments)
    _checks.dims("increments", increments, (2,), "[B, K]")
    B, K = increments.shape
    _check_widths(widths, "increments", increments, B, K)
    if capacity is None:
        return _NESTED(increments, widths, None, math.inf)
    if not isinstance(capacity, Tensor):
        if isinstance(capacity, bool) or not isinstance(capacity, int | float):
            raise TypeError(f"capacity: expected a number, a tensor of shape [B] or None, got {type(capacity).__name__}")
        if not capacity >= 0:
            raise ValueError(f"capacity: expected 0 or more, got {capacity}")
        return _NESTED(increments, widths, None, float(capacity))
    _checks.same("capacity", capacity, "increments", increments)
    if capacity.dim() == 0:
        capacity = capacity.expand(B)
    if capacity.shape != (B,):
        raise ValueError(f"capacity: expected a number or a tensor of shape [B] = [{B}], got {list(capacity.shape)}")
    _checks.at_least_zero("capacity", capacity)
    return _NESTED(increments, widths, capacity, math.inf)


def _check_widths(widths: Any, name: str, t: Tensor, B: int, K: int | None) -> None:
    _checks.same("widths", widths, name, t)
    _checks.dims("widths", widths, (1, 2), "[K] or [B, K]")
    if K is None:
        K = widths.shape[-1]
    if widths.dim() == 1:
        _checks.shape("widths", widths, (K,), "[K]")
    else:
        _checks.shape("widths", widths, (B, K), "[B, K]")
    if K == 0:
        raise ValueError(f"widths: expected at least one, got shape {list(widths.shape)}")


def _fake_encode(y: Tensor, widths: Tensor) -> Tensor:
    return y.new_empty((y.shape[0], widths.shape[-1]))


def _fake_encode_backward(y: Tensor, widths: Tensor, g: Tensor | None, wanted: int) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), widths.new_empty(widths.shape)


def _fake_nested(increments: Tensor, widths: Tensor, capacity: Tensor | None, cap: float) -> tuple[Tensor, Tensor]:
    return increments.new_empty(increments.shape[:1]), increments.new_empty(increments.shape)


def _fake_nested_backward(
    increments: Tensor, widths: Tensor, capacity: Tensor | None, g_value: Tensor | None, g_clipped: Tensor | None, cap: float, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    gc = increments.new_empty(0 if capacity is None else capacity.shape)
    return increments.new_empty(increments.shape), widths.new_empty(widths.shape if wanted & 2 else 0), gc


def _vmap(kernel: Kernel) -> Kernel:
    """vmap rule: V batches of B rows are V * B rows, each with its own widths."""

    def rule(info: Any, dims: Any, *args: Any) -> Any:
        V = info.batch_size
        ts = [_front(a, d, V) if isinstance(a, Tensor) else a for a, d in zip(args, dims, strict=True)]
        shared, B = ts[1].dim() == 2, ts[0].shape[1]
        if shared:
            ts[1] = ts[1][:, None].expand(V, B, -1)
        out = kernel(*(t.flatten(0, 1) if isinstance(t, Tensor) else t for t in ts))
        if isinstance(out, Tensor):
            return out.unflatten(0, (V, B)), 0
        # a capacity that is not there has an empty gradient
        parts = [t.unflatten(0, (V, B)) if t.shape[0] == V * B else t.expand(V, -1) for t in out]
        if shared and _is_backward(kernel):
            parts[1] = parts[1].sum(1)
        return tuple(parts), (0,) * len(parts)

    return rule


def _is_backward(kernel: Any) -> bool:
    return kernel._schema.name.endswith("_backward")


_ENCODE = DifferentiableOp(
    "encode_increments",
    tensors=2,
    public=1,
    reference=reference.encode_increments,
    reference_backward=reference.encode_increments_backward,
    fake=_fake_encode,
    fake_backward=_fake_encode_backward,
    saved=lambda inputs, out: inputs[:2],
    vmap=_vmap,
    lazy=True,
    triton="encode_increments",
)
_NESTED = DifferentiableOp(
    "nested_min",
    tensors=3,
    public=2,
    reference=reference.nested_min,
    reference_backward=reference.nested_min_backward,
    fake=_fake_nested,
    fake_backward=_fake_nested_backward,
    saved=lambda inputs, out: inputs[:3],
    vmap=_vmap,
    lazy=True,
    triton="nested_min",
)
