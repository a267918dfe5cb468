"""Wasserstein loss of a sample against two quantile vectors in plain torch: the definition of ``wasserstein_quantile_loss``.

With ``s_(l)`` a row's samples in rising order, ``a_l = s_(l) - q_user_l``, ``b_l = s_(l) - q_item_l``:
``loss = 1/L sum_l (lam |a_l| + (1 - lam) |b_l|)``. All its gradients are made of the signs of a and b, one byte per number.
"""

import torch
from torch import Tensor

from ._common import compute_dtype, empty_unless

# One byte: sign of a + 4 * sign of b, each as 0: zero, 1: positive, 2: negative, 3: NaN.
POSITIVE, NEGATIVE, NAN = 1, 2, 3
SAMPLES, Q_USER, Q_ITEM, LAM = 1, 2, 4, 8  # bits of grad_mask


def wasserstein_quantile_loss(
    samples: Tensor, q_user: Tensor, q_item: Tensor, lam: Tensor, grad_mask: int = 15
) -> tuple[Tensor, Tensor, Tensor]:
    """samples, q_user, q_item [B,L]; lam [B] -> loss [B]; signs [B,2,L] uint8 by rank and by place of the sample; slope = dloss/dlam [B].

    With grad_mask 0 no signs: [0,2,L].
    """
    dtype = compute_dtype(samples)
    s, order = torch.sort(samples.to(dtype), dim=-1, stable=True)  # NaN last
    a, b, lam = s - q_user.to(dtype), s - q_item.to(dtype), lam[:, None]
    code_a, code_b = _code(a), _code(b)
    # Not a.abs(): torch gives it the gradient 0 at NaN, which would hide the NaN from an optimiser.
    to_user, to_item = a * _sign(code_a, a), b * _sign(code_b, b)
    loss = _mean(lam * to_user + (1 - lam) * to_item)
    slope = _mean(to_user - to_item).detach()
    if not grad_mask:
        return loss.to(samples.dtype), order.new_empty((0, 2, s.shape[-1]), dtype=torch.uint8), slope
    by_rank = code_a + 4 * code_b
    by_place = torch.zeros_like(by_rank).scatter(-1, order, by_rank)
    return loss.to(samples.dtype), torch.stack((by_rank, by_place), 1), slope


def wasserstein_quantile_loss_backward(signs: Tensor, slope: Tensor, lam: Tensor, g: Tensor, grad_mask: int = 15) -> tuple[Tensor, ...]:
    """Gradients of samples, q_user, q_item [B,L] like g and of lam [B] like slope; an empty tensor for one that is not asked for."""
    L = signs.shape[-1]
    g, dtype = g.to(slope.dtype), g.dtype
    user, item = (lam * g / L)[:, None], ((1 - lam) * g / L)[:, None]
    by_rank, by_place = signs.unbind(1)
    return (
        empty_unless(grad_mask & SAMPLES, (user * _sign(by_place, slope) + item * _sign(by_place // 4, slope)).to(dtype)),
        empty_unless(grad_mask & Q_USER, (-user * _sign(by_rank, slope)).to(dtype)),
        empty_unless(grad_mask & Q_ITEM, (-item * _sign(by_rank // 4, slope)).to(dtype)),
        empty_unless(grad_mask & LAM, g * slope),
    )


def _mean(x: Tensor) -> Tensor:
    """[B,L] -> [B]: also where the sum overflows and the mean does not."""
    mean = x.mean(-1)
    return torch.where(mean.isfinite(), mean, (x / x.shape[-1]).sum(-1))


def _code(x: Tensor) -> Tensor:
    return ((x > 0) * POSITIVE + (x < 0) * NEGATIVE + x.isnan() * NAN).to(torch.uint8)


def _sign(code: Tensor, like: Tensor) -> Tensor:
    code = code & 3
    return torch.where(code == NAN, torch.nan, (code == POSITIVE).to(like.dtype) - (code == NEGATIVE).to(like.dtype))
