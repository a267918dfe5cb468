"""What the ops of increments share."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from .._validation import tensors as checks
from ._register import VmapRule, batch_first, fold_rows, is_backward


def check_widths(widths: Any, name: str, rows: Tensor, K: int | None) -> None:
    """[K] or [B, K] for rows [B, ...]; None: any K."""
    checks.same("widths", widths, name, rows)
    checks.dims("widths", widths, (1, 2), "[K] or [B, K]")
    if K is None:
        K = widths.shape[-1]
    if widths.dim() == 1:
        checks.shape("widths", widths, (K,), "[K]")
    else:
        checks.shape("widths", widths, (rows.shape[0], K), "[B, K]")
    if K == 0:
        raise ValueError(f"widths: expected at least one, got shape {list(widths.shape)}")
    checks.at_least_zero("widths", widths)


def fold_widths(kernel: OpOverload) -> VmapRule:
    """`fold_rows`, for widths that the rows of a batch may share: every row gets its own, whose gradients are summed."""
    fold = fold_rows(kernel)

    def rule(info: Any, dims: Sequence[Any], *args: Any) -> Any:
        rows, widths = args[0], args[1]
        if widths.dim() - (dims[1] is not None) == 2:
            return fold(info, dims, *args)
        V = info.batch_size
        B = rows.shape[0] if dims[0] is None else rows.movedim(dims[0], 0).shape[1]
        own = batch_first(widths, dims[1], V)[:, None].expand(V, B, -1)
        out, out_dims = fold(info, (dims[0], 0, *dims[2:]), rows, own, *args[2:])
        if is_backward(kernel):
            out = (out[0], out[1].sum(1), *out[2:])
        return out, out_dims

    return rule
