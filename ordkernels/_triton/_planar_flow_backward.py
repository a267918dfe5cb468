"""The backward of planar flows and of their inverse: one kernel, launched by `planar_flow` and `planar_flow_inverse`.

It holds the u, w and states of REGISTER_LAYERS layers in registers, so up to that K each byte is read once. Beyond, it goes through
the layers so many at a time, from the last, and each time rebuilds the state from the input z: K (K / REGISTER_LAYERS - 1) / 2 layers
are read again, mostly from L2. Exact: no state is ever recovered by subtraction.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import launch, output_like
from ._math import layer_gradients, layer_terms, log_det_slopes, tanh_sech2
from ._planar_flow import DTYPES, grouped, load_as, max_registers, offsets_and_masks, tile, with_strides
from ._sizes import cdiv

REGISTER_LAYERS = 4  # layers whose parameters and states are held in registers
PARTIALS = 512  # programs that each sum shared parameters' gradients over their tiles


@triton.jit
def _store_gradients(
    uk, wk, c, n2, slope, scale, pulled, gx, gaz, gbk, gu, gw, gb, layer, d, D, pm, gm, first, ACCUMULATE: tl.constexpr
):  # fmt: skip
    """A program with several tiles adds to what it alone wrote before, in order: no atomics."""
    guk, gwk = layer_gradients(uk, wk, c, n2, slope, scale, pulled, gx, gaz)
    po = layer[:, None] * D + d
    if ACCUMULATE:
        guk += tl.load(gu + po, mask=pm & (first == 0), other=0.0)
        gwk += tl.load(gw + po, mask=pm & (first == 0), other=0.0)
        gbk += tl.load(gb + layer, mask=gm & (first == 0), other=0.0)
    tl.store(gu + po, guk.to(gu.dtype.element_ty), mask=pm)
    tl.store(gw + po, gwk.to(gw.dtype.element_ty), mask=pm)
    tl.store(gb + layer, gbk.to(gb.dtype.element_ty), mask=gm)


@triton.jit
def _backward_tile(
    g, n, first, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n,
    K: tl.constexpr, MODE: tl.constexpr, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = act.dtype.element_ty
    d, g2, row, gm, pm, rm, zm = offsets_and_masks(g, n, G, N, D, BLOCK_D)
    d3 = d[:, None, :]
    gk = load_as(gz_out, (g2 * o_g + n[None, :] * o_n)[:, :, None] + d3, zm, ACC)
    gld = load_as(gl, row, rm, ACC)  # [BLOCK_G, BLOCK_N]
    CHUNKS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    for chunk in range(CHUNKS):
        k0 = (CHUNKS - 1 - chunk) * DEPTH
        zk = load_as(z, (g2 * z_g + n[None, :] * z_n)[:, :, None] + d3, zm, ACC)
        for j in range(k0):  # the state at layer k0
            uj, wj = load_as(u, g2 * u_g + j * u_k + d, pm, ACC), load_as(w, g2 * w_g + j * w_k + d, pm, ACC)
            c, _s, _x, _sp, _n2, _slope, scale = layer_terms(uj, wj, MODE)
            t, _h = tanh_sech2(load_as(act, row * K + j, rm, ACC))
            zk += (uj + c[:, None] * (wj * scale[:, None]))[:, None, :] * t[:, :, None]
        us, ws, states, acts = (), (), (), ()
        for i in tl.static_range(DEPTH):
            k = k0 + i
            more = k < K  # a layer past the last is one of zeros, which changes nothing
            uk, wk = load_as(u, g2 * u_g + k * u_k + d, pm & more, ACC), load_as(w, g2 * w_g + k * w_k + d, pm & more, ACC)
            ak = load_as(act, row * K + k, rm & more, ACC)
            us, ws, states, acts = us + (uk,), ws + (wk,), states + (zk,), acts + (ak,)  # noqa: RUF005  not Triton's language
            if i + 1 < DEPTH:
                c, _s, _x, _sp, _n2, _slope, scale = layer_terms(uk, wk, MODE)
                t, _h = tanh_sech2(ak)
                zk += (uk + c[:, None] * (wk * scale[:, None]))[:, None, :] * t[:, :, None]
        for i in tl.static_range(DEPTH - 1, -1, -1):
            k = k0 + i
            more = k < K
            uk, wk = us[i], ws[i]
            c, s, x, sp, n2, slope, scale = layer_terms(uk, wk, MODE)
            t, h = tanh_sech2(acts[i])
            by_a, by_x, _inv = log_det_slopes(t, h, s[:, None], x[:, None], sp[:, None], slope[:, None], MODE)
            uhat = uk + c[:, None] * (wk * scale[:, None])
            ga = tl.sum(gk * uhat[:, None, :], 2) * h + gld * by_a  # [BLOCK_G, BLOCK_N]
            pulled = tl.sum(t[:, :, None] * gk, 1)  # gradient of uhat [BLOCK_G, BLOCK_D]
            gaz = tl.sum(ga[:, :, None] * states[i], 1)
            _store_gradients(uk, wk, c, n2, slope, scale, pulled, tl.sum(gld * by_x, 1), gaz, tl.sum(ga, 1), gu, gw, gb,
                (slot * G + g) * K + k, d, D, pm & more, gm & more, first, ACCUMULATE)  # fmt: skip
            gk += ga[:, :, None] * wk[:, None, :]
    tl.store(gz + row[:, :, None] * D + d3, gk.to(gz.dtype.element_ty), mask=zm)


@triton.jit
def _inverse_backward_tile(
    g, n, first, slot, z, act, u, w, gz_in, gl, gz, gu, gw, gb, G, N, D,
    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n,
    K: tl.constexpr, MODE: tl.constexpr, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """By the implicit function theorem, from z_in on: the states come in the order in which they are needed."""
    ACC: tl.constexpr = act.dtype.element_ty
    d, g2, row, gm, pm, rm, zm = offsets_and_masks(g, n, G, N, D, BLOCK_D)
    d3 = d[:, None, :]
    zk = load_as(z, (g2 * z_g + n[None, :] * z_n)[:, :, None] + d3, zm, ACC)
    gk = load_as(gz_in, (g2 * o_g + n[None, :] * o_n)[:, :, None] + d3, zm, ACC)
    gld = load_as(gl, row, rm, ACC)
    for k in range(K):
        uk, wk = load_as(u, g2 * u_g + k * u_k + d, pm, ACC), load_as(w, g2 * w_g + k * w_k + d, pm, ACC)
        c, s, x, sp, n2, slope, scale = layer_terms(uk, wk, MODE)
        t, h = tanh_sech2(load_as(act, row * K + k, rm, ACC))
        by_a, by_x, inv = log_det_slopes(t, h, s[:, None], x[:, None], sp[:, None], slope[:, None], MODE)
        uhat = uk + c[:, None] * (wk * scale[:, None])
        gk += (gld * by_a)[:, :, None] * wk[:, None, :]
        gk -= (h * tl.sum(gk * uhat[:, None, :], 2) * inv)[:, :, None] * wk[:, None, :]  # the layer's inverse Jacobian, transposed
        ga = gld * by_a - tl.sum(gk * uhat[:, None, :], 2) * h
        pulled = -tl.sum(t[:, :, None] * gk, 1)
        gaz = tl.sum(ga[:, :, None] * zk, 1)
        _store_gradients(uk, wk, c, n2, slope, scale, pulled, tl.sum(gld * by_x, 1), gaz, tl.sum(ga, 1), gu, gw, gb,
            (slot * G + g) * K + k, d, D, pm, gm, first, ACCUMULATE)  # fmt: skip
        zk += uhat[:, None, :] * t[:, :, None]
    tl.store(gz + row[:, :, None] * D + d3, gk.to(gz.dtype.element_ty), mask=zm)


@triton.jit
def backward_kernel(
    z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, SLOTS,
    K: tl.constexpr, MODE: tl.constexpr, INVERSE: tl.constexpr, DEPTH: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, ACCUMULATE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """ACCUMULATE: SLOTS programs share a block of groups, each takes every SLOTS-th tile of its rows and writes to its own slot.

    WIDE: the last layer begins past 2^31 elements. Offsets of 64 bits would take the last registers of the others.
    """
    if WIDE:
        u_k, w_k = tl.cast(u_k, tl.int64), tl.cast(w_k, tl.int64)
    pid = tl.program_id(0)
    slot = (pid % SLOTS).to(tl.int64)
    g = (pid // SLOTS).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    n = tl.arange(0, BLOCK_N).to(tl.int64)
    if ACCUMULATE:
        for tile in range(pid % SLOTS, tl.cdiv(N, BLOCK_N), SLOTS):
            first = (tile == pid % SLOTS).to(tl.int32)
            m = tl.cast(tile, tl.int64) * BLOCK_N + n
            if INVERSE:
                _inverse_backward_tile(g, m, first, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, DEPTH, BLOCK_D, ACCUMULATE)  # fmt: skip
            else:
                _backward_tile(g, m, first, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, DEPTH, BLOCK_D, ACCUMULATE)  # fmt: skip
            tl.debug_barrier()  # what this tile stored is read again by the next one
    else:
        if INVERSE:
            _inverse_backward_tile(g, n, 1, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, DEPTH, BLOCK_D, ACCUMULATE)  # fmt: skip
        else:
            _backward_tile(g, n, 1, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, DEPTH, BLOCK_D, ACCUMULATE)  # fmt: skip


def launch_backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int, inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    K, D = u.shape[-2:]
    out = output_like(z)
    if z.numel() == 0:
        return out, torch.zeros_like(u, memory_format=torch.contiguous_format), w.new_zeros(w.shape), u.new_zeros(u.shape[:-1])
    shared, dtype, shape = u.dim() == 2, u.dtype, u.shape
    z, G, N, z_g, z_n = grouped(z, shared)
    gz, _, _, o_g, o_n = grouped(gz, shared)
    act, gl = act.contiguous(), gl.contiguous()
    u, u_g, u_k = with_strides(u)
    w, w_g, w_k = with_strides(w)
    block_g, block_n, block_d, warps = tile(N, D, z.dtype, True)
    tiles = cdiv(N, block_n)
    # One tile a program: gradients go straight out. Several: each program sums its own in fp32 or wider, then the slots are summed.
    slots = max(1, min(tiles, PARTIALS // cdiv(G, block_g)))
    accumulate = tiles > 1
    like = act if accumulate else u
    gu, gw, gb = like.new_empty(slots, G, K, D), like.new_empty(slots, G, K, D), like.new_empty(slots, G, K)
    launch(
        backward_kernel, (cdiv(G, block_g) * slots,),
        z, act, u, w, gz, gl, out, gu, gw, gb, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, slots,
        K, mode, inverse, min(K, REGISTER_LAYERS), block_g, block_n, block_d, accumulate, K * max(u_k, w_k) >= 1 << 31,
        num_warps=warps, num_stages=1, maxnreg=max_registers(False, accumulate if block_d <= 1024 else False),
    )  # fmt: skip
    if accumulate:
        gu, gw, gb = ((t.sum(0) if slots > 1 else t).to(dtype) for t in (gu, gw, gb))
    return out, gu.view(*shape), gw.view(*shape), gb.view(*shape[:-1])


def backward_signature(dtype: str, N: int, K: int, D: int, inverse: bool) -> tuple[Any, ...]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    p, acc = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
    block_g, block_n, block_d, warps = tile(N, D, DTYPES[dtype], True)
    accumulate = block_n < N
    values = {"K": K, "MODE": 1, "INVERSE": inverse, "DEPTH": min(K, REGISTER_LAYERS), "ACCUMULATE": accumulate, "WIDE": False}
    values |= {"BLOCK_G": block_g, "BLOCK_N": block_n, "BLOCK_D": block_d}
    grad = acc if accumulate else p
    arguments = dict(z=p, act=acc, u=p, w=p, gz_out=p, gl=acc, gz=p, gu=grad, gw=grad, gb=grad)
    arguments |= dict.fromkeys(("G", "N", "D", "z_g", "z_n", "u_g", "u_k", "w_g", "w_k", "o_g", "o_n", "SLOTS"), "i32")
    options = {"num_warps": warps, "num_stages": 1, "maxnreg": max_registers(False, accumulate)}
    return backward_kernel, arguments | dict.fromkeys(values, "constexpr"), values | ({"N": 1} if N == 1 else {}), options
