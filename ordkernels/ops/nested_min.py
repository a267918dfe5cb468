"""Increments as a value that respects their order and a capacity."""

from torch import Tensor

from .._validation import tensors as checks
from ..reference import nested_min as reference
from ._increments import check_widths, fold_widths
from ._register import DifferentiableOp, empty_if

__all__ = ["nested_min"]


def nested_min(increments: Tensor, widths: Tensor, capacity: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Add increments up in order until the capacity is reached.

    .. math:: a_k = \mathrm{clip}(v_k, 0, w_k), \quad \bar v_k = \min\Big(a_k,\ C - \sum_{j<k} \bar v_j\Big), \quad
              \hat y = \sum_k \bar v_k \le C

    The gradient passes the clip inside and at its ties, as torch.clamp does. From the first k where the sum reaches C (a tie
    is reached) the cap holds: :math:`\bar v_k` has derivative 1 in C and -1 in every earlier :math:`a_j`; later ones have none.

    Args:
        increments: ``[B, K]``.
        widths: ``[K]`` for all rows or ``[B, K]``, not negative, in the units of the increments.
        capacity: largest value of a row: a number, ``[B]``, or None for no cap; not negative (unchecked in tensors on a GPU).

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
    if checks.autocast_is_active():
        increments, widths, capacity = checks.promoted(increments, widths, capacity)
    checks.floating("increments", increments)
    checks.dims("increments", increments, (2,), "[B, K]")
    check_widths(widths, "increments", increments, increments.shape[1])
    if isinstance(capacity, Tensor):
        checks.same("capacity", capacity, "increments", increments)
    return _OP(increments, widths, *checks.capacity(capacity, increments))


def _fake(increments: Tensor) -> tuple[Tensor, Tensor]:
    return increments.new_empty(increments.shape[:1]), increments.new_empty(increments.shape)


def _fake_backward(increments: Tensor, widths: Tensor, capacity: Tensor | None, grad_mask: int) -> tuple[Tensor, Tensor, Tensor]:
    gc = increments.new_empty(0 if capacity is None else capacity.shape)
    return increments.new_empty(increments.shape), empty_if(grad_mask & 2, widths), gc


_OP: DifferentiableOp[tuple[Tensor, Tensor]] = DifferentiableOp(
    "nested_min",
    tensors=3,
    public=2,
    reference=reference.nested_min,
    reference_backward=reference.nested_min_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:3],
    vmap=fold_widths,
    cuda=True,
)
