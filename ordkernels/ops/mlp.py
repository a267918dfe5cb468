"""Networks of one hidden layer, forward and backward in one call each."""

from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as checks
from ..reference import mlp as reference
from ._dropout import dropout_arguments
from ._register import DifferentiableOp, empty_if, loop_batches

__all__ = ["mlp"]


def mlp(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    *,
    cond: Tensor | None = None,
    cond_index: Tensor | None = None,
    time: Tensor | None = None,
    time_index: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    row_ids: Tensor | None = None,
) -> Tensor:
    r"""A network of one hidden layer whose units are never materialized, or G of them side by side.

    .. math:: y_r = W_o\, \mathrm{drop}(\mathrm{SiLU}(W_i x_r + b_i + \mathrm{cond}_{c(r)} + \mathrm{time}_{t(r)})) + b_o

    Rows of ``cond`` and ``time`` are added by index, so what many rows share is projected once and never copied. Backward makes
    the hidden layer again. Dropout is keyed by row, as :mod:`ordkernels.rng`: a unit's fate depends on seed, row id and unit alone,
    and has 16 bits, so ``dropout`` holds to :math:`2^{-17}`. The gradients of the weights do not depend on the number of threads.

    Args:
        x: ``[R, D]``; of G networks ``[R, G, D]``, or ``[R, 1, D]``, the same for all.
        w_in: ``[H, D]``; of G networks ``[G, H, D]``.
        b_in: ``[H]`` or ``[G, H]``; None: none.
        w_out: ``[O, H]`` or ``[G, O, H]``.
        b_out: ``[O]`` or ``[G, O]``; None: none.
        cond: ``[T, H]``, rows that are added to the hidden layer before its activation; for a single network.
        cond_index: ``[R]`` integers, which of them; None: row r, or the only one.
        time: as ``cond``.
        time_index: as ``cond_index``.
        dropout: of the hidden units, in [0, 1); those that stay are divided by ``1 - dropout``.
        seed: of the dropout, an int or an int64 tensor ``[]`` on the CPU; None: one of torch's own stream.
        row_ids: ``[R]`` integers; None: ``0 .. R - 1``. All networks drop the same units of a row.

    Returns:
        ``[R, O]`` or ``[R, G, O]``, in the dtype of x; computed in fp32, or fp64.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. Indices are checked on the CPU in eager mode only.

    Example:
        >>> import torch
        >>> from ordkernels.ops import mlp
        >>> per_user, user = torch.randn(3, 256), torch.tensor([0, 0, 1, 2, 2])
        >>> mlp(torch.randn(5, 64), torch.randn(256, 64), None, torch.randn(8, 256), None, cond=per_user, cond_index=user).shape
        torch.Size([5, 8])
    """
    if checks.autocast_is_active():
        x, w_in, b_in, w_out, b_out, cond, time = checks.promoted(x, w_in, b_in, w_out, b_out, cond, time)
    H = _check_network(x, w_in, b_in, w_out, b_out)
    cond_index = _table("cond", cond, cond_index, x, w_in, H)
    time_index = _table("time", time, time_index, x, w_in, H)
    key, ids, p = dropout_arguments(dropout, seed, row_ids, x)
    out: Tensor = _OP(x, w_in, b_in, cond, time, w_out, b_out, cond_index, time_index, key, ids, p)
    return out


def _check_network(x: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor, b_out: Tensor | None) -> int:
    """H."""
    checks.floating("x", x)
    for name, t in (("w_in", w_in), ("b_in", b_in), ("w_out", w_out), ("b_out", b_out)):
        if t is not None:
            checks.same(name, t, "x", x)
    checks.dims("w_in", w_in, (2, 3), "[H, D] or [G, H, D]")
    G, (H, D) = tuple(w_in.shape[:-2]), w_in.shape[-2:]  # G: of one number, or of none
    if 0 in w_in.shape:
        raise ValueError(f"w_in: expected sizes of at least 1, got {list(w_in.shape)}")
    if x.dim() != 2 + len(G) or x.shape[-1] != D or (G and x.shape[1] not in (1, *G)):
        form = f"[R, {G[0]}, {D}] or [R, 1, {D}]" if G else f"[R, {D}]"
        raise ValueError(f"x: expected {form} for w_in {list(w_in.shape)}, got {list(x.shape)}")
    letters = "G, " if G else ""
    checks.dims("w_out", w_out, (2 + len(G),), f"[{letters}O, H]")
    checks.shape("w_out", w_out, (*G, w_out.shape[-2], H), f"[{letters}O, H]")
    if not w_out.shape[-2]:
        raise ValueError(f"w_out: expected sizes of at least 1, got {list(w_out.shape)}")
    for name, b, n, letter in (("b_in", b_in, H, "H"), ("b_out", b_out, w_out.shape[-2], "O")):
        if b is not None:
            checks.shape(name, b, (*G, n), f"[{letters}{letter}]")
    return int(H)


def _table(name: str, rows: Tensor | None, index: Any, x: Tensor, w_in: Tensor, H: int) -> Tensor | None:
    """Checks rows [T, H] and returns their index as int64 [R]."""
    if rows is None:
        if index is not None:
            raise ValueError(f"{name}_index: expected None without {name}, got {type(index).__name__}")
        return None
    checks.same(name, rows, "x", x)
    if w_in.dim() == 3:
        raise ValueError(f"{name}: expected None for several networks, got {list(rows.shape)}")
    checks.dims(name, rows, (2,), "[T, H]")
    checks.shape(name, rows, (rows.shape[0], H), "[T, H]")
    R, T = x.shape[0], rows.shape[0]
    if index is None:
        if T not in (1, R):
            raise ValueError(f"{name}: expected 1 or R = {R} rows without {name}_index, got {T}")
        return None
    found = checks.row_ids(f"{name}_index", index, x)
    assert found is not None
    if R and checks.can_read_values(found):
        low, high = (int(t) for t in torch.aminmax(found))
        if low < 0 or high >= T:
            raise ValueError(f"{name}_index: expected integers from 0 to {T - 1}, got {low if low < 0 else high}")
    return found


def _fake(x: Tensor, w_out: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], *w_out.shape[:-1]))


def _fake_backward(
    x: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    cond: Tensor | None,
    time: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    grad_mask: int,
) -> tuple[Tensor, ...]:
    inputs = (x, w_in, b_in, cond, time, w_out, b_out)
    return tuple(x.new_empty(0) if t is None else empty_if(grad_mask >> i & 1, t) for i, t in enumerate(inputs))


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "mlp",
    tensors=11,
    public=1,
    reference=reference.mlp,
    reference_backward=reference.mlp_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:11],
    vmap=loop_batches,  # the gradient of a shared weight cannot be folded into rows
)
