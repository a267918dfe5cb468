"""The softmax of logits [R, V] over a window around each row's largest one.

It is computed again wherever it is used, [BLOCK_R, BLOCK_V] of it at a time, from terms that a backward with many blocks keeps.
"""

import triton
import triton.language as tl

BLOCK_R, BLOCK_V = 16, 32  # larger ones spill
PROGRAMS = 256  # that share a table's gradient


@triton.jit
def _largest(x, rows, row_mask, V, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """(largest logit, its first place, is there no softmax), each [BLOCK_R]."""
    best = tl.full([BLOCK_R], float("-inf"), tl.float32)
    at = tl.zeros([BLOCK_R], tl.int32)
    nan = tl.zeros([BLOCK_R], tl.int32)
    for v0 in range(0, V, BLOCK_V):
        j = v0 + tl.arange(0, BLOCK_V)
        t = tl.load(x + rows[:, None] * V + j[None, :], mask=row_mask[:, None] & (j < V)[None, :], other=float("-inf")).to(tl.float32)
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
def window_exps(x, rows, row_mask, j, V, lo, hi, best):
    """exp(x - max) inside the window, else 0: [BLOCK_R, BLOCK_V]."""
    inside = (j[None, :] >= lo[:, None]) & (j[None, :] < hi[:, None]) & row_mask[:, None] & (j < V)[None, :]
    t = tl.load(x + rows[:, None] * V + j[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    return tl.where(inside, tl.exp(t - best[:, None]), 0.0)


@triton.jit
def _normalizer(x, rows, row_mask, V, lo, hi, best, undefined, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """1 / sum of the exps [BLOCK_R], NaN where there is no softmax."""
    total = tl.zeros([BLOCK_R], tl.float32)
    for v0 in range(0, V, BLOCK_V):
        total += tl.sum(window_exps(x, rows, row_mask, v0 + tl.arange(0, BLOCK_V), V, lo, hi, best), 1)
    return tl.where(undefined, float("nan"), 1 / tl.where(row_mask & (~undefined), total, 1.0))


@triton.jit
def softmax_terms(x, rows, row_mask, V, first, half, ALL: tl.constexpr, MIXUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr):
    """What a row's softmax needs: (lo, hi, max, norm), normalised over its window (MIXUP) or over everything."""
    best, at, undefined = _largest(x, rows, row_mask, V, BLOCK_R, BLOCK_V)
    undefined = undefined & row_mask
    best = tl.where(undefined | (~row_mask), 0.0, best)
    lo, hi = _window(at, V, first, half, ALL, MIXUP)
    lo, hi = tl.where(undefined, 0, lo), tl.where(undefined, V, hi)
    if MIXUP:
        norm = _normalizer(x, rows, row_mask, V, lo, hi, best, undefined, BLOCK_R, BLOCK_V)
    else:
        norm = _normalizer(x, rows, row_mask, V, at * 0, at * 0 + V, best, undefined, BLOCK_R, BLOCK_V)
    return lo, hi, best, norm
