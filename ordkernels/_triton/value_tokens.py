"""embedding_mixup and windowed_value on a GPU.

The softmax is made again from the logits wherever it is used: [BLOCK_R, BLOCK_V] of it at a time, times a block of the table on the
tensor cores (fp32 as fp32). What a table's gradient sums over rows is summed by a fixed number of programs, each over its own blocks of
rows, and then over the programs: the same bits every time. fp64 is computed by torch, on the same device.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import value_tokens as reference

BLOCK_R, BLOCK_V, BLOCK_E = 16, 32, 64  # larger ones spill
NARROW = 32  # BLOCK_E of the logits' gradient, which holds two products
PROGRAMS = 256  # that share a table's gradient


@triton.jit
def _top(x, rows, live, V, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """(largest logit, its first place, is there no softmax), each [BLOCK_R]."""
    best = tl.full([BLOCK_R], float("-inf"), tl.float32)
    at = tl.zeros([BLOCK_R], tl.int32)
    nan = tl.zeros([BLOCK_R], tl.int32)
    for v0 in range(0, V, BLOCK_V):
        j = v0 + tl.arange(0, BLOCK_V)
        t = tl.load(x + rows[:, None] * V + j[None, :], mask=live[:, None] & (j < V)[None, :], other=float("-inf")).to(tl.float32)
        nan = tl.maximum(nan, tl.max((t != t).to(tl.int32), 1))
        t = tl.where(t == t, t, float("-inf"))
        here = tl.max(t, 1)
        place = tl.min(tl.where(t == here[:, None], j[None, :], V), 1)
        at = tl.where(here > best, place, at)
        best = tl.maximum(best, here)
    return best, at, (nan > 0) | (tl.abs(best) == float("inf"))


@triton.jit
def _window(at, V, first, half, ALL: tl.constexpr, MIXUP: tl.constexpr):
    """[lo, hi) of each row."""
    if ALL:
        return at * 0, at * 0 + V
    lo, hi = tl.maximum(at - half, 0), tl.minimum(at + half + 1, V)
    if MIXUP:
        lo = tl.where(at < first, at, tl.maximum(lo, first))
        hi = tl.where(at < first, at + 1, hi)
    return lo, hi


@triton.jit
def _exps(x, rows, live, j, V, lo, hi, best):
    """exp(x - max) inside the window, else 0: [BLOCK_R, BLOCK_V]."""
    inside = (j[None, :] >= lo[:, None]) & (j[None, :] < hi[:, None]) & live[:, None] & (j < V)[None, :]
    t = tl.load(x + rows[:, None] * V + j[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    return tl.where(inside, tl.exp(t - best[:, None]), 0.0)


@triton.jit
def _norm(x, rows, live, V, lo, hi, best, bad, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """1 / sum of the exps [BLOCK_R], NaN where there is no softmax."""
    total = tl.zeros([BLOCK_R], tl.float32)
    for v0 in range(0, V, BLOCK_V):
        total += tl.sum(_exps(x, rows, live, v0 + tl.arange(0, BLOCK_V), V, lo, hi, best), 1)
    return tl.where(bad, float("nan"), 1 / tl.where(live & (~bad), total, 1.0))


@triton.jit
def _softmax(x, rows, live, V, first, half, ALL: tl.constexpr, MIXUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """What a row's softmax needs: (lo, hi, max, norm), normalised over its window (MIXUP) or over everything."""
    best, at, bad = _top(x, rows, live, V, BLOCK_R, BLOCK_V)
    bad = bad & live
    best = tl.where(bad | (~live), 0.0, best)
    lo, hi = _window(at, V, first, half, ALL, MIXUP)
    lo, hi = tl.where(bad, 0, lo), tl.where(bad, V, hi)
    if MIXUP:
        norm = _norm(x, rows, live, V, lo, hi, best, bad, BLOCK_R, BLOCK_V)
    else:
        norm = _norm(x, rows, live, V, at * 0, at * 0 + V, best, bad, BLOCK_R, BLOCK_V)
    return lo, hi, best, norm


@triton.jit
def mixup_kernel(
    x, table, out, R, V, E, first, half,
    ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    live = rows < R
    lo, hi, best, norm = _softmax(x, rows, live, V, first, half, ALL, True, BLOCK_R, BLOCK_V)
    acc = tl.zeros([BLOCK_R, BLOCK_E], tl.float32)
    for v0 in range(0, V, BLOCK_V):
        j = v0 + tl.arange(0, BLOCK_V)
        p = _exps(x, rows, live, j, V, lo, hi, best)
        t = tl.load(table + j[:, None] * E + e[None, :], mask=(j < V)[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
        acc = tl.dot(p, t, acc, input_precision="ieee")
    tl.store(out + rows[:, None] * E + e[None, :], (acc * norm[:, None]).to(out.dtype.element_ty), mask=live[:, None] & (e < E)[None, :])


@triton.jit
def _weight_gradient(table, g, rows, live, j, V, E, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr):
    """g . table_j: [BLOCK_R, BLOCK_V]."""
    acc = tl.zeros([BLOCK_R, BLOCK_V], tl.float32)
    for e0 in range(0, E, BLOCK_E):
        e = e0 + tl.arange(0, BLOCK_E)
        go = tl.load(g + rows[:, None] * E + e[None, :], mask=live[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
        t = tl.load(table + j[None, :] * E + e[:, None], mask=(j < V)[None, :] & (e < E)[:, None], other=0.0).to(tl.float32)
        acc = tl.dot(go, t, acc, input_precision="ieee")
    return acc


@triton.jit
def mixup_logits_kernel(
    x, table, g, gx, R, V, E, first, half,
    ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < R
    lo, hi, best, norm = _softmax(x, rows, live, V, first, half, ALL, True, BLOCK_R, BLOCK_V)
    mean = tl.zeros([BLOCK_R], tl.float32)
    blocks = tl.cdiv(V, BLOCK_V)
    for i in range(2 * blocks):  # the mean first, then what it is taken from: one body, for fewer registers
        writing = i >= blocks
        j = (i - tl.where(writing, blocks, 0)) * BLOCK_V + tl.arange(0, BLOCK_V)
        p = _exps(x, rows, live, j, V, lo, hi, best) * norm[:, None]
        d = _weight_gradient(table, g, rows, live, j, V, E, BLOCK_R, BLOCK_V, BLOCK_E)
        mean += tl.where(writing, 0.0, tl.sum(p * d, 1))
        mask = live[:, None] & (j < V)[None, :] & writing
        tl.store(gx + rows[:, None] * V + j[None, :], (p * (d - mean[:, None])).to(gx.dtype.element_ty), mask=mask)


@triton.jit
def mixup_table_kernel(
    x, g, parts, R, V, E, first, half,
    ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """parts [programs, V, E]: the rows of this program's blocks."""
    j = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    e = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    acc = tl.zeros([BLOCK_V, BLOCK_E], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), tl.num_programs(0)):
        rows = tl.arange(0, BLOCK_R).to(tl.int64) + block * BLOCK_R
        live = rows < R
        lo, hi, best, norm = _softmax(x, rows, live, V, first, half, ALL, True, BLOCK_R, BLOCK_V)
        p = _exps(x, rows, live, j, V, lo, hi, best) * norm[:, None]
        go = tl.load(g + rows[:, None] * E + e[None, :], mask=live[:, None] & (e < E)[None, :], other=0.0).to(tl.float32)
        acc = tl.dot(tl.trans(p), go, acc, input_precision="ieee")
    at = tl.program_id(0).to(tl.int64) * V + j
    tl.store(parts + at[:, None] * E + e[None, :], acc, mask=(j < V)[:, None] & (e < E)[None, :])


@triton.jit
def _expected(x, values, rows, live, V, lo, hi, best, norm, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    total = tl.zeros([BLOCK_R], tl.float32)
    for v0 in range(0, V, BLOCK_V):
        j = v0 + tl.arange(0, BLOCK_V)
        v = tl.load(values + j, mask=j < V, other=0.0).to(tl.float32)
        total += tl.sum(_exps(x, rows, live, j, V, lo, hi, best) * v[None, :], 1)
    return total * norm


@triton.jit
def value_kernel(x, values, out, R, V, half, ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < R
    lo, hi, best, norm = _softmax(x, rows, live, V, 0, half, ALL, False, BLOCK_R, BLOCK_V)
    y = _expected(x, values, rows, live, V, lo, hi, best, norm, BLOCK_R, BLOCK_V)
    tl.store(out + rows, y.to(out.dtype.element_ty), mask=live)


@triton.jit
def value_backward_kernel(
    x, values, g, gx, parts, R, V, half, TABLE: tl.constexpr, ALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """TABLE: parts [programs, V] in place of gx."""
    if TABLE:
        j = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
        acc = tl.zeros([BLOCK_V], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), tl.num_programs(0)):
        rows = tl.arange(0, BLOCK_R).to(tl.int64) + block * BLOCK_R
        live = rows < R
        lo, hi, best, norm = _softmax(x, rows, live, V, 0, half, ALL, False, BLOCK_R, BLOCK_V)
        scale = tl.load(g + rows, mask=live, other=0.0).to(tl.float32) * norm
        if TABLE:
            acc += tl.sum(_exps(x, rows, live, j, V, lo, hi, best) * scale[:, None], 0)
        else:
            y = _expected(x, values, rows, live, V, lo, hi, best, norm, BLOCK_R, BLOCK_V)
            for v0 in range(0, V, BLOCK_V):
                k = v0 + tl.arange(0, BLOCK_V)
                v = tl.load(values + k, mask=k < V, other=0.0).to(tl.float32)[None, :]
                v = tl.where((k[None, :] >= lo[:, None]) & (k[None, :] < hi[:, None]), v, 0.0)
                d = scale[:, None] * _exps(x, rows, live, k, V, lo * 0, hi * 0 + V, best) * (v - y[:, None])
                tl.store(gx + rows[:, None] * V + k[None, :], d.to(gx.dtype.element_ty), mask=live[:, None] & (k < V)[None, :])
    if TABLE:
        tl.store(parts + tl.program_id(0).to(tl.int64) * V + j, acc, mask=j < V)


def embedding_mixup(logits: Tensor, embedding: Tensor, window: int, first: int) -> Tensor:
    if logits.dtype == torch.float64:
        return reference.embedding_mixup(logits, embedding, window, first)
    (R, V), E = logits.shape, embedding.shape[1]
    x, table, out = logits.contiguous(), embedding.contiguous(), embedding.new_empty((R, E))
    if R:
        with torch.cuda.device_of(x):
            mixup_kernel[(triton.cdiv(R, BLOCK_R), triton.cdiv(E, BLOCK_E))](
                x, table, out, R, V, E, first, window // 2, window < 0, BLOCK_R, BLOCK_V, BLOCK_E, num_warps=4
            )  # fmt: skip
    return out


def embedding_mixup_backward(
    logits: Tensor, embedding: Tensor, g: Tensor | None, window: int, first: int, wanted: int
) -> tuple[Tensor, Tensor]:
    if logits.dtype == torch.float64 or g is None or not logits.shape[0]:
        return reference.embedding_mixup_backward(logits, embedding, g, window, first, wanted)
    (R, V), E = logits.shape, embedding.shape[1]
    x, table, g = logits.contiguous(), embedding.contiguous(), g.contiguous()
    gx, gt = x.new_empty((R, V) if wanted & 1 else 0), table.new_empty(0)
    numbers = (R, V, E, first, window // 2, window < 0, BLOCK_R, BLOCK_V)
    blocks = triton.cdiv(R, BLOCK_R)
    with torch.cuda.device_of(x):
        if wanted & 1:
            mixup_logits_kernel[(blocks,)](x, table, g, gx, *numbers, NARROW, num_warps=4, num_stages=1)
        if wanted & 2:
            programs = min(blocks, PROGRAMS)
            parts = x.new_empty((programs, V, E), dtype=torch.float32)
            mixup_table_kernel[(programs, triton.cdiv(V, BLOCK_V), triton.cdiv(E, BLOCK_E))](
                x, g, parts, *numbers, BLOCK_E, num_warps=4, num_stages=2
            )
            gt = parts.sum(0).to(table.dtype)
    return gx, gt


def windowed_value(logits: Tensor, values: Tensor, window: int) -> Tensor:
    if logits.dtype == torch.float64:
        return reference.windowed_value(logits, values, window)
    R, V = logits.shape
    x, table, out = logits.contiguous(), values.contiguous(), values.new_empty(R)
    if R:
        with torch.cuda.device_of(x):
            value_kernel[(triton.cdiv(R, BLOCK_R),)](
                x, table, out, R, V, window // 2, window < 0, BLOCK_R, BLOCK_V, num_warps=4, num_stages=2
            )
    return out


def windowed_value_backward(logits: Tensor, values: Tensor, g: Tensor | None, window: int, wanted: int) -> tuple[Tensor, Tensor]:
    if logits.dtype == torch.float64 or g is None or not logits.shape[0]:
        return reference.windowed_value_backward(logits, values, g, window, wanted)
    R, V = logits.shape
    x, table, g = logits.contiguous(), values.contiguous(), g.contiguous()
    gx, gt = x.new_empty((R, V) if wanted & 1 else 0), table.new_empty(0)
    blocks = triton.cdiv(R, BLOCK_R)
    programs = min(blocks, PROGRAMS)
    parts = x.new_empty((programs if wanted & 2 else 0, V), dtype=torch.float32)
    args = (x, table, g, gx, parts, R, V, window // 2)
    with torch.cuda.device_of(x):
        if wanted & 1:
            value_backward_kernel[(blocks,)](*args, False, window < 0, BLOCK_R, BLOCK_V, num_warps=4, num_stages=2)
        if wanted & 2:
            value_backward_kernel[(programs, triton.cdiv(V, BLOCK_V))](*args, True, window < 0, BLOCK_R, BLOCK_V, num_warps=4, num_stages=2)
            gt = parts.sum(0).to(table.dtype)
    return gx, gt


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    numbers = dict.fromkeys(("R", "V", "E", "first", "half"), "i32")
    flags = dict.fromkeys(("ALL", "BLOCK_R", "BLOCK_V", "BLOCK_E"), "constexpr")
    for t, u, all_ in (("*fp32", "*fp32", False), ("*bf16", "*bf16", False), ("*fp16", "*fp32", True)):
        values = {"ALL": all_, "BLOCK_R": BLOCK_R, "BLOCK_V": BLOCK_V, "BLOCK_E": BLOCK_E}
        yield mixup_kernel, dict(x=t, table=u, out=u) | numbers | flags, values, {"num_warps": 4}
        yield (
            mixup_logits_kernel,
            dict(x=t, table=u, g=u, gx=t) | numbers | flags,
            values | {"BLOCK_E": NARROW},
            {"num_warps": 4, "num_stages": 1},
        )
        yield mixup_table_kernel, dict(x=t, g=u, parts="*fp32") | numbers | flags, values, {"num_warps": 4, "num_stages": 2}
        few = {k: v for k, v in values.items() if k != "BLOCK_E"}
        some = dict(R="i32", V="i32", half="i32") | dict.fromkeys(few, "constexpr")
        yield value_kernel, dict(x=t, values=u, out=u) | some, few, {"num_warps": 4, "num_stages": 2}
        for table in (False, True):
            yield (
                value_backward_kernel,
                dict(x=t, values=u, g=u, gx=t, parts="*fp32", TABLE="constexpr") | some,
                few | {"TABLE": table},
                {"num_warps": 4, "num_stages": 2},
            )
