"""Planar flows fused with the linear layer that predicts their parameters."""

from torch import Tensor

from .._validation import tensors as checks
from ..reference import conditional_planar_flow as reference
from ..reference._common import compute_dtype
from ._planar_flow import Constrained, constraint_mode
from ._register import DifferentiableOp, loop_batches

__all__ = ["conditional_planar_flow"]


def conditional_planar_flow(
    z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, *, constrained: Constrained = True
) -> tuple[Tensor, Tensor]:
    r""":func:`planar_flow` with parameters ``h @ weight.T + bias``; these ``[B, K, 2D + 1]`` are never materialized.

    Each layer's ``2D + 1`` outputs are u (D), w (D), b (1).

    Args:
        z: ``[B, D]`` or ``[B, N, D]``.
        h: condition ``[B, H]``.
        weight: ``[K (2D + 1), H]``.
        bias: ``[K (2D + 1)]``.
        constrained: as in :func:`planar_flow`.

    Returns:
        z_out like z, log_det ``[B]`` or ``[B, N]``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: FlowTime, section 4.3.2.

    Example:
        >>> import torch
        >>> from ordkernels.ops import conditional_planar_flow
        >>> z, log_det = conditional_planar_flow(torch.randn(8, 5, 16), torch.randn(8, 32), torch.randn(4 * 33, 32), torch.randn(4 * 33))
        >>> z.shape, log_det.shape
        (torch.Size([8, 5, 16]), torch.Size([8, 5]))
    """
    mode = constraint_mode(constrained)
    if checks.autocast_is_active():
        z, h, weight, bias = checks.promoted(z, h, weight, bias)
    checks.floating("z", z)
    checks.dims("z", z, (2, 3), "[B, D] or [B, N, D]")
    for name, t in (("h", h), ("weight", weight), ("bias", bias)):
        checks.same(name, t, "z", z)
    B, D = z.shape[0], z.shape[-1]
    checks.dims("h", h, (2,), "[B, H]")
    checks.shape("h", h, (B, h.shape[1]), "[B, H]")
    checks.dims("weight", weight, (2,), "[K (2D + 1), H]")
    rows = weight.shape[0]
    if rows == 0 or rows % (2 * D + 1):
        raise ValueError(f"weight: expected a positive multiple of 2D + 1 = {2 * D + 1} rows, got shape {list(weight.shape)}")
    checks.shape("weight", weight, (rows, h.shape[1]), "[K (2D + 1), H]")
    checks.shape("bias", bias, (rows,), "[K (2D + 1)]")
    return _OP(z, h, weight, bias, mode)


def _fake(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, K, dtype = z.shape[:-1], weight.shape[0] // (2 * z.shape[-1] + 1), compute_dtype(z)
    return z.new_empty(z.shape), z.new_empty(rows, dtype=dtype), z.new_empty((*rows, K), dtype=dtype)


def _fake_backward(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (z, h, weight, bias))


_OP: DifferentiableOp[tuple[Tensor, Tensor]] = DifferentiableOp(
    "conditional_planar_flow",
    tensors=4,
    public=2,
    reference=reference.conditional_planar_flow,
    reference_backward=reference.conditional_planar_flow_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: (inputs[0], out[2], inputs[1], inputs[2], inputs[3]),  # z, act, h, weight, bias
    vmap=loop_batches,  # the gradient of a shared weight cannot be folded into rows
)
