"""What a Transformer layer on packed tokens does to rows between its matrix products, on a GPU.

A program has BLOCK_R whole rows of W features, padded to BLOCK_W: a sum, its dropout and the norms of it are one kernel. Gradients of a
norm's weight and bias are summed over a program's rows, then over programs.
"""

import triton
import triton.language as tl

from ._math import number, sigmoid
from ._philox import row_words

SILU, RELU = tl.constexpr(0), tl.constexpr(1)  # GELU is what remains
ATTENTION, FEED_FORWARD, MEMORY = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # dropouts of one layer


@triton.jit(do_not_specialize=["N", "S", "steps"])
def tokens_kernel(offsets, sequence, start, end, N, S, steps, BLOCK: tl.constexpr):
    """Each token's sequence, and where that starts and ends; within 0, ..., N whatever the offsets. Tokens behind the last sequence are
    alone, in sequence S - 1. steps: 2^steps >= S."""
    t = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = t < N
    low = tl.zeros([BLOCK], tl.int64)
    high = low + S
    for _ in range(steps):
        middle = (low + high) // 2
        there = tl.load(offsets + middle) <= t
        low, high = tl.where(there, middle, low), tl.where(there, high, middle)
    tl.store(sequence + t, low, mask=mask)
    first = tl.where(t < tl.load(offsets + S), tl.load(offsets + low), t)
    tl.store(start + t, tl.minimum(tl.maximum(first, 0), t), mask=mask)
    tl.store(end + t, tl.minimum(tl.maximum(tl.load(offsets + low + 1), t + 1), N), mask=mask)


@triton.jit
def _factors(ids, sequence, tile, kept, seed, step, threshold, IDS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr):
    """Of BLOCK_W features from tile [BLOCK_R] of 64 on, in the stream of the sequence's row id (reference/_dropout.py)."""
    row = sequence
    if IDS:
        row = tl.load(ids + sequence)
    TILES: tl.constexpr = BLOCK_W // 64 if BLOCK_W > 64 else 1
    block = tl.arange(0, TILES * 8).to(tl.int64)
    w0, w1, w2, w3 = row_words(row[:, None] + block[None, :] * 0, step, tile[:, None] * 8 + block[None, :], seed)
    # Feature f is v = f % 64 // 16, l = f % 16: word l % 2 * 2 + v // 2 of block l // 2, its upper half where v is odd.
    if BLOCK_W == 16:
        words = tl.join(w0, w2)
        bits = tl.reshape(words & 0xFFFF, [BLOCK_R, BLOCK_W])
    elif BLOCK_W == 32:
        words = tl.join(w0, w2)
        bits = tl.reshape(tl.permute(tl.join(words & 0xFFFF, words >> 16), (0, 3, 1, 2)), [BLOCK_R, BLOCK_W])
    else:
        words = tl.join(tl.join(w0, w1), tl.join(w2, w3))
        halves = tl.reshape(tl.join(words & 0xFFFF, words >> 16), [BLOCK_R, TILES, 8, 2, 2, 2])
        bits = tl.reshape(tl.permute(halves, (0, 1, 3, 5, 2, 4)), [BLOCK_R, BLOCK_W])
    return tl.where(bits.to(tl.int32) >= threshold, kept, 0.0)


@triton.jit
def _token_factors(
    ids, sequence, start, t, mask, W, kept, seed, step, threshold, IDS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr
):  # fmt: skip
    s = tl.load(sequence + t, mask=mask, other=0)
    tile = (t - tl.load(start + t, mask=mask, other=0)) * ((W + 63) // 64)
    return _factors(ids, s, tile, kept, seed, step, threshold, IDS, BLOCK_R, BLOCK_W)


@triton.jit
def _standard(x, mask, W, eps):
    """(x less its mean, 1 / its standard deviation) of each row."""
    c = tl.where(mask, x - (tl.sum(x, 1) / W)[:, None], 0.0)
    variance = tl.sum(c * c, 1) / W
    return c, tl.where(variance == float("inf"), float("nan"), 1.0 / tl.sqrt(variance + eps))  # an overflow tells no scale


@triton.jit
def _norm(x, weight, bias, f, mask, W, eps):
    """Columns behind W are 0 before it, and anything after it."""
    c, scale = _standard(x, mask, W, eps)
    w, b = tl.load(weight + f, mask=f < W, other=0.0), tl.load(bias + f, mask=f < W, other=0.0)
    return tl.where(mask, c * scale[:, None] * w[None, :] + b[None, :], 0.0)


@triton.jit
def _norm_backward(x, g, weight, partial, f, mask, W, eps):
    """The gradient of x; those of weight and bias, summed over the rows, go to partial [2, W]."""
    c, scale = _standard(x, mask, W, eps)
    h = tl.where(mask, c * scale[:, None], 0.0)
    gw = g * tl.load(weight + f, mask=f < W, other=0.0)[None, :]
    tl.store(partial + f, tl.sum(g * h, 0), mask=f < W)
    tl.store(partial + W + f, tl.sum(g, 0), mask=f < W)
    gx = (gw - (tl.sum(gw, 1) / W)[:, None] - h * (tl.sum(gw * h, 1) / W)[:, None]) * scale[:, None]
    return tl.where(mask, gx, 0.0)


@triton.jit
def _rows(N, W, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr):
    """(rows, features, elements, which of them exist)."""
    t = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    f = tl.arange(0, BLOCK_W)
    return t, f, t[:, None] * W + f[None, :], (t < N)[:, None] & (f < W)[None, :]


@triton.jit(do_not_specialize=["eps", "N"])
def norm_kernel(x, weight, bias, y, eps, N, W, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr):
    _t, f, at, mask = _rows(N, W, BLOCK_R, BLOCK_W)
    rows = tl.load(x + at, mask=mask, other=0.0)
    tl.store(y + at, _norm(rows, weight, bias, f, mask, W, number(eps).to(rows.dtype)), mask=mask)


@triton.jit(do_not_specialize=["eps", "N"])
def norm_backward_kernel(x, g, add, weight, bias, y, gx, partial, eps, N, W, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr):
    """g, the gradient of the norm of x -> gx = add + that of x, and y, the norm once more."""
    _t, f, at, mask = _rows(N, W, BLOCK_R, BLOCK_W)
    rows = tl.load(x + at, mask=mask, other=0.0)
    size = number(eps).to(rows.dtype)
    tl.store(y + at, _norm(rows, weight, bias, f, mask, W, size), mask=mask)
    partial += tl.program_id(0).to(tl.int64) * 2 * W
    through = _norm_backward(rows, tl.load(g + at, mask=mask, other=0.0), weight, partial, f, mask, W, size)
    tl.store(gx + at, tl.load(add + at, mask=mask, other=0.0) + through, mask=mask)


@triton.jit
def _add_memory(
    rows, memory, ids, sequence, t, f, mask, N, W, kept, seed, step, threshold,
    IDS: tl.constexpr, DROP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """What a sequence's memory adds is dropped for all its tokens alike."""
    s = tl.load(sequence + t, mask=t < N, other=0)
    added = tl.load(memory + s[:, None] * W + f[None, :], mask=mask, other=0.0)
    if DROP:
        added *= _factors(ids, s, s * 0, kept, seed, step + MEMORY, threshold, IDS, BLOCK_R, BLOCK_W)
    return rows + added


@triton.jit(do_not_specialize=["eps", "scale", "N", "seed", "step", "threshold"])
def middle_kernel(
    x, u, memory, first_weight, first_bias, second_weight, second_bias, sequence, start, ids, x2, inputs,
    eps, scale, N, W, seed, step, threshold,
    PRE: tl.constexpr, MEMORY: tl.constexpr, IDS: tl.constexpr, DROP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """u, what the attention adds -> z1 = x + drop(u), in place; then x2, and the inputs of the feed-forward part.

    Pre-norm: x2 = z1 + memory, stored where there is a memory, inputs = second(x2); post-norm: x2 = second(first(z1) + memory).
    """
    t, f, at, mask = _rows(N, W, BLOCK_R, BLOCK_W)
    rows = tl.load(u + at, mask=mask, other=0.0)
    size, kept = number(eps).to(rows.dtype), number(scale).to(rows.dtype)
    if DROP:
        rows *= _token_factors(ids, sequence, start, t, t < N, W, kept, seed, step, threshold, IDS, BLOCK_R, BLOCK_W)
    rows += tl.load(x + at, mask=mask, other=0.0)
    tl.store(u + at, rows, mask=mask)
    if not PRE:
        rows = _norm(rows, first_weight, first_bias, f, mask, W, size)
    if MEMORY:
        rows = _add_memory(rows, memory, ids, sequence, t, f, mask, N, W, kept, seed, step, threshold, IDS, DROP, BLOCK_R, BLOCK_W)
    if PRE:
        if MEMORY:
            tl.store(x2 + at, rows, mask=mask)
        tl.store(inputs + at, _norm(rows, second_weight, second_bias, f, mask, W, size), mask=mask)
    else:
        if MEMORY:
            rows = _norm(rows, second_weight, second_bias, f, mask, W, size)
        tl.store(x2 + at, rows, mask=mask)


@triton.jit(do_not_specialize=["eps", "scale", "N", "seed", "step", "threshold"])
def middle_backward_kernel(
    z1, memory, g3, gi, first_weight, first_bias, second_weight, second_bias, sequence, start, ids, inputs, gz, added, gm, partial,
    eps, scale, N, W, seed, step, threshold,
    PRE: tl.constexpr, MEMORY: tl.constexpr, IDS: tl.constexpr, DROP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """g3, gi: the gradients of x2 and of the feed-forward part's inputs -> gz of z1, and dropped in `added`, that of u.

    gm: of what the memory is added to, in post-norm (in pre-norm it is gz); inputs: once more; partial [programs, norms, 2, W].
    """
    t, f, at, mask = _rows(N, W, BLOCK_R, BLOCK_W)
    rows = tl.load(z1 + at, mask=mask, other=0.0)
    size, kept = number(eps).to(rows.dtype), number(scale).to(rows.dtype)
    norms: tl.constexpr = 2 if MEMORY and not PRE else 1
    partial += tl.program_id(0).to(tl.int64) * norms * 2 * W
    x2 = rows
    if not PRE:
        x2 = _norm(x2, first_weight, first_bias, f, mask, W, size)
    if MEMORY:
        x2 = _add_memory(x2, memory, ids, sequence, t, f, mask, N, W, kept, seed, step, threshold, IDS, DROP, BLOCK_R, BLOCK_W)
    g = tl.load(gi + at, mask=mask, other=0.0)
    if PRE:
        tl.store(inputs + at, _norm(x2, second_weight, second_bias, f, mask, W, size), mask=mask)
        g = _norm_backward(x2, g, second_weight, partial, f, mask, W, size)
    g += tl.load(g3 + at, mask=mask, other=0.0)
    if not PRE:
        if MEMORY:
            tl.store(inputs + at, _norm(x2, second_weight, second_bias, f, mask, W, size), mask=mask)
            g = _norm_backward(x2, g, second_weight, partial + 2 * W, f, mask, W, size)
            tl.store(gm + at, g, mask=mask)
        else:
            tl.store(inputs + at, x2, mask=mask)
        g = _norm_backward(rows, g, first_weight, partial, f, mask, W, size)
    tl.store(gz + at, g, mask=mask)
    if DROP:
        g *= _token_factors(ids, sequence, start, t, t < N, W, kept, seed, step, threshold, IDS, BLOCK_R, BLOCK_W)
        tl.store(added + at, g, mask=mask)


@triton.jit(do_not_specialize=["eps", "scale", "N", "seed", "step", "threshold"])
def last_kernel(
    x2, u, weight, bias, sequence, start, ids, y, eps, scale, N, W, seed, step, threshold,
    PRE: tl.constexpr, IDS: tl.constexpr, DROP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """u, what the feed-forward part adds -> y = z3 = x2 + drop(u), or in post-norm z3 in place of u, y its norm."""
    t, f, at, mask = _rows(N, W, BLOCK_R, BLOCK_W)
    rows = tl.load(u + at, mask=mask, other=0.0)
    if DROP:
        site, kept = step + FEED_FORWARD, number(scale).to(rows.dtype)
        rows *= _token_factors(ids, sequence, start, t, t < N, W, kept, seed, site, threshold, IDS, BLOCK_R, BLOCK_W)
    rows += tl.load(x2 + at, mask=mask, other=0.0)
    if not PRE:
        tl.store(u + at, rows, mask=mask)
        rows = _norm(rows, weight, bias, f, mask, W, number(eps).to(rows.dtype))
    tl.store(y + at, rows.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["eps", "scale", "N", "seed", "step", "threshold"])
def last_backward_kernel(
    z3, g, weight, sequence, start, ids, gz, added, partial, eps, scale, N, W, seed, step, threshold,
    PRE: tl.constexpr, IDS: tl.constexpr, DROP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """g, the gradient of y -> in post-norm gz, that of z3; and dropped in `added`, that of u."""
    t, f, at, mask = _rows(N, W, BLOCK_R, BLOCK_W)
    rows = tl.load(g + at, mask=mask, other=0.0)
    if not PRE:
        partial += tl.program_id(0).to(tl.int64) * 2 * W
        z = tl.load(z3 + at, mask=mask, other=0.0)
        rows = _norm_backward(z, rows, weight, partial, f, mask, W, number(eps).to(z.dtype))
        tl.store(gz + at, rows, mask=mask)
    if DROP:
        site, kept = step + FEED_FORWARD, number(scale).to(rows.dtype)
        rows *= _token_factors(ids, sequence, start, t, t < N, W, kept, seed, site, threshold, IDS, BLOCK_R, BLOCK_W)
        tl.store(added + at, rows, mask=mask)


@triton.jit(do_not_specialize=["scale", "N", "seed", "step", "threshold"])
def memory_backward_kernel(
    g, offsets, ids, gm, scale, N, W, seed, step, threshold, IDS: tl.constexpr, DROP: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """The gradient of 64 features of a sequence's memory: g [N, W] summed over its tokens."""
    s, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    f = tile * 64 + tl.arange(0, 64)
    begin = tl.maximum(tl.load(offsets + s), 0)
    end = tl.minimum(tl.load(offsets + s + 1), N)
    total = tl.zeros([64], g.dtype.element_ty)
    for first in range(begin, end, BLOCK_N):
        t = first + tl.arange(0, BLOCK_N)
        total += tl.sum(tl.load(g + t[:, None] * W + f[None, :], mask=(t < end)[:, None] & (f < W)[None, :], other=0.0), 0)
    if DROP:
        one = tl.zeros([1], tl.int64)
        kept = number(scale).to(total.dtype)
        total *= tl.sum(_factors(ids, one + s, one + tile, kept, seed, step + MEMORY, threshold, IDS, 1, 64), 0)
    tl.store(gm + s * W + f, total, mask=f < W)


@triton.jit
def _gelu_share(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["n"])
def activation_kernel(h, y, gy, n, KIND: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr):
    """n elements of h -> their activations; gy, the gradient of those, becomes that of h."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    x = tl.load(h + at, mask=mask, other=0.0)
    if KIND == SILU:
        s = sigmoid(x)
        tl.store(y + at, x * s, mask=mask)
        slope = s * (1.0 + x * (1.0 - s))
    elif KIND == RELU:
        tl.store(y + at, tl.where(x < 0, 0.0, x), mask=mask)  # NaN stays
        slope = tl.where(x <= 0, 0.0, 1.0).to(x.dtype)
    else:
        s = _gelu_share(x)
        tl.store(y + at, x * s, mask=mask)
        slope = s + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    if BACKWARD:
        tl.store(gy + at, slope * tl.load(gy + at, mask=mask, other=0.0), mask=mask)
