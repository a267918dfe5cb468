"""From a decoder's state to its next token, and what its logits say besides, on a GPU: BLOCK_V tokens at a time."""

import triton
import triton.language as tl

from ._math import log1p
from ._noise import pick
from ._philox import uniform4

WINDOW = tl.constexpr(1)  # of MIXUP; 0 for none
FULL = tl.constexpr(2)
EOS = tl.constexpr(2)
FIRST_VALUE = tl.constexpr(3)


@triton.jit
def _gumbel(row, draw, position, j, seed, V):
    """Gumbel noise of tokens j [BLOCK_V] of the rows' draws, [BLOCK_B, BLOCK_V]."""
    index = draw[:, None] * V + j[None, :]
    u0, u1, u2, u3 = uniform4(row[:, None] + index * 0, position, index // 4, seed)
    e = -log1p(pick(index, u0, u1, u2, u3) - 1.0)
    e = tl.where(e < 2.9802322387695312e-08, 2.9802322387695312e-08, e)  # 2^-25
    return -log1p(e - 1.0)


@triton.jit
def choose_token(
    x, head_w, head_b, values, logits, limit, b, row_mask, at, d_mask, noise_row, draw, position, inverse_temperature, seed, largest_draw,
    CONSTRAINED: tl.constexpr, SAMPLE: tl.constexpr, STORE_LOGITS: tl.constexpr, d: tl.constexpr, V: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """(token, largest logit, is there a NaN) [BLOCK_B]: the first of the largest scores, block by block."""
    best = tl.full([BLOCK_B], float("-inf"), tl.float32)
    max_logit = tl.full([BLOCK_B], float("-inf"), tl.float32)
    token = tl.zeros([BLOCK_B], tl.int64)
    has_nan = tl.zeros([BLOCK_B], tl.int32)
    if SAMPLE:
        invalid = (draw < 0) | (draw > largest_draw)
        has_nan = invalid.to(tl.int32)
    for v in range(0, V, BLOCK_V):
        j = v + tl.arange(0, BLOCK_V)
        vm = j < V
        wt = tl.load(head_w + j[None, :] * d + at[:, None], mask=d_mask[:, None] & vm[None, :], other=0.0)  # [DP, BLOCK_V]
        logit = tl.dot(x, wt, input_precision="tf32x3") + tl.load(head_b + j, mask=vm, other=0.0)[None, :]
        has_nan = has_nan | tl.max(tl.where(vm[None, :] & (logit != logit), 1, 0), 1)
        allowed = vm[None, :] & (b >= 0)[:, None]
        if CONSTRAINED:
            g = tl.load(values + j, mask=vm, other=0.0)
            allowed = allowed & (((j >= FIRST_VALUE)[None, :] & (g[None, :] <= limit[:, None])) | (j == EOS)[None, :])
        logit = tl.where(allowed, logit, float("-inf"))
        if STORE_LOGITS:
            tl.store(logits + b[:, None] * V + j[None, :], logit, mask=row_mask[:, None] & vm[None, :])
        score = logit
        if SAMPLE:
            score = logit * inverse_temperature + _gumbel(noise_row, tl.where(invalid, 0, draw), position, j, seed, V)
        score = tl.where(score == score, score, float("-inf"))  # beside a NaN argmax may take a column of padding
        top = tl.max(score, 1)
        first = v + tl.argmax(score, 1)
        token = tl.where(top > best, first.to(tl.int64), token)
        best = tl.where(top > best, top, best)
        top_logit = tl.max(logit, 1)
        max_logit = tl.where(top_logit > max_logit, top_logit, max_logit)
    return token, max_logit, has_nan


@triton.jit
def _largest_in_window(
    logits, token, half, b, row_mask, V: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """The largest logit of the value tokens near the chosen one."""
    largest = tl.full([BLOCK_B], float("-inf"), tl.float32)
    for v in range(0, V, BLOCK_V):
        j = v + tl.arange(0, BLOCK_V)
        logit = tl.load(logits + b[:, None] * V + j[None, :], mask=row_mask[:, None] & (j < V)[None, :], other=float("-inf"))
        inside = (tl.abs(j[None, :] - token[:, None]) <= half) & (j >= FIRST_VALUE)[None, :]
        top = tl.max(tl.where(inside, logit, float("-inf")), 1)
        largest = tl.where(top > largest, top, largest)
    return largest


@triton.jit
def read_logits(
    logits, embedding, values, token, max_logit, half, b, row_mask, at, d_mask,
    WINDOWED: tl.constexpr, MIXUP: tl.constexpr, d: tl.constexpr, V: tl.constexpr,
    BLOCK_B: tl.constexpr, DP: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """(the mixed embedding [BLOCK_B, DP], the windowed value [BLOCK_B]) of the stored logits."""
    window_max = max_logit
    if MIXUP == WINDOW:
        window_max = _largest_in_window(logits, token, half, b, row_mask, V, BLOCK_B, BLOCK_V)
    mix = tl.zeros([BLOCK_B, DP], tl.float32)
    total = tl.zeros([BLOCK_B], tl.float32)
    mix_total = tl.zeros([BLOCK_B], tl.float32)
    windowed = tl.zeros([BLOCK_B], tl.float32)
    for v in range(0, V, BLOCK_V):
        j = v + tl.arange(0, BLOCK_V)
        vm = j < V
        logit = tl.load(logits + b[:, None] * V + j[None, :], mask=row_mask[:, None] & vm[None, :], other=float("-inf"))
        e = tl.where(vm[None, :], tl.exp(logit - max_logit[:, None]), 0.0)
        near = tl.abs(j[None, :] - token[:, None]) <= half
        total += tl.sum(e, 1)
        if WINDOWED:
            windowed += tl.sum(tl.where(near, e * tl.load(values + j, mask=vm, other=0.0)[None, :], 0.0), 1)
        if MIXUP == WINDOW:
            special = (token < FIRST_VALUE)[:, None]
            e = tl.where(vm[None, :] & near & (j >= FIRST_VALUE)[None, :], tl.exp(logit - window_max[:, None]), 0.0)
            e = tl.where(special, tl.where(j[None, :] == token[:, None], 1.0, 0.0), e)
        if MIXUP > 0:
            mix_total += tl.sum(e, 1)
            rows = tl.load(embedding + j[:, None] * d + at[None, :], mask=vm[:, None] & d_mask[None, :], other=0.0)
            mix = tl.dot(e, rows, mix, input_precision="tf32x3")
    if MIXUP > 0:
        mix = mix / mix_total[:, None]
    return mix, windowed / total
