"""The forward of planar flows and of their inverse: one kernel, launched by `planar_flow` and `planar_flow_inverse`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import launch, output_like
from ._math import layer_terms, log_abs_det, solve_layer, tanh_sech2
from ._planar_flow import DTYPES, grouped, load_as, max_registers, offsets_and_masks, tile, with_strides
from ._sizes import cdiv

UNROLL = 8  # layers that the kernel unrolls; more run in a loop


@triton.jit
def _parameters(u, w, b, u_g, u_k, w_g, w_k, b_g, b_k, g, k, d, pm, gm, ACC: tl.constexpr):
    """u, w [BLOCK_G, BLOCK_D] and b [BLOCK_G] of layer k."""
    k = tl.cast(k, tl.int64)
    uk = load_as(u, g[:, None] * u_g + k * u_k + d, pm, ACC)
    wk = load_as(w, g[:, None] * w_g + k * w_k + d, pm, ACC)
    return uk, wk, load_as(b, g * b_g + k * b_k, gm, ACC)


@triton.jit
def _layer(zk, ld, uk, wk, bk, MODE: tl.constexpr, INVERSE: tl.constexpr):
    """One layer, either way: (z, log_det, activation)."""
    c, s, x, sp, _n2, _slope, scale = layer_terms(uk, wk, MODE)
    a = tl.sum(zk * wk[:, None, :], 2) + bk[:, None]  # [BLOCK_G, BLOCK_N]
    if INVERSE:
        a = solve_layer(a, s[:, None])
    t, h = tanh_sech2(a)
    step = (uk + c[:, None] * (wk * scale[:, None]))[:, None, :] * t[:, :, None]
    if INVERSE:
        zk -= step
    else:
        zk += step
    return zk, ld + log_abs_det(t, h, s[:, None], x[:, None], sp[:, None], MODE), a


@triton.jit
def forward_kernel(
    z, u, w, b, out, log_det, act, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, b_g, b_k,
    K: tl.constexpr, MODE: tl.constexpr, INVERSE: tl.constexpr, UNROLLED: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Forward, or inverse (the layers backwards, a monotone equation solved in each).

    Nothing is stored before the next layer's loads, which the compiler could not move up past a store.
    """
    tiles = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    g = (pid // tiles).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    n = (pid % tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d, g2, row, gm, pm, rm, zm = offsets_and_masks(g, n, G, N, D, BLOCK_D)
    zk = load_as(z, (g2 * z_g + n[None, :] * z_n)[:, :, None] + d[:, None, :], zm, log_det.dtype.element_ty)  # [BLOCK_G, BLOCK_N, BLOCK_D]
    ld = tl.zeros([BLOCK_G, BLOCK_N], zk.dtype)
    ACC: tl.constexpr = zk.dtype
    if UNROLLED:
        acts = ()
        for i in tl.static_range(K):
            uk, wk, bk = _parameters(u, w, b, u_g, u_k, w_g, w_k, b_g, b_k, g, i, d, pm, gm, ACC)
            zk, ld, a = _layer(zk, ld, uk, wk, bk, MODE, INVERSE)
            acts = acts + (a,)  # noqa: RUF005  not Triton's language
        for i in tl.static_range(K):
            tl.store(act + row * K + i, acts[i], mask=rm)
    else:
        uk, wk, bk = _parameters(u, w, b, u_g, u_k, w_g, w_k, b_g, b_k, g, K - 1 if INVERSE else 0, d, pm, gm, ACC)
        for i in range(K):
            k = K - 1 - i if INVERSE else i
            more = i + 1 < K
            u1, w1, b1 = _parameters(
                u, w, b, u_g, u_k, w_g, w_k, b_g, b_k, g, k - 1 if INVERSE else k + 1, d, pm & more, gm & more, ACC
            )  # fmt: skip
            zk, ld, a = _layer(zk, ld, uk, wk, bk, MODE, INVERSE)
            tl.store(act + row * K + k, a, mask=rm)
            uk, wk, bk = u1, w1, b1
    tl.store(out + row[:, :, None] * D + d[:, None, :], zk.to(out.dtype.element_ty), mask=zm)
    tl.store(log_det + row, ld, mask=rm)


def launch_forward(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    K, D = u.shape[-2:]
    acc = torch.float64 if z.dtype == torch.float64 else torch.float32
    out = output_like(z)
    *rows, _ = z.shape
    log_det, act = z.new_empty(*rows, dtype=acc), z.new_empty(*rows, K, dtype=acc)
    if z.numel() == 0:
        return out, log_det, act
    z, G, N, z_g, z_n = grouped(z, u.dim() == 2)
    u, u_g, u_k = with_strides(u)
    w, w_g, w_k = with_strides(w)
    b_g, b_k = (b.stride(0), b.stride(1)) if b.dim() == 2 else (0, b.stride(0))
    block_g, block_n, block_d, warps = tile(N, D, z.dtype, False)
    launch(
        forward_kernel, (cdiv(G, block_g) * cdiv(N, block_n),),
        z, u, w, b, out, log_det, act, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, b_g, b_k,
        K, mode, inverse, _unrolled(K, inverse), block_g, block_n, block_d,
        num_warps=warps, num_stages=1, maxnreg=max_registers(inverse, False),
    )  # fmt: skip
    return out, log_det, act


def _unrolled(K: int, inverse: bool) -> bool:
    return K <= UNROLL and not inverse  # the inverse is a loop already


def forward_signature(dtype: str, N: int, K: int, D: int, inverse: bool) -> tuple[Any, ...]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    p, acc = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
    block_g, block_n, block_d, warps = tile(N, D, DTYPES[dtype], False)
    values = {"K": K, "MODE": 1, "INVERSE": inverse, "UNROLLED": _unrolled(K, inverse)}
    values |= {"BLOCK_G": block_g, "BLOCK_N": block_n, "BLOCK_D": block_d}
    arguments = dict(z=p, u=p, w=p, b=p, out=p, log_det=acc, act=acc)
    arguments |= dict.fromkeys(("G", "N", "D", "z_g", "z_n", "u_g", "u_k", "w_g", "w_k", "b_g", "b_k"), "i32")
    options = {"num_warps": warps, "num_stages": 1, "maxnreg": max_registers(inverse, False)}
    return forward_kernel, arguments | dict.fromkeys(values, "constexpr"), values | ({"N": 1} if N == 1 else {}), options
