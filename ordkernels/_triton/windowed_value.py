"""windowed_value on a GPU.

What a table's gradient sums over rows is summed by a fixed number of programs, each over its own blocks of rows, and then over the
programs: the same bits every time. fp64 is computed by torch, on the same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import windowed_value as reference
from ._launch import launch
from ._sizes import cdiv
from ._window_softmax import BLOCK_R, BLOCK_V, PROGRAMS, softmax_terms, window_exps


@triton.jit
def _expected(x, values, rows, row_mask, V, lo, hi, best, norm, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    total = tl.zeros([BLOCK_R], tl.float32)
    for v0 in range(0, V, BLOCK_V):
        j = v0 + tl.arange(0, BLOCK_V)
        v = tl.load(values + j, mask=j < V, other=0.0).to(tl.float32)[None, :]
        v = tl.where((j[None, :] >= lo[:, None]) & (j[None, :] < hi[:, None]), v, 0.0)  # a NaN outside is not read
        total += tl.sum(window_exps(x, rows, row_mask, j, V, lo, hi, best) * v, 1)
    return total * norm


@triton.jit
def value_kernel(x, values, out, R, V, half, ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = rows < R
    lo, hi, best, norm = softmax_terms(x, rows, row_mask, V, 0, half, ALL, False, BLOCK_R, BLOCK_V)
    y = _expected(x, values, rows, row_mask, V, lo, hi, best, norm, BLOCK_R, BLOCK_V)
    tl.store(out + rows, y.to(out.dtype.element_ty), mask=row_mask)


@triton.jit
def value_backward_kernel(
    x, values, g, gx, partials, R, V, half, TABLE: tl.constexpr, ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """TABLE: partials [programs, V] in place of gx."""
    if TABLE:
        j = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
        acc = tl.zeros([BLOCK_V], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), tl.num_programs(0)):
        rows = tl.arange(0, BLOCK_R).to(tl.int64) + block * BLOCK_R
        row_mask = rows < R
        lo, hi, best, norm = softmax_terms(x, rows, row_mask, V, 0, half, ALL, False, BLOCK_R, BLOCK_V)
        scale = tl.load(g + rows, mask=row_mask, other=0.0).to(tl.float32) * norm
        if TABLE:
            acc += tl.sum(window_exps(x, rows, row_mask, j, V, lo, hi, best) * scale[:, None], 0)
        else:
            y = _expected(x, values, rows, row_mask, V, lo, hi, best, norm, BLOCK_R, BLOCK_V)
            for v0 in range(0, V, BLOCK_V):
                k = v0 + tl.arange(0, BLOCK_V)
                v = tl.load(values + k, mask=k < V, other=0.0).to(tl.float32)[None, :]
                v = tl.where((k[None, :] >= lo[:, None]) & (k[None, :] < hi[:, None]), v, 0.0)
                d = scale[:, None] * window_exps(x, rows, row_mask, k, V, lo * 0, hi * 0 + V, best) * (v - y[:, None])
                tl.store(gx + rows[:, None] * V + k[None, :], d.to(gx.dtype.element_ty), mask=row_mask[:, None] & (k < V)[None, :])
    if TABLE:
        tl.store(partials + tl.program_id(0).to(tl.int64) * V + j, acc, mask=j < V)


def windowed_value(logits: Tensor, values: Tensor, window: int) -> Tensor:
    if logits.dtype == torch.float64:
        return reference.windowed_value(logits, values, window)
    R, V = logits.shape
    x, table, out = logits.contiguous(), values.contiguous(), values.new_empty(R)
    if R:
        launch(value_kernel, (cdiv(R, BLOCK_R),), x, table, out, R, V, window // 2, window < 0, BLOCK_R, BLOCK_V, num_warps=4, num_stages=2)
    return out


def windowed_value_backward(logits: Tensor, values: Tensor, g: Tensor | None, window: int, grad_mask: int) -> tuple[Tensor, Tensor]:
    if logits.dtype == torch.float64 or g is None or not logits.shape[0]:
        return reference.windowed_value_backward(logits, values, g, window, grad_mask)
    R, V = logits.shape
    x, table, g = logits.contiguous(), values.contiguous(), g.contiguous()
    gx, gt = x.new_empty((R, V) if grad_mask & 1 else 0), table.new_empty(0)
    blocks = cdiv(R, BLOCK_R)
    programs = min(blocks, PROGRAMS)
    partials = x.new_empty(programs if grad_mask & 2 else 0, V, dtype=torch.float32)
    args = (x, table, g, gx, partials, R, V, window // 2)
    if grad_mask & 1:
        launch(value_backward_kernel, (blocks,), *args, False, window < 0, BLOCK_R, BLOCK_V, num_warps=4, num_stages=2)
    if grad_mask & 2:
        launch(value_backward_kernel, (programs, cdiv(V, BLOCK_V)), *args, True, window < 0, BLOCK_R, BLOCK_V, num_warps=4, num_stages=2)
        gt = partials.sum(0).to(table.dtype)
    return gx, gt


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    options = {"num_warps": 4, "num_stages": 2}
    for t, u, whole in (("*fp32", "*fp32", False), ("*bf16", "*bf16", False), ("*fp16", "*fp32", True)):
        values = {"ALL": whole, "BLOCK_R": BLOCK_R, "BLOCK_V": BLOCK_V}
        base = dict(x=t, values=u, R="i32", V="i32", half="i32") | dict.fromkeys(values, "constexpr")
        yield value_kernel, base | dict(out=u), values, options
        for table in (False, True):
            backward = base | dict(g=u, gx=t, partials="*fp32", TABLE="constexpr")
            yield value_backward_kernel, backward, values | {"TABLE": table}, options
