"""Guided steps of the posterior on a GPU: tiles of rows and columns, each byte read and written once.

A branch whose gamma is 0 is not read. Row-keyed noise is generated in registers;
coefficients of per-row levels are computed in fp64.
"""

import math
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._diffusion import TILE, DiffusionRows, load_level, row_noise, tile_offsets
from ._launch import launch, output_like
from ._math import number, number_bits
from ._noise import EXPLICIT, NO_NOISE
from ._sizes import next_power_of_2


@triton.jit
def _posterior(
    t, s, t_b, t_k, s_b, s_k, d0, d1, sigma, b, k, rm, PER_ROW: tl.constexpr, BETA: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """d0, d1, sigma as [BLOCK_R, 1]."""
    if PER_ROW:
        at, to = load_level(t, b, k, t_b, t_k, rm), load_level(s, b, k, s_b, s_k, rm)
        done = (to == 1.0) & (at == at)  # x_s is the estimate of x0, whatever number t is, also 1
        at = tl.where(done, 0.0, at)
        ratio, rest = (to - at) / to, (1.0 - to) / (1.0 - at)
        d0, d1 = tl.sqrt(to) * (ratio / (1.0 - at)), tl.sqrt(at / to) * rest
        if BETA:
            rest = rest * 0.0 + 1.0
        sigma = tl.where(done, 0.0, tl.sqrt(ratio * rest))
        d0, d1, sigma = d0[:, None].to(ACC), d1[:, None].to(ACC), sigma[:, None].to(ACC)
    else:  # and one return for both: all of a function's returns must have one type
        zero = (b[:, None] * 0).to(ACC)
        d0, d1, sigma = zero + d0, zero + d1, zero + sigma
    return d0, d1, sigma


@triton.jit
def _combine(f_un, f_cp, f_tf, gamma_cp, gamma_tf, at, mask, HAS_CP: tl.constexpr, HAS_TF: tl.constexpr, ACC: tl.constexpr):
    u = tl.load(f_un + at, mask=mask, other=0.0).to(ACC)
    f = u
    if HAS_CP:
        f += number(gamma_cp).to(ACC) * (tl.load(f_cp + at, mask=mask, other=0.0).to(ACC) - u)
    if HAS_TF:
        f += number(gamma_tf).to(ACC) * (tl.load(f_tf + at, mask=mask, other=0.0).to(ACC) - u)
    return f


@triton.jit(do_not_specialize=["seed", "step", "gamma_cp", "gamma_tf"])
def guided_kernel(
    x, f_un, f_cp, f_tf, t, s, noise, row_ids, x_s, f_hat, d0, d1, sigma, t_b, t_k, s_b, s_k, seed, step, gamma_cp, gamma_tf,
    R, K, D, tiles,
    PER_ROW: tl.constexpr, BETA: tl.constexpr, HAS_CP: tl.constexpr, HAS_TF: tl.constexpr, SOURCE: tl.constexpr, HAS_IDS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    _r, b, k, tile, at, rm, mask = tile_offsets(R, K, D, tiles, BLOCK_R, BLOCK_D)
    d0, d1, sigma = _posterior(t, s, t_b, t_k, s_b, s_k, d0, d1, sigma, b, k, rm, PER_ROW, BETA, ACC)
    f = _combine(f_un, f_cp, f_tf, gamma_cp, gamma_tf, at, mask, HAS_CP, HAS_TF, ACC)
    tl.store(f_hat + at, f.to(f_hat.dtype.element_ty), mask=mask)
    y = d0 * f + d1 * tl.load(x + at, mask=mask, other=0.0).to(ACC)
    if SOURCE != NO_NOISE:
        xi = row_noise(noise, row_ids, at, mask, b, k, tile, rm, step, seed, D, SOURCE, HAS_IDS, BLOCK_D, ACC)
        y += tl.where(sigma == 0.0, 0.0, sigma * xi)
    tl.store(x_s + at, y.to(x_s.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed", "step", "gamma_cp", "gamma_tf"])
def guided_backward_kernel(
    x, f_un, f_cp, f_tf, t, s, noise, row_ids, g_xs, g_f, gx, gu, gc, gt, gn, dots, d0, d1, sigma,
    t_b, t_k, s_b, s_k, seed, step, gamma_cp, gamma_tf, R, K, D, tiles,
    PER_ROW: tl.constexpr, BETA: tl.constexpr, HAS_CP: tl.constexpr, HAS_TF: tl.constexpr, SOURCE: tl.constexpr, HAS_IDS: tl.constexpr,
    HAS_GS: tl.constexpr, HAS_GF: tl.constexpr, GRAD_MASK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dots [tiles, R, 3]: the gradients of d0, d1, sigma from each tile of columns."""
    r, b, k, tile, at, rm, mask = tile_offsets(R, K, D, tiles, BLOCK_R, BLOCK_D)
    d0, d1, sigma = _posterior(t, s, t_b, t_k, s_b, s_k, d0, d1, sigma, b, k, rm, PER_ROW, BETA, ACC)
    g = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    h = g
    if HAS_GS:
        g = tl.load(g_xs + at, mask=mask, other=0.0).to(ACC)
    if HAS_GF:
        h = tl.load(g_f + at, mask=mask, other=0.0).to(ACC)
    h += d0 * g
    if GRAD_MASK & 48:
        to = dots + (tile * R + r) * 3
        tl.store(to, tl.sum(g * _combine(f_un, f_cp, f_tf, gamma_cp, gamma_tf, at, mask, HAS_CP, HAS_TF, ACC), 1), mask=rm)
        tl.store(to + 1, tl.sum(g * tl.load(x + at, mask=mask, other=0.0).to(ACC), 1), mask=rm)
        xi = g * 0.0
        if SOURCE != NO_NOISE:
            xi = row_noise(noise, row_ids, at, mask, b, k, tile, rm, step, seed, D, SOURCE, HAS_IDS, BLOCK_D, ACC)
        if SOURCE == EXPLICIT:
            xi = tl.where(sigma == 0.0, 0.0, xi)
        tl.store(to + 2, tl.sum(g * xi, 1), mask=rm)
    if GRAD_MASK & 1:
        tl.store(gx + at, (d1 * g).to(gx.dtype.element_ty), mask=mask)
    if GRAD_MASK & 2:
        tl.store(gu + at, ((1.0 - number(gamma_cp) - number(gamma_tf)).to(ACC) * h).to(gu.dtype.element_ty), mask=mask)
    if GRAD_MASK & 4:
        to_cp = tl.zeros([BLOCK_R, BLOCK_D], ACC)
        if HAS_CP:
            to_cp = number(gamma_cp).to(ACC) * h
        tl.store(gc + at, to_cp.to(gc.dtype.element_ty), mask=mask)
    if GRAD_MASK & 8:
        to_tf = tl.zeros([BLOCK_R, BLOCK_D], ACC)
        if HAS_TF:
            to_tf = number(gamma_tf).to(ACC) * h
        tl.store(gt + at, to_tf.to(gt.dtype.element_ty), mask=mask)
    if GRAD_MASK & 64:
        tl.store(gn + at, tl.where(sigma == 0.0, 0.0, sigma * g).to(gn.dtype.element_ty), mask=mask)


def _host_coefficients(t: float, s: float, beta: bool) -> tuple[float, float, float]:
    """`_posterior` for one level."""
    if s == 1 and t == t:
        return 1.0, 0.0, 0.0
    if t == 1:
        return math.nan, math.nan, math.nan
    ratio, rest = (s - t) / s, (1 - s) / (1 - t)
    variance = ratio if beta else ratio * rest
    sigma = math.nan if variance < 0 else math.sqrt(variance)
    return math.sqrt(s) * (ratio / (1 - t)), math.sqrt(t / s) * rest, sigma


def _common(
    x: Tensor, un: Tensor, cp: Tensor, tf: Tensor, t: Tensor | None, s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    a_t: float, a_s: float, beta: bool,
) -> tuple[DiffusionRows, list[Tensor], tuple[float, float, float]]:  # fmt: skip
    rows = DiffusionRows(x, ((t, a_t), (s, a_s)))
    tensors = [x.contiguous(), un.contiguous(), cp.contiguous(), tf.contiguous(), *rows.levels]
    tensors += [x if a is None else a.contiguous() for a in (noise, row_ids)]
    return rows, tensors, (0.0,) * 3 if rows.per_row else _host_coefficients(a_t, a_s, beta)  # type: ignore[return-value]


def guided_posterior_step(
    x_t: Tensor, f_un: Tensor, f_cp: Tensor, f_tf: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None,
    row_ids: Tensor | None, a_t: float, a_s: float, gamma_cp: float, gamma_tf: float, beta: bool, random: bool, seed: int, step: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    x_s, f_hat = output_like(x_t), output_like(x_t)
    if x_t.numel() == 0:
        return x_s, f_hat
    rows, tensors, coefficients = _common(x_t, f_un, f_cp, f_tf, alpha_bar_t, alpha_bar_s, noise, row_ids, a_t, a_s, beta)
    launch(
        guided_kernel, rows.grid(rows.R),
        *tensors, x_s, f_hat, *coefficients, *rows.strides,
        seed, step, number_bits(gamma_cp), number_bits(gamma_tf), rows.R, rows.K, rows.D, rows.tiles,
        rows.per_row, beta, gamma_cp != 0, gamma_tf != 0, rows.source(noise, random), row_ids is not None,
        rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
    )  # fmt: skip
    return x_s, f_hat


def guided_posterior_step_backward(
    x_t: Tensor, f_un: Tensor, f_cp: Tensor, f_tf: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None,
    row_ids: Tensor | None, g_xs: Tensor | None, g_f: Tensor | None,
    a_t: float, a_s: float, gamma_cp: float, gamma_tf: float, beta: bool, random: bool, seed: int, step: int, grad_mask: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grads = [output_like(x_t) if grad_mask & bit else x_t.new_empty(0) for bit in (1, 2, 4, 8, 64)]
    rows, tensors, coefficients = _common(x_t, f_un, f_cp, f_tf, alpha_bar_t, alpha_bar_s, noise, row_ids, a_t, a_s, beta)
    n = 3 if grad_mask & 48 else 0
    if x_t.numel() == 0:
        return (*grads, x_t.new_zeros((*x_t.shape[:-1], n) if n else 0, dtype=rows.acc))  # type: ignore[return-value]
    parts = rows.new_dots(x_t, n)
    optional = [x_t if g is None else g.contiguous() for g in (g_xs, g_f)]
    launch(
        guided_backward_kernel, rows.grid(rows.R),
        *tensors, *optional, *grads, parts, *coefficients, *rows.strides,
        seed, step, number_bits(gamma_cp), number_bits(gamma_tf), rows.R, rows.K, rows.D, rows.tiles,
        rows.per_row, beta, gamma_cp != 0, gamma_tf != 0, rows.source(noise, random and n > 0), row_ids is not None,
        g_xs is not None, g_f is not None, grad_mask, rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
    )  # fmt: skip
    return (*grads, parts[0] if rows.tiles == 1 or not n else parts.sum(0))  # type: ignore[return-value]


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    warps = {"num_warps": 8}
    coefficients = dict.fromkeys(("d0", "d1", "sigma"), "fp32") | dict.fromkeys(("seed", "step", "gamma_cp", "gamma_tf"), "i64")
    coefficients |= dict.fromkeys(("t_b", "t_k", "s_b", "s_k", "R", "K", "D", "tiles"), "i32")
    for dtype, per_row, source, D in (
        ("fp32", False, 0, 64), ("fp32", False, 2, 64), ("fp32", True, 2, 64), ("bf16", True, 1, 128), ("fp64", True, 3, 30),
        ("fp32", True, 2, 4096),
    ):  # fmt: skip
        p, is_double = f"*{dtype}", dtype == "fp64"
        sums, acc = "*fp64" if is_double else "*fp32", tl.float64 if is_double else tl.float32
        block_d = min(next_power_of_2(D), TILE)
        blocks = {"BLOCK_R": TILE // block_d, "BLOCK_D": block_d, "ACC": acc}
        values = {"PER_ROW": per_row, "BETA": per_row, "HAS_CP": True, "HAS_TF": True, "SOURCE": source, "HAS_IDS": source >= 2} | blocks
        base = dict(x=p, f_un=p, f_cp=p, f_tf=p, t=sums, s=sums, noise=p, row_ids="*i64") | coefficients
        yield guided_kernel, base | dict(x_s=p, f_hat=p) | dict.fromkeys(values, "constexpr"), values, warps
        wants = {"HAS_GS": True, "HAS_GF": True, "GRAD_MASK": (63 if per_row else 15) | (64 if source == 1 else 0)}
        grads = dict(g_xs=p, g_f=p, gx=p, gu=p, gc=p, gt=p, gn=p, dots=sums)
        yield guided_backward_kernel, base | grads | dict.fromkeys(values | wants, "constexpr"), values | wants, warps
