"""wasserstein_quantile_loss in CUDA C++: up to 64 samples a row."""

import torch
from torch import Tensor

from .crps import sort_reasons


def unavailable_reasons(samples: Tensor, *_: object) -> list[str]:
    return sort_reasons(samples)


def wasserstein_quantile_loss(
    samples: Tensor, q_user: Tensor, q_item: Tensor, lam: Tensor, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.ordkernels_cuda.wasserstein_quantile_loss(samples, q_user, q_item, lam, grad_mask)
    return out


def wasserstein_quantile_loss_backward(
    signs: Tensor, slope: Tensor, lam: Tensor, g: Tensor, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.ordkernels_cuda.wasserstein_quantile_loss_backward(
        signs, slope, lam, g, grad_mask
    )
    return out
