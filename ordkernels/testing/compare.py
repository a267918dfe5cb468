"""Error budgets in place of loose tolerances: a kernel may err as plain torch does in the same dtype, and a few roundings more."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["assert_within_budget", "excess", "same_bits", "ulp_error"]


def excess(got: Tensor, eager: Tensor, expected: Tensor, *, ulps: float = 8.0, scale: float = 0.0) -> float:
    """The largest error over its budget: at most 1 where the budget is kept.

    max |got - expected| / (max |eager - expected| + ulps * eps * max(|expected|, scale))

    Args:
        got: what a kernel gave.
        eager: what plain torch gives, in the same dtype. Where it or `expected` is not finite, `got` has to equal it.
        expected: the same in fp64.
        ulps: roundings that the kernel may add.
        scale: the least size of the expected values that a rounding is taken of.
    """
    if got.shape != eager.shape or got.dtype != eager.dtype:
        raise AssertionError(f"expected {eager.dtype} {list(eager.shape)}, got {got.dtype} {list(got.shape)}")
    if got.numel() == 0:
        return 0.0
    finite = expected.isfinite() & eager.isfinite()
    if not torch.equal(got[~finite].nan_to_num(), eager[~finite].nan_to_num()):
        return torch.inf
    if not finite.any():
        return 0.0
    got64, eager64, expected = got.double()[finite], eager.double()[finite], expected[finite]
    eps = torch.finfo(got.dtype).eps
    size = max(expected.abs().max().item(), scale)
    budget = (eager64 - expected).abs().max().item() + ulps * eps * size
    error = (got64 - expected).abs().max().item()
    if error != error:
        return torch.inf
    return 0.0 if error == 0 else error / budget


def assert_within_budget(
    got: Sequence[Tensor], eager: Sequence[Tensor], expected: Sequence[Tensor], *, ulps: float = 8.0, scale: float = 0.0
) -> None:
    """Every tensor of ``got`` is within its budget; the message says which is not."""
    if len(got) != len(eager):
        raise AssertionError(f"expected {len(eager)} tensors, got {len(got)}")
    for i, (g, e, t) in enumerate(zip(got, eager, expected, strict=True)):
        x = excess(g, e, t, ulps=ulps, scale=scale)
        if not x <= 1:
            raise AssertionError(f"output {i} {list(g.shape)} {g.dtype}: error is {x:.3g} times its budget")


def same_bits(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Equal in every bit (NaN equals NaN)."""
    return all(
        x.dtype == y.dtype and x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(a, b, strict=True)
    )


def ulp_error(got: Tensor, expected: Tensor) -> Tensor:
    """|got - expected| in units of the last place that expected (fp64) has in got's dtype."""
    info = torch.finfo(got.dtype)
    exponent = torch.frexp(expected.abs().clamp(min=info.tiny))[1].double()  # expected in [2^(e-1), 2^e)
    return (got.double() - expected).abs() / (torch.exp2(exponent - 1) * info.eps)
