"""The estimate of x0 on a GPU: the first half of a reverse step, whose kernels compute it."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from . import reverse_step
from .reverse_step import Step, launch_step, launch_step_backward


def _step(alpha_bar: Tensor | None, a: float, kind: int, clip: float) -> Step:
    """A step to the level 1, of which only the estimate is computed."""
    return Step(alpha_bar, alpha_bar, None, None, a, 1.0, 0.0, kind, clip, reclip=False, random=False, seed=0, step=0)


def predict_x0(x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, a: float, kind: int, clip: float) -> Tensor:
    return launch_step(x_t, output, _step(alpha_bar, a, kind, clip), whole=False)[1]


def predict_x0_backward(
    x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, clip: float, grad_mask: int
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = bool(grad_mask & 1), bool(grad_mask & 2), False
    step = _step(alpha_bar, a, kind, clip)
    gx, go, _, dots = launch_step_backward(x_t, output, step, None, g, wanted=wanted, dots=2 if grad_mask & 4 else 0, whole=False)
    return gx, go, dots


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    for kernel, signature, constexprs, options in list(reverse_step.signatures())[2:4]:  # fp32, levels per row
        first_half: dict[str, Any] = {"WHOLE": False, "HAS_ETA": False, "SOURCE": 0, "HAS_IDS": False, "HAS_GS": False, "DOTS": 2}
        yield kernel, signature, constexprs | {name: v for name, v in first_half.items() if name in constexprs}, options
