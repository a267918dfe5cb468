"""embedding_mixup on a GPU: a block of the softmax times a block of the table on the tensor cores, fp32 in full.

What a table's gradient sums over rows is summed by a fixed number of programs, each over its own blocks of rows, and then over the
programs: the same bits every time. fp64 is computed by torch, on the same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import embedding_mixup as reference
from ._launch import launch
from ._sizes import cdiv
from ._window_softmax import BLOCK_R, BLOCK_V, PROGRAMS, softmax_terms, window_exps

BLOCK_E = 64  # larger ones spill
BLOCK_E_BACKWARD = 32  # of the logits' gradient, which holds two products


@triton.jit
def mixup_kernel(
    x, table, out, R, V, E, first, half,
    ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    row_mask = rows < R
    lo, hi, best, norm = softmax_terms(x, rows, row_mask, V, first, half, ALL, True, BLOCK_R, BLOCK_V)
    acc = tl.zeros([BLOCK_R, BLOCK_E], tl.float32)
    special = 0  # 0 inf is NaN: what is outside of a row's window must not be multiplied
    for v0 in range(0, V, BLOCK_V):
        j = v0 + tl.arange(0, BLOCK_V)
        p = window_exps(x, rows, row_mask, j, V, lo, hi, best)
        t = tl.load(table + j[:, None] * E + e[None, :], mask=(j < V)[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
        finite = tl.abs(t) < float("inf")
        special = tl.maximum(special, tl.max(tl.ravel((~finite).to(tl.int32)), 0))
        acc = tl.dot(p, tl.where(finite, t, 0.0), acc, input_precision="ieee")
    if special > 0:  # again: kept through the loop above they would spill
        lo, hi, best, norm = softmax_terms(x, rows, row_mask, V, first, half, ALL, True, BLOCK_R, BLOCK_V)
    for k in range(V * special):
        one = k + tl.arange(0, 1)
        row = tl.load(table + one.to(tl.int64)[:, None] * E + e[None, :], mask=(e < E)[None, :], other=0.0).to(tl.float32)
        inside = (one[None, :] >= lo[:, None]) & (one[None, :] < hi[:, None])
        add = inside & (~(tl.abs(row) < float("inf")))  # [BLOCK_R, BLOCK_E]
        acc += tl.where(add, window_exps(x, rows, row_mask, one, V, lo, hi, best) * row, 0.0)
    tl.store(
        out + rows[:, None] * E + e[None, :], (acc * norm[:, None]).to(out.dtype.element_ty), mask=row_mask[:, None] & (e < E)[None, :]
    )


@triton.jit
def _weight_gradient(table, g, rows, row_mask, j, V, E, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr):
    """g . table_j: [BLOCK_R, BLOCK_V]."""
    acc = tl.zeros([BLOCK_R, BLOCK_V], tl.float32)
    for e0 in range(0, E, BLOCK_E):
        e = e0 + tl.arange(0, BLOCK_E)
        go = tl.load(g + rows[:, None] * E + e[None, :], mask=row_mask[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
        t = tl.load(table + j[None, :] * E + e[:, None], mask=(j < V)[None, :] & (e < E)[:, None], other=0.0).to(tl.float32)
        acc = tl.dot(go, t, acc, input_precision="ieee")
    return acc


@triton.jit
def terms_kernel(x, window, terms, R, V, first, half, ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """A row's window [R, 2] and its softmax's largest logit and norm [R, 2], for all blocks of the kernels that follow."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = rows < R
    lo, hi, best, norm = softmax_terms(x, rows, row_mask, V, first, half, ALL, True, BLOCK_R, BLOCK_V)
    tl.store(window + 2 * rows, lo, mask=row_mask)
    tl.store(window + 2 * rows + 1, hi, mask=row_mask)
    tl.store(terms + 2 * rows, best, mask=row_mask)
    tl.store(terms + 2 * rows + 1, norm, mask=row_mask)


@triton.jit
def _load_terms(window, terms, rows, row_mask):
    lo, hi = tl.load(window + 2 * rows, mask=row_mask, other=0), tl.load(window + 2 * rows + 1, mask=row_mask, other=0)
    best, norm = tl.load(terms + 2 * rows, mask=row_mask, other=0.0), tl.load(terms + 2 * rows + 1, mask=row_mask, other=0.0)
    return lo, hi, best, norm


@triton.jit
def mixup_logits_kernel(
    x, table, g, window, terms, gx, R, V, E,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = rows < R
    lo, hi, best, norm = _load_terms(window, terms, rows, row_mask)
    mean = tl.zeros([BLOCK_R], tl.float32)
    blocks = tl.cdiv(V, BLOCK_V)
    for i in range(2 * blocks):  # first the mean, then the deviations from it: one loop body takes fewer registers
        writing = i >= blocks
        j = (i - tl.where(writing, blocks, 0)) * BLOCK_V + tl.arange(0, BLOCK_V)
        p = window_exps(x, rows, row_mask, j, V, lo, hi, best) * norm[:, None]
        d = _weight_gradient(table, g, rows, row_mask, j, V, E, BLOCK_R, BLOCK_V, BLOCK_E)
        inside = (j[None, :] >= lo[:, None]) & (j[None, :] < hi[:, None])
        d = tl.where(inside, d, 0.0)  # an embedding outside may be NaN
        mean += tl.where(writing, 0.0, tl.sum(p * d, 1))
        mask = row_mask[:, None] & (j < V)[None, :] & writing
        slope = tl.where(inside, p * (d - mean[:, None]), 0.0)
        tl.store(gx + rows[:, None] * V + j[None, :], slope.to(gx.dtype.element_ty), mask=mask)


@triton.jit
def mixup_table_kernel(
    x, g, window, terms, partials, R, V, E, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """partials [programs, V, E]: the rows of this program's blocks."""
    j = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    e = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    acc = tl.zeros([BLOCK_V, BLOCK_E], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), tl.num_programs(0)):
        rows = tl.arange(0, BLOCK_R).to(tl.int64) + block * BLOCK_R
        row_mask = rows < R
        lo, hi, best, norm = _load_terms(window, terms, rows, row_mask)
        p = window_exps(x, rows, row_mask, j, V, lo, hi, best) * norm[:, None]
        go = tl.load(g + rows[:, None] * E + e[None, :], mask=row_mask[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
        acc = tl.dot(tl.trans(p), go, acc, input_precision="ieee")
    at = tl.program_id(0).to(tl.int64) * V + j
    tl.store(partials + at[:, None] * E + e[None, :], acc, mask=(j < V)[:, None] & (e < E)[None, :])


def embedding_mixup(logits: Tensor, embedding: Tensor, window: int, first: int) -> Tensor:
    if logits.dtype == torch.float64:
        return reference.embedding_mixup(logits, embedding, window, first)
    (R, V), E = logits.shape, embedding.shape[1]
    x, table, out = logits.contiguous(), embedding.contiguous(), embedding.new_empty(R, E)
    if R:
        launch(
            mixup_kernel, (cdiv(R, BLOCK_R), cdiv(E, BLOCK_E)),
            x, table, out, R, V, E, first, window // 2, window < 0, BLOCK_R, BLOCK_V, BLOCK_E, num_warps=4,
        )  # fmt: skip
    return out


def embedding_mixup_backward(
    logits: Tensor, embedding: Tensor, g: Tensor | None, window: int, first: int, grad_mask: int
) -> tuple[Tensor, Tensor]:
    if logits.dtype == torch.float64 or g is None or not logits.shape[0]:
        return reference.embedding_mixup_backward(logits, embedding, g, window, first, grad_mask)
    (R, V), E = logits.shape, embedding.shape[1]
    x, table, g = logits.contiguous(), embedding.contiguous(), g.contiguous()
    gx, gt = x.new_empty((R, V) if grad_mask & 1 else 0), table.new_empty(0)
    windows, terms = x.new_empty(R, 2, dtype=torch.int32), x.new_empty(R, 2, dtype=torch.float32)
    sizes, blocks = (R, V, E, BLOCK_R, BLOCK_V), cdiv(R, BLOCK_R)
    launch(terms_kernel, (blocks,), x, windows, terms, R, V, first, window // 2, window < 0, BLOCK_R, BLOCK_V, num_warps=4)
    if grad_mask & 1:
        launch(mixup_logits_kernel, (blocks,), x, table, g, windows, terms, gx, *sizes, BLOCK_E_BACKWARD, num_warps=4, num_stages=1)
    if grad_mask & 2:
        programs = min(blocks, PROGRAMS)
        partials = x.new_empty(programs, V, E, dtype=torch.float32)
        launch(
            mixup_table_kernel, (programs, cdiv(V, BLOCK_V), cdiv(E, BLOCK_E)),
            x, g, windows, terms, partials, *sizes, BLOCK_E, num_warps=4, num_stages=2,
        )  # fmt: skip
        gt = partials.sum(0).to(table.dtype)
    return gx, gt


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    sizes = dict.fromkeys(("R", "V", "E"), "i32")
    softmax = dict.fromkeys(("first", "half"), "i32") | {"ALL": "constexpr"}
    for t, u, whole in (("*fp32", "*fp32", False), ("*bf16", "*bf16", False), ("*fp16", "*fp32", True)):
        values = {"BLOCK_R": BLOCK_R, "BLOCK_V": BLOCK_V, "BLOCK_E": BLOCK_E}
        base = sizes | dict.fromkeys(values, "constexpr")
        yield mixup_kernel, dict(x=t, table=u, out=u) | softmax | base, values | {"ALL": whole}, {"num_warps": 4}
        terms = dict(window="*i32", terms="*fp32")
        arguments = dict(x=t, R="i32", V="i32", BLOCK_R="constexpr", BLOCK_V="constexpr") | terms | softmax
        yield terms_kernel, arguments, {"ALL": whole, "BLOCK_R": BLOCK_R, "BLOCK_V": BLOCK_V}, {"num_warps": 4}
        backward = values | {"BLOCK_E": BLOCK_E_BACKWARD}
        yield mixup_logits_kernel, dict(x=t, table=u, g=u, gx=t) | terms | base, backward, {"num_warps": 4, "num_stages": 1}
        yield mixup_table_kernel, dict(x=t, g=u, partials="*fp32") | terms | base, values, {"num_warps": 4, "num_stages": 2}
