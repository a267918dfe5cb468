"""A layer of the value decoder on a GPU: one position of BLOCK_B rows, their keys and values cached."""

import triton
import triton.language as tl


@triton.jit
def _linear(x, w, b, at, d_mask, d: tl.constexpr):
    """x [BLOCK_B, DP], w [d, d] -> x w^T + b."""
    wt = tl.load(w + at[None, :] * d + at[:, None], mask=d_mask[:, None] & d_mask[None, :], other=0.0)  # [in, out]
    return tl.dot(x, wt, input_precision="tf32x3") + tl.load(b + at, mask=d_mask, other=0.0)[None, :]


@triton.jit
def layer_norm(x, w, at, d_mask, d: tl.constexpr, eps):
    """Weight, then bias, at w; padded columns are 0 and stay so."""
    c = tl.where(d_mask[None, :], x - (tl.sum(x, 1) / d)[:, None], 0.0)
    variance = tl.sum(c * c, 1) / d
    scale = tl.where(variance == float("inf"), float("nan"), 1.0 / tl.sqrt(variance + eps))  # an overflow tells no scale
    return c * scale[:, None] * tl.load(w + at, mask=d_mask, other=0.0)[None, :] + tl.load(w + d + at, mask=d_mask, other=0.0)[None, :]


@triton.jit
def _attend(q, keys, vals, row, column, row_mask, i, steps, BLOCK_B: tl.constexpr, HP: tl.constexpr, HDP: tl.constexpr):
    """q [BLOCK_B, DP], scaled, over positions 0, ..., i of the rows' caches, by a running softmax."""
    DP: tl.constexpr = HP * HDP
    top = tl.full([BLOCK_B, HP], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_B, HP], tl.float32)
    out = tl.zeros([BLOCK_B, HP, HDP], tl.float32)
    for t in range(i + 1):
        at = (row * steps + t)[:, None] * DP + column[None, :]
        k = tl.load(keys + at, mask=row_mask[:, None], other=0.0)
        v = tl.load(vals + at, mask=row_mask[:, None], other=0.0)
        s = tl.sum(tl.reshape(q * k, [BLOCK_B, HP, HDP]), 2)
        now = tl.where(top > s, top, s)
        keep, e = tl.exp(top - now), tl.exp(s - now)
        total = total * keep + e
        out = out * keep[:, :, None] + e[:, :, None] * tl.reshape(v, [BLOCK_B, HP, HDP])
        top = now
    return tl.reshape(out / total[:, :, None], [BLOCK_B, DP])


@triton.jit
def _feed_forward(x, y, w1, at, d_mask, GELU: tl.constexpr, d: tl.constexpr, units: tl.constexpr, BLOCK_F: tl.constexpr):
    """x + W_2 activation(W_1 y + b_1) + b_2, BLOCK_F units at a time; W_1, b_1, W_2, b_2 one after another at w1."""
    w2 = w1 + units * d + units
    x += tl.load(w2 + d * units + at, mask=d_mask, other=0.0)[None, :]
    for first in range(0, units, BLOCK_F):
        unit = first + tl.arange(0, BLOCK_F)
        unit_mask = unit < units
        h = tl.load(w1 + unit[None, :] * d + at[:, None], mask=d_mask[:, None] & unit_mask[None, :], other=0.0)  # [DP, BLOCK_F]
        h = tl.dot(y, h, input_precision="tf32x3") + tl.load(w1 + units * d + unit, mask=unit_mask, other=0.0)[None, :]
        if GELU:  # noqa: SIM108
            h = 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
        else:
            h = tl.where(h < 0, 0.0, h)
        u = tl.load(w2 + at[None, :] * units + unit[:, None], mask=d_mask[None, :] & unit_mask[:, None], other=0.0)  # [BLOCK_F, DP]
        x = tl.dot(h, u, x, input_precision="tf32x3")
    return x


@triton.jit
def decoder_layer(
    x, w, constants, keys, vals, row, i, steps, scale, eps, at, column, row_mask, d_mask,
    PRE: tl.constexpr, GELU: tl.constexpr, d: tl.constexpr, units: tl.constexpr,
    BLOCK_B: tl.constexpr, HP: tl.constexpr, HDP: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """x [BLOCK_B, DP] at position i; row: the rows' places in the caches and in constants, what attention to the memory gives."""
    b_q = w + 3 * d * d  # biases of queries, keys, values
    w_o = b_q + 3 * d
    w_1 = w_o + d * d + d
    norms = w_1 + 2 * units * d + units + d
    y = x
    if PRE:
        y = layer_norm(y, norms, at, d_mask, d, eps)
    here = (row * steps + i)[:, None] * (HP * HDP) + column[None, :]
    tl.store(keys + here, _linear(y, w + d * d, b_q + d, at, d_mask, d), mask=row_mask[:, None])
    tl.store(vals + here, _linear(y, w + 2 * d * d, b_q + 2 * d, at, d_mask, d), mask=row_mask[:, None])
    q = _linear(y, w, b_q, at, d_mask, d) * scale
    tl.debug_barrier()
    y = _attend(q, keys, vals, row, column, row_mask, i, steps, BLOCK_B, HP, HDP)
    x += _linear(y, w_o, w_o + d * d, at, d_mask, d)
    if not PRE:
        x = layer_norm(x, norms, at, d_mask, d, eps)
    x += tl.load(constants + row[:, None] * d + at[None, :], mask=row_mask[:, None] & d_mask[None, :], other=0.0)
    if PRE:
        y = layer_norm(x, norms + 2 * d, at, d_mask, d, eps)
    else:
        x = layer_norm(x, norms + 4 * d, at, d_mask, d, eps)
        y = x
    x = _feed_forward(x, y, w_1, at, d_mask, GELU, d, units, BLOCK_F)
    if not PRE:
        x = layer_norm(x, norms + 2 * d, at, d_mask, d, eps)
    return x
