"""Planar flows with the hypernetwork fused in: in the forward a layer's parameters are computed and used on chip, and never materialized.

A program owns BLOCK_B rows of z ``[B, D]``. Layer k: ``u, w [BLOCK_B, D]`` are two products of h's rows with that layer's weights,
then the flow step. fp32 products take "tf32x3" (three tensor-core products of split operands, about as exact as fp32; "ieee"
would leave the tensor cores), 16-bit inputs one product, exact in fp32.

The backward, and the forward of fp64, of ``[B, N, D]`` and of D > 256, take a slab of rows at a time: its parameters by a matrix
product, the plain flow's kernels, then the gradients of h and weight by two more, summed over slabs in order (no atomics: the
same bits every time). A slab and its gradients hold at most 1/8 of what all parameters would take, or 16 MB if that is more, so they
mostly stay in L2. (One backward kernel with products and flow together spilled 3 to 13 KB a thread on sm_90 and took minutes
to compile: 3 tensor-core products for each fp32 one, six products a layer, K states.)

Multiplications at B = 65536, K = 4, D = H = 64: 4.3 GFLOP forward (13 in tf32), three times 4.3 backward; bytes 50 MB forward. Predicted
on an H200: 0.05 ms forward, bound by L2 reads of weights (132 KB for each 32 rows), 0.5 ms backward. Not yet measured.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import launch, output_like
from ._math import layer_terms, log_abs_det, tanh_sech2
from ._sizes import cdiv, next_power_of_2
from .planar_flow import planar_flow, planar_flow_backward

WORKSPACE = 16 << 20  # bytes


@triton.jit
def _parameters(h, weight, bias, k, r, rm, d, D, H, h_r, w_r, ACC: tl.constexpr, WIDEN: tl.constexpr, BLOCK_H: tl.constexpr):
    """u, w [BLOCK_B, BLOCK_D] and b [BLOCK_B] of layer k."""
    first = k * (2 * D + 1)
    dm = d < D
    uk = tl.zeros([r.shape[0], d.shape[0]], ACC)
    wk = tl.zeros([r.shape[0], d.shape[0]], ACC)
    bk = tl.zeros([r.shape[0]], ACC)
    for start in range(0, H, BLOCK_H):
        e = start + tl.arange(0, BLOCK_H)
        em = e < H
        hh = tl.load(h + r[:, None] * h_r + e[None, :], mask=rm[:, None] & em[None, :], other=0.0)  # [BLOCK_B, BLOCK_H]
        at = weight + (first + d).to(tl.int64)[None, :] * w_r + e[:, None]  # [BLOCK_H, BLOCK_D]
        tm = em[:, None] & dm[None, :]
        wu = tl.load(at, mask=tm, other=0.0)
        ww = tl.load(at + D.to(tl.int64) * w_r, mask=tm, other=0.0)
        wb = tl.load(weight + (first + 2 * D).to(tl.int64) * w_r + e, mask=em, other=0.0)
        if WIDEN:
            hh, wu, ww = hh.to(ACC), wu.to(ACC), ww.to(ACC)
        uk = tl.dot(hh, wu, uk, input_precision="tf32x3", out_dtype=ACC)
        wk = tl.dot(hh, ww, wk, input_precision="tf32x3", out_dtype=ACC)
        bk += tl.sum(hh.to(ACC) * wb.to(ACC)[None, :], 1)
    uk += tl.load(bias + first + d, mask=dm, other=0.0).to(ACC)[None, :]
    wk += tl.load(bias + first + D + d, mask=dm, other=0.0).to(ACC)[None, :]
    return uk, wk, bk + tl.load(bias + first + 2 * D).to(ACC)


@triton.jit
def forward_kernel(
    z, h, weight, bias, out, log_det, act, B, D, H, z_r, h_r, w_r,
    K: tl.constexpr, MODE: tl.constexpr, WIDEN: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = log_det.dtype.element_ty
    D = tl.cast(D, tl.int32)  # D = 1 comes as a constant
    r = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    rm = r < B
    zm = rm[:, None] & (d < D)[None, :]
    zk = tl.load(z + r[:, None] * z_r + d[None, :], mask=zm, other=0.0).to(ACC)  # [BLOCK_B, BLOCK_D]
    ld = tl.zeros([BLOCK_B], ACC)
    for k in range(K):
        uk, wk, bk = _parameters(h, weight, bias, k, r, rm, d, D, H, h_r, w_r, ACC, WIDEN, BLOCK_H)
        c, s, x, sp, _n2, _slope, scale = layer_terms(uk, wk, MODE)
        a = tl.sum(zk * wk, 1) + bk
        t, sech2 = tanh_sech2(a)
        tl.store(act + r * K + k, a, mask=rm)
        zk += (uk + c[:, None] * (wk * scale[:, None])) * t[:, None]
        ld += log_abs_det(t, sech2, s, x, sp, MODE)
    tl.store(out + r[:, None] * D + d[None, :], zk.to(out.dtype.element_ty), mask=zm)
    tl.store(log_det + r, ld, mask=rm)


def conditional_planar_flow(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    D, H = z.shape[-1], h.shape[1]
    K = weight.shape[0] // (2 * D + 1)
    acc = torch.float64 if z.dtype == torch.float64 else torch.float32
    out = output_like(z)
    *rows, _ = z.shape
    log_det, act = z.new_empty(*rows, dtype=acc), z.new_empty(*rows, K, dtype=acc)
    if z.numel() == 0:
        return out, log_det, act
    block_b, block_d, block_h, warps = _tile(D, H)
    if z.dim() == 3 or acc == torch.float64 or block_d > 256 or H == 0:
        return _forward_slabs(z, h, weight, bias, mode, out, log_det, act)
    z, h, weight, bias = _with_adjacent_columns(z), _with_adjacent_columns(h), _with_adjacent_columns(weight), bias.contiguous()
    B = z.shape[0]
    launch(
        forward_kernel, (cdiv(B, block_b),),
        z, h, weight, bias, out, log_det, act, B, D, H, z.stride(0), h.stride(0), weight.stride(0),
        K, mode, WIDEN, block_b, block_d, block_h, num_warps=warps, num_stages=1,
    )  # fmt: skip
    return out, log_det, act


def conditional_planar_flow_backward(
    z: Tensor, act: Tensor, h: Tensor, weight: Tensor, bias: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, gh = output_like(z), output_like(h)
    if z.numel() == 0:
        return out, gh.zero_(), weight.new_zeros(weight.shape), bias.new_zeros(bias.shape)
    weight_acc, bias_acc, D = weight.to(act.dtype), bias.to(act.dtype), z.shape[-1]
    layout = _Layout(weight_acc, bias_acc, D)
    gweight, gbias = torch.zeros_like(weight_acc, memory_format=torch.contiguous_format), bias_acc.new_zeros(bias.shape)
    for s in _slabs(z.shape[0], weight_acc):
        u, w, _ = layout.parameters(h[s])
        out[s], gu, gw, gb = planar_flow_backward(z[s], act[s], u, w, gz[s], gl[s], mode)
        g = torch.cat([gu, gw, gb[..., None]], -1).flatten(1)  # [rows, K (2D + 1)]
        gh[s] = g @ weight_acc
        gweight.addmm_(g.T, h[s].to(g.dtype))
        gbias += g.sum(0)
    return out, gh, gweight.to(weight.dtype), gbias.to(bias.dtype)


def _forward_slabs(
    z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, mode: int, out: Tensor, log_det: Tensor, act: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias = weight.to(act.dtype), bias.to(act.dtype)
    layout = _Layout(weight, bias, z.shape[-1])
    for s in _slabs(z.shape[0], weight):
        out[s], log_det[s], act[s] = planar_flow(z[s], *layout.parameters(h[s]), mode)
    return out, log_det, act


class _Layout:
    """The hypernetwork's rows in another order, the u and w of all layers [K, 2, width], then the K b's.

    So a row of u or w begins where 16 bytes can be loaded at once, which 2 D + 1 columns a layer hardly ever let it. Where it costs
    at most a quarter more, D is padded to a multiple of 16 for that.
    """

    def __init__(self, weight: Tensor, bias: Tensor, D: int) -> None:
        self.K, self.D = weight.shape[0] // (2 * D + 1), D
        padded = _multiple_of_16(D)
        self.width = padded if 4 * padded <= 5 * D else D
        self.weight, self.bias = self._ordered(weight), self._ordered(bias[:, None])[:, 0]

    def _ordered(self, rows: Tensor) -> Tensor:
        rows = rows.unflatten(0, (self.K, 2 * self.D + 1))
        uw = rows.new_zeros(self.K, 2, self.width, rows.shape[-1])
        uw[:, :, : self.D] = rows[:, :-1].unflatten(1, (2, self.D))
        b = rows.new_zeros(_multiple_of_16(self.K), rows.shape[-1])
        b[: self.K] = rows[:, -1]
        return torch.cat((uw.flatten(0, 2), b))

    def parameters(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u, w [B, K, D] and b [B, K] of rows of h."""
        p = torch.addmm(self.bias, h.to(self.weight.dtype), self.weight.T)
        end = 2 * self.K * self.width
        uw = p[:, :end].unflatten(1, (self.K, 2, self.width))[..., : self.D]
        return uw[:, :, 0], uw[:, :, 1], p[:, end : end + self.K]


def _multiple_of_16(n: int) -> int:
    return cdiv(n, 16) * 16


def _slabs(B: int, weight: Tensor) -> list[slice]:
    row = 3 * weight.shape[0] * weight.element_size()  # parameters, their gradients by kind, and side by side
    rows = max(1, B // 24, WORKSPACE // row)
    return [slice(i, i + rows) for i in range(0, B, rows)]


def _with_adjacent_columns(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _tile(D: int, H: int) -> tuple[int, int, int, int]:
    """(BLOCK_B, BLOCK_D, BLOCK_H, num_warps): 8 elements of z a thread up to D = 64; a matrix product takes 16 at least."""
    block_d = max(16, next_power_of_2(D))
    return 32 if block_d <= 64 else 16, block_d, 16 if H <= 16 else 32, 4 if block_d <= 32 else 8


# The interpreter multiplies matrices in NumPy, which has no bfloat16.
WIDEN = triton.knobs.runtime.interpret


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options, with the launcher's own blocks."""
    for dtype, K, D in (("fp32", 4, 64), ("bf16", 4, 128)):
        p, f = f"*{dtype}", "*fp32"
        block_b, block_d, block_h, warps = _tile(D, 64)
        values = {"K": K, "MODE": 1, "WIDEN": False, "BLOCK_B": block_b, "BLOCK_D": block_d, "BLOCK_H": block_h}
        common = dict.fromkeys(("z", "h", "weight", "bias"), p) | dict.fromkeys(("B", "D", "H", "z_r", "h_r", "w_r"), "i32")
        common |= dict.fromkeys(values, "constexpr")
        yield forward_kernel, dict(out=p, log_det=f, act=f) | common, values, {"num_warps": warps, "num_stages": 1}
