"""The distance of a sample to a user's and an item's quantiles, a training loss of FlowTime."""

import torch
from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import number, real
from ..reference import wasserstein_quantile_loss as reference
from ..reference._common import compute_dtype
from ._register import DifferentiableOp

__all__ = ["wasserstein_quantile_loss"]


def wasserstein_quantile_loss(samples: Tensor, q_user: Tensor, q_item: Tensor, *, lam: float | Tensor) -> Tensor:
    r"""Per row, the mean distance of the sorted samples to two vectors of quantiles.

    .. math:: \frac{1}{L} \sum_l \left( \lambda |s_{(l)} - q^u_l| + (1 - \lambda) |s_{(l)} - q^v_l| \right)

    with :math:`s_{(1)} \le \dots \le s_{(L)}` the row's samples; equal ones keep their order. The derivative of ``|x|`` at 0 is 0.
    A NaN makes its row's loss NaN; NaN samples sort last, and gradients are NaN where ``s_(l) - q_l`` is.

    Args:
        samples: ``[B, L]``, L at least 1, in any order.
        q_user, q_item: ``[B, L]``, quantiles in rising order, of the samples' unit, dtype and device.
        lam: weight of the user's side: a finite float, or a tensor ``[B]`` or ``[]`` of the samples' dtype, fp32 or fp64.
            Values outside [0, 1] are taken as they come.

    Returns:
        ``[B]`` in the dtype of samples; computed in fp32, or fp64 for fp64 samples.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Gradients: samples, q_user, q_item, and lam if it is a tensor.

    Source: FlowTime, section 4.4 (W-dist).

    Example:
        >>> import torch
        >>> from ordkernels.ops import wasserstein_quantile_loss
        >>> wasserstein_quantile_loss(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]), lam=0.5)
        tensor([0.2500])
    """
    if checks.autocast_is_active():
        samples, q_user, q_item, lam = checks.promoted(samples, q_user, q_item, lam)
    checks.floating("samples", samples)
    checks.dims("samples", samples, (2,), "[B, L]")
    B, L = samples.shape
    if L == 0:
        raise ValueError(f"samples: expected [B, L] with L at least 1, got {list(samples.shape)}")
    for name, q in (("q_user", q_user), ("q_item", q_item)):
        checks.same(name, q, "samples", samples)
        checks.shape(name, q, (B, L), "[B, L]")
    return _OP(samples, q_user, q_item, _weight(lam, samples))


def _weight(lam: float | Tensor, samples: Tensor) -> Tensor:
    """lam [B] in the dtype of the computation."""
    B, dtype = samples.shape[0], compute_dtype(samples)
    if not isinstance(lam, Tensor):
        lam = real("lam", number("lam", lam, "a float or a tensor of shape [B]"))
        return samples.new_full((1,), lam, dtype=dtype).expand(B)
    checks.floating("lam", lam)
    if lam.dtype not in (samples.dtype, torch.float32, torch.float64):
        raise TypeError(f"lam: expected the dtype of samples, {samples.dtype}, float32 or float64, got {lam.dtype}")
    checks.same_device("lam", lam, "samples", samples)
    if lam.dim() == 0:
        lam = lam.expand(B)
    if tuple(lam.shape) != (B,):
        raise ValueError(f"lam: expected a float or a tensor of shape [B] = [{B}], got {list(lam.shape)}")
    return lam.to(dtype)


def _fake(samples: Tensor, grad_mask: int) -> tuple[Tensor, Tensor, Tensor]:
    B, L = samples.shape
    signs = samples.new_empty((B if grad_mask else 0, 2, L), dtype=torch.uint8)
    return samples.new_empty(B), signs, samples.new_empty(B, dtype=compute_dtype(samples))


def _fake_backward(signs: Tensor, slope: Tensor, g: Tensor, grad_mask: int) -> tuple[Tensor, ...]:
    B, _, L = signs.shape
    grads = (g.new_empty((B, L) if grad_mask & bit else (0,)) for bit in (reference.SAMPLES, reference.Q_USER, reference.Q_ITEM))
    return (*grads, slope.new_empty(B if grad_mask & reference.LAM else 0))


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "wasserstein_quantile_loss",
    tensors=4,
    public=1,
    reference=reference.wasserstein_quantile_loss,
    reference_backward=reference.wasserstein_quantile_loss_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: (out[1], out[2], inputs[3]),  # signs, slope, lam
    cuda=True,
)
