"""Noising of diffusion."""

from typing import Any

from torch import Tensor

from .._validation import tensors as checks
from ..reference import q_sample as reference
from ._diffusion import grad_dots, level_per_row, weighted_dots
from ._register import DifferentiableOp, empty_if

__all__ = ["q_sample"]


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: float | Tensor) -> Tensor:
    r"""Noise x0 to the level alpha_bar.

    .. math:: x_t = \sqrt{\bar\alpha}\, x_0 + \sqrt{1 - \bar\alpha}\, \epsilon

    Args:
        x0: ``[B, D]``, or like noise.
        noise: ``[B, D]``, or ``[B, K, D]`` for K noised copies of every row.
        alpha_bar: in (0, 1], a number or a tensor that broadcasts right-aligned to the rows: ``[B]`` against ``[B, D]``;
            ``[K]``, ``[B, 1]`` or ``[B, K]`` against ``[B, K, D]``. Its roots are computed in fp64.

    Returns:
        x_t like noise.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; alpha_bar in any of
        them. Values of tensors on a GPU are not checked.

    Source: Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, eq. 4; DiffoR, aligned noising.

    Example:
        >>> import torch
        >>> from ordkernels.ops import q_sample
        >>> q_sample(torch.ones(2, 4), torch.zeros(2, 3, 4), torch.tensor([1.0, 0.25, 0.04]))[0, :, 0]
        tensor([1.0000, 0.5000, 0.2000])
    """
    return sample(x0, noise, "alpha_bar", alpha_bar, time=False)


def sample(x0: Tensor, noise: Tensor, level_name: str, level: Any, *, time: bool) -> Tensor:
    """`q_sample`, or `flow_sample` where the level is a time."""
    if checks.autocast_is_active():
        x0, noise = checks.promoted(x0, noise)
    checks.floating("x0", x0)
    checks.dims("x0", x0, (2, 3), "[B, D]")
    checks.same("noise", noise, "x0", x0)
    checks.dims("noise", noise, (2, 3), "[B, D] or [B, K, D]")
    if noise.shape != x0.shape and (x0.dim() != 2 or (noise.shape[0], noise.shape[-1]) != x0.shape):
        B, D = x0.shape[0], x0.shape[-1]
        raise ValueError(f"noise: expected [B, D] or [B, K, D] with B = {B}, D = {D}, got {list(noise.shape)}")
    t, number = level_per_row(level_name, level, noise, time)
    return _OP(x0, noise, t, number, int(time))


def _fake(noise: Tensor) -> Tensor:
    return noise.new_empty(noise.shape)


def _fake_backward(x0: Tensor, noise: Tensor, grad_mask: int) -> tuple[Tensor, ...]:
    return empty_if(grad_mask & 1, x0), empty_if(grad_mask & 2, noise), grad_dots(grad_mask & 4, noise, 2)


def _finalize_grads(saved: Any, out: Any, consts: Any, grad_mask: int) -> tuple[Any, ...]:
    gx, gn, dots = out
    t, kind = saved[2], consts[1]
    return gx, gn, weighted_dots(reference.sample_slopes(kind, t.double()), dots).to(t.dtype) if grad_mask & 4 else None


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "q_sample",
    tensors=3,
    public=1,
    reference=reference.q_sample,
    reference_backward=reference.q_sample_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:3],
    finalize_grads=_finalize_grads,
)
