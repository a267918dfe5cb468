"""Attention on packed sequences of any lengths on a GPU, forward and backward.

A program takes one head of BLOCK_Q consecutive tokens, which may be of several sequences, and goes through the tokens that these
sequences have, BLOCK_K at a time. Every result is a sum in one order: there are no atomics.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import launch
from ._math import number, number_bits
from ._sizes import cdiv, next_power_of_2

PART = 16  # features of a head in one step of a product
LARGE = tl.constexpr(3e38)  # what is more may be infinite in a product's parts of 11 bits


@triton.jit
def _block_end(first, n: tl.constexpr, stop, end, rows):
    """Where the block of rows from token `first` on ends: after n tokens, or with its first sequence if a number in it is not finite.

    A product with weights that are 0 for other sequences would carry such a number into them.
    """
    spoilt = tl.max(tl.max(tl.where(tl.abs(rows) < LARGE, 0, 1), 1), 0)
    whole = tl.minimum(first + n, stop)
    return tl.where(spoilt > 0, tl.minimum(whole, tl.load(end + first)), whole)


@triton.jit
def _head(base, token, mask, width, d, head):
    """Rows of one head, 0 behind its width and the tokens of the mask: [tokens, features d]."""
    return tl.load(base + token[:, None] * width + d[None, :], mask=mask[:, None] & (d < head)[None, :], other=0.0)


@triton.jit
def _products(
    a, a_token, a_mask, a_row, b, b_token, b_mask, b_row, head,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Of the rows of one head in a with those in b: [BLOCK_A, BLOCK_B]. PART features at a time: whole rows would spill."""
    DTYPE: tl.constexpr = a.dtype.element_ty
    out = tl.zeros([BLOCK_A, BLOCK_B], DTYPE)
    for first in range(0, head, PART):
        d = first + tl.arange(0, PART)
        x, y = _head(a, a_token, a_mask, a_row, d, head), _head(b, b_token, b_mask, b_row, d, head)
        out = tl.dot(x, tl.trans(y), out, input_precision="tf32x3", out_dtype=DTYPE)
    return out


@triton.jit
def _attend(
    q, k, v, t, mask, begin, stop, q_start, q_end, end, scale, row, d, head,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Queries t over the tokens begin, ..., stop - 1: (outputs, largest scores, sums of exponentials) by a running softmax."""
    DTYPE: tl.constexpr = q.dtype.element_ty
    top = tl.full([BLOCK_Q], float("-inf"), DTYPE)
    total = tl.zeros([BLOCK_Q], DTYPE)
    out = tl.zeros([BLOCK_Q, BLOCK_D], DTYPE)
    first = begin
    while first < stop:
        j = first + tl.arange(0, BLOCK_K)
        values = _head(v, j, j < stop, row, d, head)
        last = _block_end(first, BLOCK_K, stop, end, values)
        values = tl.where((j < last)[:, None], values, 0.0)
        mine = (q_start < last) & (q_end > first)
        seen = (j < last)[None, :] & (j[None, :] >= q_start[:, None]) & (j[None, :] < q_end[:, None])
        if CAUSAL:
            seen = seen & (j[None, :] <= t[:, None])
        s = _products(q, t, mask, row, k, j, j < last, row, head, BLOCK_Q, BLOCK_K, PART)
        s = tl.where(seen, s * scale, float("-inf"))
        largest = tl.max(s, 1)
        now = tl.where(top > largest, top, largest)
        base = tl.where(now == float("-inf"), 0.0, now)  # nothing seen yet
        keep, p = tl.exp(top - base), tl.exp(s - base[:, None])
        total = tl.where(mine, total * keep + tl.sum(p, 1), total)
        out = tl.where(mine[:, None], tl.dot(p, values, out * keep[:, None], input_precision="tf32x3", out_dtype=DTYPE), out)
        top = tl.where(mine, now, top)
        first = last
    total = tl.where(q_end > 0, total, 1.0)  # rows behind the last token
    return out / total[:, None], top, total


@triton.jit
def _program(start, end, N, BLOCK: tl.constexpr):
    """(tokens, where the sequence of each starts and ends, where that of the first starts and that of the last ends, first, last + 1)."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    t, last = first + tl.arange(0, BLOCK), tl.minimum(first + BLOCK, tl.cast(N, tl.int64))
    t_start, t_end = tl.load(start + t, mask=t < N, other=0), tl.load(end + t, mask=t < N, other=0)
    return t, t_start, t_end, tl.load(start + first), tl.load(end + last - 1), first, last


@triton.jit(do_not_specialize=["scale", "N"])
def attention_kernel(
    qkv, start, end, out, scale, N, W, head,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """qkv [N, 3 W] -> the heads' outputs [N, W]."""
    t, q_start, q_end, begin, stop, _first, last = _program(start, end, N, BLOCK_Q)
    d, N, W = tl.arange(0, BLOCK_D), tl.cast(N, tl.int64), tl.cast(W, tl.int64)
    if CAUSAL:
        stop = last
    place = tl.program_id(1).to(tl.int64) * head
    q = qkv + place
    size = number(scale).to(q.dtype.element_ty)
    y, _top, _total = _attend(
        q, q + W, q + 2 * W, t, t < N, begin, stop, q_start, q_end, end, size, 3 * W, d, head,
        CAUSAL, BLOCK_Q, BLOCK_K, BLOCK_D, PART,
    )  # fmt: skip
    tl.store(out + place + t[:, None] * W + d[None, :], y, mask=(t < N)[:, None] & (d < head)[None, :])


@triton.jit(do_not_specialize=["scale", "N"])
def attention_queries_kernel(
    qkv, go, start, end, out, terms, gqkv, scale, N, W, head,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """go [N, W], the gradient of the outputs -> that of the queries in gqkv [N, 3 W], and the outputs once more.

    terms [heads, 3, N]: each query's largest score, 1 / its sum of exponentials, and the product of its output and its gradient.
    """
    t, q_start, q_end, begin, stop, _first, last = _program(start, end, N, BLOCK_Q)
    d, N, W = tl.arange(0, BLOCK_D), tl.cast(N, tl.int64), tl.cast(W, tl.int64)
    if CAUSAL:
        stop = last
    which, row = tl.program_id(1).to(tl.int64), 3 * W
    place = which * head  # the head's first column
    DTYPE: tl.constexpr = qkv.dtype.element_ty
    size = number(scale).to(DTYPE)
    q, k, v, g = qkv + place, qkv + W + place, qkv + 2 * W + place, go + place
    y, top, total = _attend(
        q, k, v, t, t < N, begin, stop, q_start, q_end, end, size, row, d, head, CAUSAL, BLOCK_Q, BLOCK_K, BLOCK_D, PART
    )
    norm, product = 1.0 / total, tl.sum(y * _head(g, t, t < N, W, d, head), 1)
    mask = (t < N)[:, None] & (d < head)[None, :]
    tl.store(out + place + t[:, None] * W + d[None, :], y, mask=mask)
    at = terms + which * 3 * N + t
    tl.store(at, top, mask=t < N)
    tl.store(at + N, norm, mask=t < N)
    tl.store(at + 2 * N, product, mask=t < N)
    gq = tl.zeros([BLOCK_Q, BLOCK_D], DTYPE)
    while begin < stop:
        j = begin + tl.arange(0, BLOCK_K)
        keys = _head(k, j, j < stop, row, d, head)
        limit = _block_end(begin, BLOCK_K, stop, end, keys)
        keys = tl.where((j < limit)[:, None], keys, 0.0)
        mine = (q_start < limit) & (q_end > begin)
        within = (j < limit)[None, :] & (j[None, :] >= q_start[:, None]) & (j[None, :] < q_end[:, None])
        seen = within
        if CAUSAL:
            seen = seen & (j[None, :] <= t[:, None])
        s = _products(q, t, t < N, row, k, j, j < limit, row, head, BLOCK_Q, BLOCK_K, PART) * size
        p = tl.where(seen, tl.exp(s - top[:, None]) * norm[:, None], 0.0)
        gp = _products(g, t, t < N, W, v, j, j < limit, row, head, BLOCK_Q, BLOCK_K, PART)
        gs = tl.where(within, p * (gp - product[:, None]) * size, 0.0)
        gq = tl.where(mine[:, None], tl.dot(gs, keys, gq, input_precision="tf32x3", out_dtype=DTYPE), gq)
        begin = limit
    tl.store(gqkv + place + t[:, None] * row + d[None, :], gq, mask=mask)


@triton.jit(do_not_specialize=["scale", "N"])
def attention_keys_kernel(
    qkv, go, start, end, terms, gqkv, scale, N, W, head,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """The gradients of keys and values in gqkv [N, 3 W]: here BLOCK_Q keys, and the queries that see them, BLOCK_K at a time."""
    t, k_start, k_end, begin, stop, first, _last = _program(start, end, N, BLOCK_Q)
    d, N, W = tl.arange(0, BLOCK_D), tl.cast(N, tl.int64), tl.cast(W, tl.int64)
    if CAUSAL:
        begin = first
    which, row = tl.program_id(1).to(tl.int64), 3 * W
    place = which * head  # the head's first column
    DTYPE: tl.constexpr = qkv.dtype.element_ty
    size = number(scale).to(DTYPE)
    query, grad = qkv + place, go + place
    gk, gv = tl.zeros([BLOCK_Q, BLOCK_D], DTYPE), tl.zeros([BLOCK_Q, BLOCK_D], DTYPE)
    while begin < stop:
        i = begin + tl.arange(0, BLOCK_K)
        q, g = _head(query, i, i < stop, row, d, head), _head(grad, i, i < stop, W, d, head)
        limit = _block_end(begin, BLOCK_K, stop, end, tl.where(tl.abs(q) < LARGE, g, q))
        im = i < limit
        q, g = tl.where(im[:, None], q, 0.0), tl.where(im[:, None], g, 0.0)
        at = terms + which * 3 * N + i
        top, norm = tl.load(at, mask=im, other=0.0), tl.load(at + N, mask=im, other=0.0)
        product = tl.load(at + 2 * N, mask=im, other=0.0)
        mine = (k_start < limit) & (k_end > begin)
        within = im[None, :] & (i[None, :] >= k_start[:, None]) & (i[None, :] < k_end[:, None])
        seen = within
        if CAUSAL:
            seen = seen & (i[None, :] >= t[:, None])
        s = _products(query + W, t, t < N, row, query, i, im, row, head, BLOCK_Q, BLOCK_K, PART) * size
        p = tl.where(seen, tl.exp(s - top[None, :]) * norm[None, :], 0.0)
        gp = _products(query + 2 * W, t, t < N, row, grad, i, im, W, head, BLOCK_Q, BLOCK_K, PART)
        gs = tl.where(within, p * (gp - product[None, :]) * size, 0.0)
        gv = tl.where(mine[:, None], tl.dot(p, g, gv, input_precision="tf32x3", out_dtype=DTYPE), gv)
        gk = tl.where(mine[:, None], tl.dot(gs, q, gk, input_precision="tf32x3", out_dtype=DTYPE), gk)
        begin = limit
    to = gqkv + W + place + t[:, None] * row + d[None, :]
    mask = (t < N)[:, None] & (d < head)[None, :]
    tl.store(to, gk, mask=mask)
    tl.store(to + W, gv, mask=mask)


def tile(head: int, is_double: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Constants and options for heads of this width: larger blocks spill."""
    block_d = max(next_power_of_2(head), PART)
    block_q = 32 if block_d <= (PART if is_double else 64) else 16
    block_k = 32 if block_d == PART and not is_double else 16
    blocks = {"BLOCK_Q": block_q, "BLOCK_K": block_k, "BLOCK_D": block_d, "PART": PART}
    # Without its limit ptxas may spill a few registers to fit one more program.
    return blocks, {"num_warps": 4 if block_d <= 128 else 8, "num_stages": 1, "maxnreg": 255}


def attention(qkv: Tensor, start: Tensor, end: Tensor, heads: int, causal: bool) -> Tensor:
    """qkv [N, 3 W]; start, end [N]: of each token's sequence -> [N, W]."""
    N, W = len(qkv), qkv.shape[1] // 3
    out, (blocks, options) = qkv.new_empty(N, W), tile(W // heads, qkv.dtype == torch.float64)
    scale = number_bits((W // heads) ** -0.5)
    launch(
        attention_kernel, (cdiv(N, blocks["BLOCK_Q"]), heads), qkv, start, end, out, scale, N, W, W // heads,
        CAUSAL=causal, **blocks, **options,
    )  # fmt: skip
    return out


def attention_backward(qkv: Tensor, go: Tensor, start: Tensor, end: Tensor, heads: int, causal: bool) -> tuple[Tensor, Tensor]:
    """go [N, W], the gradient of the outputs -> (the outputs once more, the gradient of qkv)."""
    N, W = go.shape
    out, gqkv, terms = go.new_empty(N, W), qkv.new_empty(N, 3 * W), go.new_empty(heads, 3, N)
    blocks, options = tile(W // heads, qkv.dtype == torch.float64)
    grid, scale = (cdiv(N, blocks["BLOCK_Q"]), heads), number_bits((W // heads) ** -0.5)
    constants = {"CAUSAL": causal, **blocks, **options}
    launch(attention_queries_kernel, grid, qkv, go, start, end, out, terms, gqkv, scale, N, W, W // heads, **constants)
    launch(attention_keys_kernel, grid, qkv, go, start, end, terms, gqkv, scale, N, W, W // heads, **constants)
    return out, gqkv


def attention_signatures(t: str) -> Iterator[tuple[Any, ...]]:
    """(kernel, type of its tensors, constants, options) to compile ahead of time."""
    for head, causal in ((16, False), (64, True))[: 2 if t == "*fp32" else 1]:
        blocks, options = tile(head, t == "*fp64")
        for kernel in (attention_kernel, attention_queries_kernel, attention_keys_kernel):
            yield kernel, t, {"CAUSAL": causal, **blocks}, options
