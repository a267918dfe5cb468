"""The estimate of x0 in plain torch: the definition of ``predict_x0``."""

from torch import Tensor

from ._common import empty_unless
from ._diffusion import estimate_x0, per_row, step_backward


def predict_x0(x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, a: float, kind: int, clip: float) -> Tensor:
    """x_t, output [B,D] | [B,K,D] -> like x_t."""
    return estimate_x0(x_t, output, per_row(alpha_bar, a, x_t), kind, clip).to(x_t.dtype, copy=True)


def predict_x0_backward(
    x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, clip: float, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x_t, of output, and of c0, c1 per row; empty where not asked for."""
    gx, go, _, dots = step_backward(x_t, output, per_row(alpha_bar, a, x_t), None, None, None, g, kind, clip)
    return empty_unless(grad_mask & 1, gx), empty_unless(grad_mask & 2, go), empty_unless(grad_mask & 4, dots[..., :2].contiguous())
