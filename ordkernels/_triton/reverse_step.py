"""Reverse steps on a GPU: each byte read and written once, row-keyed noise generated in registers. `flow_step` is one kind of them.

`predict_x0` is the first half of a step: the same kernels with WHOLE = False.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ._diffusion import TILE, DiffusionRows, row_noise, tile_offsets
from ._launch import launch, output_like
from ._math import number, number_bits
from ._noise import NO_NOISE
from ._sizes import next_power_of_2
from ._step_coefficients import X0, host_coefficients, row_coefficients


@triton.jit
def _clip(x, limit, HAS_CLIP: tl.constexpr):
    if HAS_CLIP:
        x = tl.where(x < -limit, -limit, x)  # NaN stays
        x = tl.where(x > limit, limit, x)
    return x


@triton.jit(do_not_specialize=["seed", "step", "eta", "clip"])
def step_kernel(
    x, output, t, s, noise, row_ids, x_s, x0, c0, c1, d0, d1, d2, sigma, t_b, t_k, s_b, s_k, seed, step, eta, clip,
    R, K, D, tiles,
    PER_ROW: tl.constexpr, HAS_ETA: tl.constexpr, KIND: tl.constexpr, HAS_CLIP: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr,
    SOURCE: tl.constexpr, HAS_IDS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    _r, b, k, tile, at, rm, mask = tile_offsets(R, K, D, tiles, BLOCK_R, BLOCK_D)
    c0, c1, d0, d1, d2, sigma = row_coefficients(
        t, s, t_b, t_k, s_b, s_k, c0, c1, d0, d1, d2, sigma, eta, b, k, rm, PER_ROW, HAS_ETA, KIND, RECLIP, WHOLE, ACC
    )  # fmt: skip
    xv = tl.load(x + at, mask=mask, other=0.0).to(ACC)
    ov = tl.load(output + at, mask=mask, other=0.0).to(ACC)
    raw = ov
    if KIND != X0:
        raw = c0 * xv + c1 * ov
    est = _clip(raw, number(clip).to(ACC), HAS_CLIP)
    tl.store(x0 + at, est.to(x0.dtype.element_ty), mask=mask)
    if WHOLE:
        y = d0 * est + d1 * xv + d2 * ov
        if SOURCE != NO_NOISE:
            y += sigma * row_noise(noise, row_ids, at, mask, b, k, tile, rm, step, seed, D, SOURCE, HAS_IDS, BLOCK_D, ACC)
        tl.store(x_s + at, y.to(x_s.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed", "step", "eta", "clip"])
def step_backward_kernel(
    x, output, t, s, noise, row_ids, g_xs, g_x0, gx, go, gn, dots, c0, c1, d0, d1, d2, sigma, t_b, t_k, s_b, s_k,
    seed, step, eta, clip, R, K, D, tiles,
    PER_ROW: tl.constexpr, HAS_ETA: tl.constexpr, KIND: tl.constexpr, HAS_CLIP: tl.constexpr, RECLIP: tl.constexpr, WHOLE: tl.constexpr,
    SOURCE: tl.constexpr, HAS_IDS: tl.constexpr, HAS_GS: tl.constexpr, HAS_G0: tl.constexpr,
    WANT_X: tl.constexpr, WANT_O: tl.constexpr, WANT_N: tl.constexpr, DOTS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dots [tiles, R, DOTS], 0, 2 or 6 of them: the gradients of the row's coefficients from each tile of columns."""
    r, b, k, tile, at, rm, mask = tile_offsets(R, K, D, tiles, BLOCK_R, BLOCK_D)
    c0, c1, d0, d1, d2, sigma = row_coefficients(
        t, s, t_b, t_k, s_b, s_k, c0, c1, d0, d1, d2, sigma, eta, b, k, rm, PER_ROW, HAS_ETA, KIND, RECLIP, WHOLE, ACC
    )  # fmt: skip
    g = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    h = g
    if HAS_GS:
        g = tl.load(g_xs + at, mask=mask, other=0.0).to(ACC)
    if HAS_G0:
        h = tl.load(g_x0 + at, mask=mask, other=0.0).to(ACC)
    h += d0 * g
    limit = number(clip).to(ACC)
    if HAS_CLIP or DOTS > 0:
        xv = tl.load(x + at, mask=mask, other=0.0).to(ACC)
        ov = tl.load(output + at, mask=mask, other=0.0).to(ACC)
        raw = ov
        if KIND != X0:
            raw = c0 * xv + c1 * ov
        if HAS_CLIP:
            h = tl.where((raw >= -limit) & (raw <= limit), h, 0.0)
        if DOTS > 0:
            to = dots + (tile * R + r) * DOTS
            tl.store(to, tl.sum(h * xv, 1), mask=rm)
            tl.store(to + 1, tl.sum(h * ov, 1), mask=rm)
        if DOTS > 2:
            tl.store(to + 2, tl.sum(g * _clip(raw, limit, HAS_CLIP), 1), mask=rm)
            tl.store(to + 3, tl.sum(g * xv, 1), mask=rm)
            tl.store(to + 4, tl.sum(g * ov, 1), mask=rm)
            xi = g * 0.0
            if SOURCE != NO_NOISE:
                xi = row_noise(noise, row_ids, at, mask, b, k, tile, rm, step, seed, D, SOURCE, HAS_IDS, BLOCK_D, ACC)
            tl.store(to + 5, tl.sum(g * xi, 1), mask=rm)
    if WANT_X:
        tl.store(gx + at, (c0 * h + d1 * g).to(gx.dtype.element_ty), mask=mask)
    if WANT_O:
        tl.store(go + at, (c1 * h + d2 * g).to(go.dtype.element_ty), mask=mask)
    if WANT_N:
        tl.store(gn + at, (sigma * g).to(gn.dtype.element_ty), mask=mask)


class Step(NamedTuple):
    """What the schema of `reverse_step` has after x_t and output."""

    alpha_bar_t: Tensor | None
    alpha_bar_s: Tensor | None
    noise: Tensor | None
    row_ids: Tensor | None
    a_t: float
    a_s: float
    eta: float
    kind: int
    clip: float
    reclip: bool
    random: bool
    seed: int
    step: int

    def rows(self, x: Tensor) -> DiffusionRows:
        return DiffusionRows(x, ((self.alpha_bar_t, self.a_t), (self.alpha_bar_s, self.a_s)))

    def coefficients(self, rows: DiffusionRows, whole: bool) -> tuple[float, ...]:
        """Of all rows, where they do not have their own."""
        return (0.0,) * 6 if rows.per_row else host_coefficients(self.kind, self.a_t, self.a_s, self.eta, self.reclip, whole)

    def constants(self, rows: DiffusionRows, whole: bool, random: bool) -> tuple[Any, ...]:
        """PER_ROW, ..., HAS_IDS."""
        source = rows.source(self.noise, random)
        return rows.per_row, self.eta != 0, self.kind, self.clip != math.inf, self.reclip, whole, source, self.row_ids is not None

    def numbers(self) -> tuple[int, ...]:
        """seed, ..., clip."""
        return self.seed, self.step, number_bits(self.eta), number_bits(self.clip)


def launch_step(x: Tensor, output: Tensor, step: Step, *, whole: bool) -> tuple[Tensor, Tensor]:
    """(x_s, x0); x_s is empty where x0 alone is asked for."""
    x_s, x0 = output_like(x) if whole else x.new_empty(0), output_like(x)
    if x.numel() == 0:
        return x_s, x0
    x, output, rows = x.contiguous(), output.contiguous(), step.rows(x)
    noise, row_ids = (x if t is None else t.contiguous() for t in (step.noise, step.row_ids))
    launch(
        step_kernel, rows.grid(rows.R),
        x, output, *rows.levels, noise, row_ids, x_s, x0, *step.coefficients(rows, whole), *rows.strides, *step.numbers(),
        rows.R, rows.K, rows.D, rows.tiles, *step.constants(rows, whole, step.random), rows.block_r, rows.block_d, rows.tl_acc,
        num_warps=8,
    )  # fmt: skip
    return x_s, x0


def launch_step_backward(
    x: Tensor, output: Tensor, step: Step, g_xs: Tensor | None, g_x0: Tensor | None, *, wanted: tuple[bool, bool, bool], dots: int,
    whole: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, output and noise, as far as wanted, and the products with each row that the levels' gradients are made of."""
    gx, go, gn = (output_like(x) if want else x.new_empty(0) for want in wanted)
    rows = step.rows(x)
    if x.numel() == 0:
        return gx, go, gn, x.new_zeros((*x.shape[:-1], dots) if dots else 0, dtype=rows.acc)
    x, output, parts = x.contiguous(), output.contiguous(), rows.new_dots(x, dots)
    optional = [x if t is None else t.contiguous() for t in (step.noise, step.row_ids, g_xs, g_x0)]
    launch(
        step_backward_kernel, rows.grid(rows.R),
        x, output, *rows.levels, *optional, gx, go, gn, parts, *step.coefficients(rows, whole), *rows.strides, *step.numbers(),
        rows.R, rows.K, rows.D, rows.tiles, *step.constants(rows, whole, step.random and dots > 0),
        g_xs is not None, g_x0 is not None, *wanted, dots, rows.block_r, rows.block_d, rows.tl_acc, num_warps=8,
    )  # fmt: skip
    return gx, go, gn, parts[0] if rows.tiles == 1 or not dots else parts.sum(0)


def reverse_step(x_t: Tensor, output: Tensor, *step: Any) -> tuple[Tensor, Tensor]:
    return launch_step(x_t, output, Step(*step), whole=True)


def reverse_step_backward(
    x_t: Tensor, output: Tensor, alpha_bar_t: Tensor | None, alpha_bar_s: Tensor | None, noise: Tensor | None, row_ids: Tensor | None,
    g_xs: Tensor | None, g_x0: Tensor | None, *constants: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """constants: those of the step, then the mask of the gradients that are wanted."""
    *rest, grad_mask = constants
    wanted = bool(grad_mask & 1), bool(grad_mask & 2), bool(grad_mask & 16)
    step = Step(alpha_bar_t, alpha_bar_s, noise, row_ids, *rest)
    return launch_step_backward(x_t, output, step, g_xs, g_x0, wanted=wanted, dots=6 if grad_mask & 12 else 0, whole=True)


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    sizes = dict.fromkeys(("t_b", "t_k", "s_b", "s_k", "R", "K", "D", "tiles"), "i32")
    coefficients = dict.fromkeys(("c0", "c1", "d0", "d1", "d2", "sigma"), "fp32")
    for dtype, per_row, kind, eta, source, D in (
        ("fp32", False, 0, False, 0, 64), ("fp32", True, 2, True, 2, 64), ("bf16", True, 1, True, 1, 128),
        ("fp64", True, 0, True, 3, 30), ("fp32", True, 3, False, 0, 4096),
    ):  # fmt: skip
        p, is_double = f"*{dtype}", dtype == "fp64"
        acc = "*fp64" if is_double else "*fp32"
        block_d = min(next_power_of_2(D), TILE)
        values = {
            "PER_ROW": per_row, "HAS_ETA": eta, "KIND": kind, "HAS_CLIP": kind == 0, "RECLIP": is_double, "WHOLE": True,
            "SOURCE": source, "HAS_IDS": source >= 2,
            "BLOCK_R": TILE // block_d, "BLOCK_D": block_d, "ACC": tl.float64 if is_double else tl.float32,
        }  # fmt: skip
        base = (
            dict(x=p, output=p, t=acc, s=acc, noise=p, row_ids="*i64")
            | dict.fromkeys(("seed", "step", "eta", "clip"), "i64")
            | coefficients
            | sizes
        )
        yield step_kernel, base | dict(x_s=p, x0=p) | dict.fromkeys(values, "constexpr"), values, {"num_warps": 8}
        values = values | {"HAS_GS": True, "HAS_G0": True, "WANT_X": True, "WANT_O": True, "WANT_N": source == 1, "DOTS": 6 * per_row}
        grads = dict(g_xs=p, g_x0=p, gx=p, go=p, gn=p, dots=acc)
        yield step_backward_kernel, base | grads | dict.fromkeys(values, "constexpr"), values, {"num_warps": 8}
