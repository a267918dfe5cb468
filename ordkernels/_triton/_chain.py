"""What fused chains of MLP denoisers share on a GPU: the denoiser on a tile of rows, and the noise."""

import triton
import triton.language as tl

from ._noise import EXPLICIT, GENERATED, draw_normals


@triton.jit
def mlp_denoiser(y, shift, times, w_in, w_out, bias, d, row_mask, d_mask, H, w_row, BLOCK_H: tl.constexpr):
    """W_o silu(W_x y + shift + times) + bias of y [BLOCK_B, BLOCK_D], one tile of hidden units at a time.

    shift [BLOCK_B] points to the rows' projected conditions, times to the step's.
    """
    h = tl.arange(0, BLOCK_H)
    out = tl.zeros([y.shape[0], y.shape[1]], tl.float32) + bias[None, :]
    for j in range(0, H, BLOCK_H):
        unit = j + h
        h_mask = unit < H
        wx = tl.load(w_in + unit[None, :] * w_row + d[:, None], mask=d_mask[:, None] & h_mask[None, :], other=0.0)  # [BLOCK_D, BLOCK_H]
        a = tl.load(shift[:, None] + unit[None, :], mask=row_mask[:, None] & h_mask[None, :], other=0.0)
        a += tl.load(times + unit, mask=h_mask, other=0.0)[None, :]
        a = tl.dot(y, wx, a, input_precision="tf32x3")  # [BLOCK_B, BLOCK_H]
        a = a / (1.0 + tl.exp(-a))
        wo = tl.load(w_out + d[None, :] * H + unit[:, None], mask=d_mask[None, :] & h_mask[:, None], other=0.0)  # [BLOCK_H, BLOCK_D]
        out = tl.dot(a, wo, out, input_precision="tf32x3")
    return out


@triton.jit
def noise_streams(row_ids, draw_ids, b, mask, SOURCE: tl.constexpr, HAS_DRAWS: tl.constexpr):
    """(row ids, draw ids) [BLOCK_B] of the rows' generated noise."""
    row = b
    draw = b * 0
    if SOURCE >= GENERATED:
        row = tl.load(row_ids + b, mask=mask, other=0)
        if HAS_DRAWS:
            draw = tl.load(draw_ids + b, mask=mask, other=0)
    return row, draw


@triton.jit
def add_noise(x, sigma, noise, offsets, mask, row, draw, step, seed, largest_draw, D, SOURCE: tl.constexpr, BLOCK_D: tl.constexpr):
    """x + sigma noise; where sigma is 0 no noise is read or generated."""
    if SOURCE == EXPLICIT:  # noqa: SIM102  decided at compile time
        if sigma != 0.0:
            x += sigma * tl.load(noise + offsets, mask=mask, other=0.0)
    if SOURCE >= GENERATED:  # noqa: SIM102
        if sigma != 0.0:
            x += sigma * draw_normals(row, draw, step, seed, largest_draw, D, SOURCE, BLOCK_D)
    return x
