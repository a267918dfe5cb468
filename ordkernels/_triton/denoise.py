"""Noising, the estimate of x0 and reverse steps on a GPU: tiles of rows and columns, each byte read and written once.

Row-keyed noise is made in registers. With per-row levels the numbers of a row are made in fp64, as everywhere; single levels
become numbers on the host, and for fp64 tensors a level per row.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rng import normal4

EPS = tl.constexpr(0)
X0 = tl.constexpr(1)
V = tl.constexpr(2)
FLOW = tl.constexpr(3)
NONE = tl.constexpr(0)
GIVEN = tl.constexpr(1)
MADE = tl.constexpr(2)  # columns start at a block of four numbers
MADE_ANYWHERE = tl.constexpr(3)  # they need not: a block for every number

TILE = 1024  # elements of a program


@triton.jit
def _sample_numbers(t, FLOWS: tl.constexpr):
    if FLOWS:
        c0, c1 = 1.0 - t, t
    else:
        c0, c1 = tl.sqrt(t), tl.sqrt(1.0 - t)
    return c0, c1


@triton.jit
def _numbers(t, s, ETA: tl.constexpr, KIND: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr):
    """c0, c1, d0, d1, d2, sigma of x0 = clip(c0 x + c1 output), x_s = d0 x0 + d1 x + d2 output + sigma noise."""
    zero, one = t * 0.0, t * 0.0 + 1.0
    d0, d1, d2, sigma = zero, zero, zero, zero
    a, n = tl.sqrt(t), tl.sqrt(1.0 - t)
    e2 = zero  # eps = e0 x + e1 output + e2 x0
    if KIND == FLOW:
        c0, c1, e0, e1 = one, -t, zero, zero
        d1, d2 = one, s - t
    elif KIND == EPS:
        c0, c1, e0, e1 = one / a, -n / a, zero, one
    elif KIND == X0:
        c0, c1, e0, e1 = zero, one, one / n, -a / n
    else:
        c0, c1, e0, e1 = a, -n, n, a
    if WHOLE and KIND != FLOW:
        if RECLIP:
            e0, e1, e2 = one / n, zero, -a / n
        var = zero
        if ETA != 0:
            var = (ETA * ETA) * ((1.0 - s) / (1.0 - t)) * (1.0 - t / s)
        left = 1.0 - s - var
        q = tl.sqrt(tl.where(left < 0, 0.0, left))
        d0, d1, d2, sigma = tl.sqrt(s) + q * e2, q * e0, q * e1, tl.sqrt(var)
    return c0, c1, d0, d1, d2, sigma


@triton.jit
def _level(p, b, k, by_b, by_k, mask):
    return tl.load(p + b * by_b + k * by_k, mask=mask, other=0.5).to(tl.float64)


@triton.jit
def _normals(row_ids, b, first, q0, mask, step, seed, SOURCE: tl.constexpr, HAS_IDS: tl.constexpr, BLOCK_D: tl.constexpr):
    """[BLOCK_R, BLOCK_D] normals from lane first + 4 q0 on of rows b."""
    row = b
    if HAS_IDS:
        row = tl.load(row_ids + b, mask=mask, other=0)
    if SOURCE == MADE:
        block = (first // 4 + q0)[:, None] + tl.arange(0, BLOCK_D // 4)[None, :]
        n0, n1, n2, n3 = normal4(row[:, None] + block * 0, step, block, seed)
        out = tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))
    else:
        lane = (first + 4 * q0)[:, None] + tl.arange(0, BLOCK_D)[None, :]
        n0, n1, n2, n3 = normal4(row[:, None] + lane * 0, step, lane // 4, seed)
        word = lane % 4
        out = tl.where(word < 2, tl.where(word == 0, n0, n1), tl.where(word == 2, n2, n3))
    return out


@triton.jit
def _place(R, K, D, tiles, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows r = b K + k and columns of this program: r, b, k, tile, offsets and masks."""
    pid = tl.program_id(0).to(tl.int64)
    tile = pid % tiles
    r = pid // tiles * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    rm = r < R
    return r, r // K, r % K, tile, r[:, None] * D + d[None, :], rm, rm[:, None] & (d < D)[None, :]


@triton.jit
def _clip(x, CLIP: tl.constexpr):
    if CLIP is not None:
        x = tl.where(x < -CLIP, -CLIP, x)  # NaN goes through
        x = tl.where(x > CLIP, CLIP, x)
    return x


@triton.jit
def _row_numbers(
    t, s, t_b, t_k, s_b, s_k, c0, c1, d0, d1, d2, sigma, b, k, rm,
    PER_ROW: tl.constexpr, ETA: tl.constexpr, KIND: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The six numbers as [BLOCK_R, 1]."""
    if PER_ROW:
        at = _level(t, b, k, t_b, t_k, rm)
        to = _level(s, b, k, s_b, s_k, rm)
        c0, c1, d0, d1, d2, sigma = _numbers(at, to, ETA, KIND, RECLIP, WHOLE)
        c0, c1, d0 = c0[:, None].to(ACC), c1[:, None].to(ACC), d0[:, None].to(ACC)
        d1, d2, sigma = d1[:, None].to(ACC), d2[:, None].to(ACC), sigma[:, None].to(ACC)
    else:  # and one return for both: all of a function's returns must have one type
        zero = (b[:, None] * 0).to(ACC)
        c0, c1, d0, d1, d2, sigma = zero + c0, zero + c1, zero + d0, zero + d1, zero + d2, zero + sigma
    return c0, c1, d0, d1, d2, sigma


@triton.jit(do_not_specialize=["seed", "step"])
def step_kernel(
    x, output, t, s, noise, row_ids, x_s, x0, c0, c1, d0, d1, d2, sigma, t_b, t_k, s_b, s_k, seed, step,
    R, K, D, tiles,
    PER_ROW: tl.constexpr, ETA: tl.constexpr, KIND: tl.constexpr, CLIP: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr,
    SOURCE: tl.constexpr, HAS_IDS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    _r, b, k, tile, at, rm, mask = _place(R, K, D, tiles, BLOCK_R, BLOCK_D)
    c0, c1, d0, d1, d2, sigma = _row_numbers(
        t, s, t_b, t_k, s_b, s_k, c0, c1, d0, d1, d2, sigma, b, k, rm, PER_ROW, ETA, KIND, RECLIP, WHOLE, ACC
    )  # fmt: skip
    xv = tl.load(x + at, mask=mask, other=0.0).to(ACC)
    ov = tl.load(output + at, mask=mask, other=0.0).to(ACC)
    raw = ov
    if KIND != X0:
        raw = c0 * xv + c1 * ov
    est = _clip(raw, CLIP)
    tl.store(x0 + at, est.to(x0.dtype.element_ty), mask=mask)
    if WHOLE:
        y = d0 * est + d1 * xv + d2 * ov
        if SOURCE == GIVEN:
            y += sigma * tl.load(noise + at, mask=mask, other=0.0).to(ACC)
        if SOURCE >= MADE:
            y += sigma * _normals(row_ids, b, k * D, tile * (BLOCK_D // 4), rm, step, seed, SOURCE, HAS_IDS, BLOCK_D).to(ACC)
        tl.store(x_s + at, y.to(x_s.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed", "step"])
def step_backward_kernel(
    x, output, t, s, noise, row_ids, g_xs, g_x0, gx, go, gn, dots, c0, c1, d0, d1, d2, sigma, t_b, t_k, s_b, s_k,
    seed, step, R, K, D, tiles,
    PER_ROW: tl.constexpr, ETA: tl.constexpr, KIND: tl.constexpr, CLIP: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr,
    SOURCE: tl.constexpr, HAS_IDS: tl.constexpr, HAS_GS: tl.constexpr, HAS_G0: tl.constexpr,
    WANT_X: tl.constexpr, WANT_O: tl.constexpr, WANT_N: tl.constexpr, DOTS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dots [tiles, R, DOTS], 0, 2 or 6 of them: the gradients of the row's numbers from each tile of columns."""
    r, b, k, tile, at, rm, mask = _place(R, K, D, tiles, BLOCK_R, BLOCK_D)
    c0, c1, d0, d1, d2, sigma = _row_numbers(
        t, s, t_b, t_k, s_b, s_k, c0, c1, d0, d1, d2, sigma, b, k, rm, PER_ROW, ETA, KIND, RECLIP, WHOLE, ACC
    )  # fmt: skip
    g = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    h = g
    if HAS_GS:
        g = tl.load(g_xs + at, mask=mask, other=0.0).to(ACC)
    if HAS_G0:
        h = tl.load(g_x0 + at, mask=mask, other=0.0).to(ACC)
    h += d0 * g
    if (CLIP is not None) or DOTS > 0:
        xv = tl.load(x + at, mask=mask, other=0.0).to(ACC)
        ov = tl.load(output + at, mask=mask, other=0.0).to(ACC)
        raw = ov
        if KIND != X0:
            raw = c0 * xv + c1 * ov
        if CLIP is not None:
            h = tl.where((raw >= -CLIP) & (raw <= CLIP), h, 0.0)
        if DOTS > 0:
            to = dots + (tile * R + r) * DOTS
            tl.store(to, tl.sum(h * xv, 1), mask=rm)
            tl.store(to + 1, tl.sum(h * ov, 1), mask=rm)
        if DOTS > 2:
            tl.store(to + 2, tl.sum(g * _clip(raw, CLIP), 1), mask=rm)
            tl.store(to + 3, tl.sum(g * xv, 1), mask=rm)
            tl.store(to + 4, tl.sum(g * ov, 1), mask=rm)
            xi = g * 0.0
            if SOURCE == GIVEN:
                xi = tl.load(noise + at, mask=mask, other=0.0).to(ACC)
            if SOURCE >= MADE:
                xi = _normals(row_ids, b, k * D, tile * (BLOCK_D // 4), rm, step, seed, SOURCE, HAS_IDS, BLOCK_D).to(ACC)
            tl.store(to + 5, tl.sum(g * xi, 1), mask=rm)
    if WANT_X:
        tl.store(gx + at, (c0 * h + d1 * g).to(gx.dtype.element_ty), mask=mask)
    if WANT_O:
        tl.store(go + at, (c1 * h + d2 * g).to(go.dtype.element_ty), mask=mask)
    if WANT_N:
        tl.store(gn + at, (sigma * g).to(gn.dtype.element_ty), mask=mask)


@triton.jit
def _two_numbers(t, t_b, t_k, c0, c1, b, k, rm, PER_ROW: tl.constexpr, FLOWS: tl.constexpr, ACC: tl.constexpr):
    if PER_ROW:
        c0, c1 = _sample_numbers(_level(t, b, k, t_b, t_k, rm), FLOWS)
        c0, c1 = c0[:, None].to(ACC), c1[:, None].to(ACC)
    else:
        zero = (b[:, None] * 0).to(ACC)
        c0, c1 = zero + c0, zero + c1
    return c0, c1


@triton.jit
def sample_kernel(
    x0, noise, t, out, c0, c1, t_b, t_k, R, K, D, tiles,
    PER_ROW: tl.constexpr, FLOWS: tl.constexpr, X_PER_B: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    _r, b, k, tile, at, rm, mask = _place(R, K, D, tiles, BLOCK_R, BLOCK_D)
    c0, c1 = _two_numbers(t, t_b, t_k, c0, c1, b, k, rm, PER_ROW, FLOWS, ACC)
    xat = at
    if X_PER_B:
        xat = b[:, None] * D + (tile * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    xv = tl.load(x0 + xat, mask=mask, other=0.0).to(ACC)
    y = c0 * xv + c1 * tl.load(noise + at, mask=mask, other=0.0).to(ACC)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def sample_backward_kernel(
    x0, noise, t, g, gx, gn, dots, c0, c1, t_b, t_k, B, K, D, tiles,
    PER_ROW: tl.constexpr, FLOWS: tl.constexpr, X_PER_B: tl.constexpr, WANT_X: tl.constexpr, WANT_N: tl.constexpr, DOTS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program takes rows b with all their copies k, so that the gradient of an x0 [B, D] is summed in order."""
    b, _b, _k, tile, xat, bm, xmask = _place(B, 1, D, tiles, BLOCK_R, BLOCK_D)
    d = tile * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    for k in range(K):
        r = b * K + k
        at = r[:, None] * D + d[None, :]
        m0, m1 = _two_numbers(t, t_b, t_k, c0, c1, b, b * 0 + k, bm, PER_ROW, FLOWS, ACC)
        gv = tl.load(g + at, mask=xmask, other=0.0).to(ACC)
        if WANT_N:
            tl.store(gn + at, (m1 * gv).to(gn.dtype.element_ty), mask=xmask)
        if WANT_X:
            if X_PER_B:
                total += m0 * gv
            else:
                tl.store(gx + at, (m0 * gv).to(gx.dtype.element_ty), mask=xmask)
        if DOTS > 0:
            xp = xat if X_PER_B else at
            to = dots + (tile * B * K + r) * 2
            tl.store(to, tl.sum(gv * tl.load(x0 + xp, mask=xmask, other=0.0).to(ACC), 1), mask=bm)
            tl.store(to + 1, tl.sum(gv * tl.load(noise + at, mask=xmask, other=0.0).to(ACC), 1), mask=bm)
    if WANT_X and X_PER_B:
        tl.store(gx + xat, total.to(gx.dtype.element_ty), mask=xmask)


def _host_numbers(kind: int, t: float, s: float, eta: float, reclip: bool, whole: bool) -> tuple[float, ...]:
    """`_numbers` for one level."""
    if kind == FLOW.value:
        return 1.0, -t, 0.0, 1.0, s - t, 0.0
    a, n = math.sqrt(t), math.sqrt(1 - t)
    r = 1 / n if n else math.inf
    c0, c1 = {EPS.value: (1 / a, -n / a), X0.value: (0.0, 1.0), V.value: (a, -n)}[kind]
    if not whole:
        return c0, c1, 0.0, 0.0, 0.0, 0.0
    e = {EPS.value: (0.0, 1.0, 0.0), X0.value: (r, -a * r, 0.0), V.value: (n, a, 0.0)}[kind]
    e0, e1, e2 = (r, 0.0, -a * r) if reclip else e
    var = eta**2 * ((1 - s) / (1 - t)) * (1 - t / s) if eta and t < 1 else (math.nan if eta else 0.0)
    left = 1 - s - var
    q = math.sqrt(left) if left > 0 else (left if left != left else 0.0)
    return c0, c1, math.sqrt(s) + q * e2, q * e0, q * e1, math.sqrt(var) if var >= 0 or var != var else math.nan


class _Rows:
    """Rows [B, D] or [B, K, D], their levels, and the tiles over them."""

    def __init__(self, rows: Tensor, levels: tuple[tuple[Tensor | None, float], ...]) -> None:
        self.B, self.K, self.D = rows.shape[0], rows.shape[1] if rows.dim() == 3 else 1, rows.shape[-1]
        self.R = self.B * self.K
        wide = rows.dtype == torch.float64
        self.acc, self.tl_acc = (torch.float64, tl.float64) if wide else (torch.float32, tl.float32)
        self.per_row = wide or any(t is not None for t, _ in levels)  # a kernel's numbers are fp32
        self.levels, self.strides = [], []
        for t, number in levels:
            if self.per_row and t is None:
                t = rows.new_full((), number, dtype=torch.float64).expand(rows.shape[:-1])
            self.levels.append(rows if t is None else t)
            self.strides += [0, 0] if t is None else [t.stride(0), t.stride(1) if t.dim() == 2 else 0]
        self.block_d = min(max(4, triton.next_power_of_2(self.D)), TILE)
        self.block_r = max(1, TILE // self.block_d)
        self.tiles = triton.cdiv(self.D, self.block_d)

    def grid(self, rows: int) -> tuple[int]:
        return (triton.cdiv(rows, self.block_r) * self.tiles,)

    def source(self, noise: Tensor | None, random: bool) -> int:
        if noise is not None:
            return GIVEN.value
        return (MADE.value if self.K == 1 or self.D % 4 == 0 else MADE_ANYWHERE.value) if random else NONE.value

    def dots(self, rows: Tensor, n: int) -> Tensor:
        return rows.new_empty((self.tiles, *rows.shape[:-1], n) if n else (1, 0), dtype=self.acc)


def _step(
    x: Tensor, output: Tensor, t: Tensor | None, s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None, a_t: float, a_s: float,
    eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int, whole: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x_s, x0 = x.new_empty(x.shape if whole else 0), x.new_empty(x.shape)
    if x.numel() == 0:
        return x_s, x0
    x, output = x.contiguous(), output.contiguous()
    rows = _Rows(x, ((t, a_t), (s, a_s)))
    numbers = (0.0,) * 6 if rows.per_row else _host_numbers(kind, a_t, a_s, eta, reclip, whole)
    with torch.cuda.device_of(x):
        step_kernel[rows.grid(rows.R)](
            x, output, *rows.levels, x if noise is None else noise.contiguous(), x if row_ids is None else row_ids.contiguous(), x_s, x0,
            *numbers, *rows.strides, seed, step, rows.R, rows.K, rows.D, rows.tiles,
            rows.per_row, eta, kind, None if clip == math.inf else clip, reclip, whole, rows.source(noise, random), row_ids is not None,
            rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
        )  # fmt: skip
    return x_s, x0


def _step_backward(
    x: Tensor, output: Tensor, t: Tensor | None, s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None, g_xs: Tensor | None,
    g_x0: Tensor | None, a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int,
    want_x: bool, want_o: bool, want_n: bool, dots: int, whole: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    gx, go, gn = (x.new_empty(x.shape if want else 0) for want in (want_x, want_o, want_n))
    if x.numel() == 0:
        return (
            gx,
            go,
            gn,
            x.new_zeros((*x.shape[:-1], dots) if dots else 0, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32),
        )
    x, output = x.contiguous(), output.contiguous()
    rows = _Rows(x, ((t, a_t), (s, a_s)))
    numbers = (0.0,) * 6 if rows.per_row else _host_numbers(kind, a_t, a_s, eta, reclip, whole)
    parts = rows.dots(x, dots)
    given = [x if g is None else g.contiguous() for g in (noise, row_ids, g_xs, g_x0)]
    with torch.cuda.device_of(x):
        step_backward_kernel[rows.grid(rows.R)](
            x, output, *rows.levels, *given, gx, go, gn, parts, *numbers, *rows.strides, seed, step, rows.R, rows.K, rows.D, rows.tiles,
            rows.per_row, eta, kind, None if clip == math.inf else clip, reclip, whole, rows.source(noise, random and dots > 0),
            row_ids is not None, g_xs is not None, g_x0 is not None, want_x, want_o, want_n, dots,
            rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
        )  # fmt: skip
    return gx, go, gn, parts[0] if rows.tiles == 1 or not dots else parts.sum(0)


def reverse_step(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _step(x_t, output, alpha_bar_t, alpha_bar_s, noise, row_ids, a_t, a_s, eta, kind, clip, reclip, random, seed, step, True)


def reverse_step_backward(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    g_xs: Tensor | None, g_x0: Tensor | None,
    a_t: float, a_s: float, eta: float, kind: int, clip: float, reclip: bool, random: bool, seed: int, step: int, wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _step_backward(
        x_t, output, alpha_bar_t, alpha_bar_s, noise, row_ids, g_xs, g_x0, a_t, a_s, eta, kind, clip, reclip, random, seed, step,
        bool(wanted & 1), bool(wanted & 2), bool(wanted & 16), 6 if wanted & 12 else 0, True,
    )  # fmt: skip


def predict_x0(x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, a: float, kind: int, clip: float) -> Tensor:
    return _step(x_t, output, alpha_bar, alpha_bar, None, None, a, 1.0, 0.0, kind, clip, False, False, 0, 0, False)[1]


def predict_x0_backward(
    x_t: Tensor, output: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, clip: float, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    gx, go, _, dots = _step_backward(
        x_t, output, alpha_bar, alpha_bar, None, None, None, g, a, 1.0, 0.0, kind, clip, False, False, 0, 0,
        bool(wanted & 1), bool(wanted & 2), False, 2 if wanted & 4 else 0, False,
    )  # fmt: skip
    return gx, go, dots


def _two(kind: int, t: float) -> tuple[float, float]:
    return (1 - t, t) if kind else (math.sqrt(t), math.sqrt(1 - t))


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, a: float, kind: int) -> Tensor:
    out = noise.new_empty(noise.shape)
    if out.numel() == 0:
        return out
    x0, noise = x0.contiguous(), noise.contiguous()
    rows = _Rows(noise, ((alpha_bar, a),))
    with torch.cuda.device_of(noise):
        sample_kernel[rows.grid(rows.R)](
            x0, noise, rows.levels[0], out, *_two(kind, a), *rows.strides, rows.R, rows.K, rows.D, rows.tiles,
            rows.per_row, kind == 1, x0.dim() < noise.dim(), rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
        )  # fmt: skip
    return out


def q_sample_backward(
    x0: Tensor, noise: Tensor, alpha_bar: Tensor | None, g: Tensor | None, a: float, kind: int, wanted: int
) -> tuple[Tensor, Tensor, Tensor]:
    gx, gn = x0.new_empty(x0.shape if wanted & 1 else 0), noise.new_empty(noise.shape if wanted & 2 else 0)
    rows = _Rows(noise, ((alpha_bar, a),))
    n = 2 if wanted & 4 else 0
    if noise.numel() == 0 or g is None:
        return gx.zero_(), gn.zero_(), noise.new_zeros((*noise.shape[:-1], n) if n else 0, dtype=rows.acc)
    x0, noise, g = x0.contiguous(), noise.contiguous(), g.contiguous()
    parts = rows.dots(noise, n)
    with torch.cuda.device_of(noise):
        sample_backward_kernel[rows.grid(rows.B)](
            x0, noise, rows.levels[0], g, gx, gn, parts, *_two(kind, a), *rows.strides, rows.B, rows.K, rows.D, rows.tiles,
            rows.per_row, kind == 1, x0.dim() < noise.dim(), bool(wanted & 1), bool(wanted & 2), n,
            rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
        )  # fmt: skip
    return gx, gn, parts[0] if rows.tiles == 1 or not n else parts.sum(0)


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    warps, sizes = {"num_warps": 8}, dict.fromkeys(("R", "K", "D", "tiles"), "i32")
    six, strides = dict.fromkeys(("c0", "c1", "d0", "d1", "d2", "sigma"), "fp32"), dict.fromkeys(("t_b", "t_k", "s_b", "s_k"), "i32")
    for dtype, per_row, kind, eta, source, D in (
        ("fp32", False, 0, 0.0, 0, 64), ("fp32", True, 2, 1.0, 2, 64), ("bf16", True, 1, 0.5, 1, 128),
        ("fp64", True, 0, 1.0, 3, 30), ("fp32", True, 3, 0.0, 0, 4096),
    ):  # fmt: skip
        p, wide = f"*{dtype}", dtype == "fp64"
        level, sums, acc = "*fp64" if wide else "*fp32", "*fp64" if wide else "*fp32", tl.float64 if wide else tl.float32
        block_d = min(triton.next_power_of_2(D), TILE)
        blocks = {"BLOCK_R": TILE // block_d, "BLOCK_D": block_d, "ACC": acc}
        values = {
            "PER_ROW": per_row,
            "ETA": eta,
            "KIND": kind,
            "CLIP": 3.0 if kind == 0 else None,
            "RECLIP": wide,
            "WHOLE": True,
            "SOURCE": source,
            "HAS_IDS": source >= 2,
        }
        values |= blocks
        base = dict(x=p, output=p, t=level, s=level, noise=p, row_ids="*i64", seed="i64", step="i64") | six | strides | sizes
        yield step_kernel, base | dict(x_s=p, x0=p) | dict.fromkeys(values, "constexpr"), values, warps
        wants = {"HAS_GS": True, "HAS_G0": True, "WANT_X": True, "WANT_O": True, "WANT_N": source == 1, "DOTS": 6 if per_row else 0}
        grads = dict(g_xs=p, g_x0=p, gx=p, go=p, gn=p, dots=sums)
        yield step_backward_kernel, base | grads | dict.fromkeys(values | wants, "constexpr"), values | wants, warps
        some = {"PER_ROW": per_row, "FLOWS": kind == 3, "X_PER_B": per_row} | blocks
        base = dict(x0=p, noise=p, t=level, c0="fp32", c1="fp32", t_b="i32", t_k="i32", K="i32", D="i32", tiles="i32")
        yield sample_kernel, base | dict(out=p, R="i32") | dict.fromkeys(some, "constexpr"), some, warps
        some = some | {"WANT_X": True, "WANT_N": True, "DOTS": 2 if per_row else 0}
        yield sample_backward_kernel, base | dict(g=p, gx=p, gn=p, dots=sums, B="i32") | dict.fromkeys(some, "constexpr"), some, warps
