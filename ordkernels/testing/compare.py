"""Error budgets in place of loose tolerances: a kernel may err as plain torch does in the same dtype, and a few roundings more."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["assert_within_budget", "excess", "same_bits", "ulp_error"]


def excess(got: Tensor, eager: Tensor, truth: Tensor, *, ulps: float = 8.0, scale: float = 0.0) -> float:
    """max |got - truth| over max |eager - truth| + ulps * eps * max(|truth|, scale): at most 1 where the budget is kept.

    ``truth`` is fp64 and ``eager`` the plain torch result in ``got``'s dtype; where the truth is not finite, got has to equal eager.
    """
    if got.shape != eager.shape or got.dtype != eager.dtype:
        raise AssertionError(f"expected {eager.dtype} {list(eager.shape)}, got {got.dtype} {list(got.shape)}")
    if got.numel() == 0:
        return 0.0
    finite = truth.isfinite() & eager.isfinite()
    if not torch.equal(got[~finite].nan_to_num(), eager[~finite].nan_to_num()):
        return torch.inf
    if not finite.any():
        return 0.0
    got64, eager64, truth = got.double()[finite], eager.double()[finite], truth[finite]
    eps = torch.finfo(got.dtype).eps
    size = max(truth.abs().max().item(), scale)
    budget = (eager64 - truth).abs().max().item() + ulps * eps * size
    error = (got64 - truth).abs().max().item()
    if error != error:
        return torch.inf
    return 0.0 if error == 0 else error / budget


def assert_within_budget(
    got: Sequence[Tensor], eager: Sequence[Tensor], truth: Sequence[Tensor], *, ulps: float = 8.0, scale: float = 0.0
) -> None:
    """Every tensor of ``got`` keeps its budget; the message says which does not."""
    if len(got) != len(eager):
        raise AssertionError(f"expected {len(eager)} tensors, got {len(got)}")
    for i, (g, e, t) in enumerate(zip(got, eager, truth, strict=True)):
        x = excess(g, e, t, ulps=ulps, scale=scale)
        if not x <= 1:
            raise AssertionError(f"output {i} {list(g.shape)} {g.dtype}: error is {x:.3g} times its budget")


def same_bits(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Equal in every bit (NaN equals NaN)."""
    return all(
        x.dtype == y.dtype and x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(a, b, strict=True)
    )


def ulp_error(got: Tensor, truth: Tensor) -> Tensor:
    """|got - truth| in units of the last place of the truth in got's dtype; truth in fp64."""
    info = torch.finfo(got.dtype)
    exponent = torch.frexp(truth.abs().clamp(min=info.tiny))[1].double()  # truth in [2^(e-1), 2^e)
    return (got.double() - truth).abs() / (torch.exp2(exponent - 1) * info.eps)
