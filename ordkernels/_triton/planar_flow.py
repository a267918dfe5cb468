"""Planar flows on a GPU: forward, inverse, and their backwards. One program holds a tile ``[BLOCK_G, BLOCK_N, BLOCK_D]`` of z on chip.

As in the reference everything is groups: z ``[G, N, D]``, parameters ``[G, K, D]``. Per-row parameters are groups of one row,
shared ones a single group that holds every row. Any D: a program owns whole rows, so that w.z needs no second pass (past
D = 16384 it spills). u, w, z and the gradients keep their strides as long as columns are adjacent: slices of a hypernetwork's
output are read in place.

Bytes that have to move, fp32, per-row parameters, D = 64, K = 4, a row: forward 4 (2 K D + 2 D + 2 K + 1) = 2.6 KB, backward
4 (4 K D + 3 D + 3 K + 1) = 4.9 KB. At 2^20 rows and the 4.3 TB/s that an H200 copies at, 0.63 ms and 1.19 ms are the limits;
predicted 0.72 and 1.5 ms, the inverse 1.2 ms (its Newton steps weigh as much as its bytes). Not yet measured.

The backward holds the u, w and states of KEEP layers in registers, so up to K = KEEP each byte is read once. Beyond, it goes
through the layers KEEP at a time, from the last, and each time rebuilds the state from the input z: K (K / KEEP - 1) / 2 layers
are read again, mostly from L2. Exact: no state is ever recovered by subtraction.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._math import layer_gradients, layer_terms, log_abs_det, log_det_slopes, solve_layer, tanh_sech2

UNROLL = 8  # layers that the forward kernels unroll; more run in a loop
KEEP = 4  # layers whose parameters and states the backward keeps in registers
TILE_ROWS = 512  # elements of z in a program: per-row parameters, four 4-byte loads a thread
TILE_GROUPS = 1024  # and where rows share parameters
PARTIALS = 512  # programs that each sum shared parameters' gradients over their tiles


@triton.jit
def _load(p, offset, mask, ACC: tl.constexpr):
    return tl.load(p + offset, mask=mask, other=0.0).to(ACC)


@triton.jit
def _terms(uk, wk, MODE: tl.constexpr):
    return layer_terms(tl.sum(wk * uk, 1), tl.sum(wk * wk, 1), MODE)  # each [BLOCK_G]


@triton.jit
def _places(g, n, G, N, D, BLOCK_D: tl.constexpr):
    """Columns [1, BLOCK_D], groups [BLOCK_G, 1] and contiguous rows [BLOCK_G, BLOCK_N], with the masks of each and of a tile."""
    d = tl.arange(0, BLOCK_D)[None, :]
    g2 = g[:, None]
    row = g2 * N + n[None, :]
    rm = (g2 < G) & (n[None, :] < N)
    return d, g2, row, g < G, (g2 < G) & (d < D), rm, rm[:, :, None] & (d < D)[:, None, :]


@triton.jit
def _layer(zk, ld, k, u, w, b, act, u_g, u_k, w_g, w_k, b_g, b_k, g, d, row, pm, gm, rm, K, MODE: tl.constexpr, INVERSE: tl.constexpr):
    """One layer, either way: (z, log_det)."""
    uk = _load(u, g[:, None] * u_g + k * u_k + d, pm, zk.dtype)  # [BLOCK_G, BLOCK_D]
    wk = _load(w, g[:, None] * w_g + k * w_k + d, pm, zk.dtype)
    bk = _load(b, g * b_g + k * b_k, gm, zk.dtype)  # [BLOCK_G]
    c, s, x, sp, _n2, _slope = _terms(uk, wk, MODE)
    a = tl.sum(zk * wk[:, None, :], 2) + bk[:, None]  # [BLOCK_G, BLOCK_N]
    if INVERSE:
        a = solve_layer(a, s[:, None])
    t, h = tanh_sech2(a)
    tl.store(act + row * K + k, a, mask=rm)
    step = (uk + c[:, None] * wk)[:, None, :] * t[:, :, None]
    if INVERSE:
        zk -= step
    else:
        zk += step
    return zk, ld + log_abs_det(t, h, s[:, None], x[:, None], sp[:, None], MODE)


@triton.jit
def forward_kernel(
    z, u, w, b, out, log_det, act, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, b_g, b_k,
    K: tl.constexpr, MODE: tl.constexpr, INVERSE: tl.constexpr, UNROLLED: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Forward, or inverse (the layers backwards, a monotone equation solved in each)."""
    tiles = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    g = (pid // tiles).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    n = (pid % tiles).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d, g2, row, gm, pm, rm, zm = _places(g, n, G, N, D, BLOCK_D)
    zk = _load(z, (g2 * z_g + n[None, :] * z_n)[:, :, None] + d[:, None, :], zm, log_det.dtype.element_ty)  # [BLOCK_G, BLOCK_N, BLOCK_D]
    ld = tl.zeros([BLOCK_G, BLOCK_N], zk.dtype)
    if UNROLLED:
        for i in tl.static_range(K):
            zk, ld = _layer(zk, ld, i, u, w, b, act, u_g, u_k, w_g, w_k, b_g, b_k, g, d, row, pm, gm, rm, K, MODE, INVERSE)
    else:
        for i in range(K):
            k = K - 1 - i if INVERSE else i
            zk, ld = _layer(zk, ld, k, u, w, b, act, u_g, u_k, w_g, w_k, b_g, b_k, g, d, row, pm, gm, rm, K, MODE, INVERSE)
    tl.store(out + row[:, :, None] * D + d[:, None, :], zk.to(out.dtype.element_ty), mask=zm)
    tl.store(log_det + row, ld, mask=rm)


@triton.jit
def _store_gradients(
    uk, wk, c, n2, slope, pulled, gx, gaz, gbk, gu, gw, gb, layer, d, D, pm, gm, first, ACCUMULATE: tl.constexpr
):  # fmt: skip
    """A program with several tiles adds to what it alone wrote before, in order: no atomics."""
    gc = tl.sum(pulled * wk, 1)
    guk, gwk = layer_gradients(uk, wk, c[:, None], n2[:, None], slope[:, None], pulled, gc[:, None], gx[:, None], gaz)
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
    K: tl.constexpr, MODE: tl.constexpr, KEPT: tl.constexpr, BLOCK_D: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = act.dtype.element_ty
    d, g2, row, gm, pm, rm, zm = _places(g, n, G, N, D, BLOCK_D)
    d3 = d[:, None, :]
    gk = _load(gz_out, (g2 * o_g + n[None, :] * o_n)[:, :, None] + d3, zm, ACC)
    gld = _load(gl, row, rm, ACC)  # [BLOCK_G, BLOCK_N]
    CHUNKS: tl.constexpr = (K + KEPT - 1) // KEPT
    for chunk in range(CHUNKS):
        k0 = (CHUNKS - 1 - chunk) * KEPT
        zk = _load(z, (g2 * z_g + n[None, :] * z_n)[:, :, None] + d3, zm, ACC)
        for j in range(k0):  # the state at layer k0
            uj, wj = _load(u, g2 * u_g + j * u_k + d, pm, ACC), _load(w, g2 * w_g + j * w_k + d, pm, ACC)
            c, _s, _x, _sp, _n2, _slope = _terms(uj, wj, MODE)
            t, _h = tanh_sech2(_load(act, row * K + j, rm, ACC))
            zk += (uj + c[:, None] * wj)[:, None, :] * t[:, :, None]
        us, ws, states, acts = (), (), (), ()
        for i in tl.static_range(KEPT):
            k = k0 + i
            more = k < K  # a layer past the last is one of zeros, which changes nothing
            uk, wk = _load(u, g2 * u_g + k * u_k + d, pm & more, ACC), _load(w, g2 * w_g + k * w_k + d, pm & more, ACC)
            ak = _load(act, row * K + k, rm & more, ACC)
            us, ws, states, acts = us + (uk,), ws + (wk,), states + (zk,), acts + (ak,)  # noqa: RUF005  not Triton's language
            if i + 1 < KEPT:
                c, _s, _x, _sp, _n2, _slope = _terms(uk, wk, MODE)
                t, _h = tanh_sech2(ak)
                zk += (uk + c[:, None] * wk)[:, None, :] * t[:, :, None]
        for i in tl.static_range(KEPT - 1, -1, -1):
            k = k0 + i
            more = k < K
            uk, wk = us[i], ws[i]
            c, s, x, sp, n2, slope = _terms(uk, wk, MODE)
            t, h = tanh_sech2(acts[i])
            by_a, by_x, _inv = log_det_slopes(t, h, s[:, None], x[:, None], sp[:, None], slope[:, None], MODE)
            uhat = uk + c[:, None] * wk
            ga = tl.sum(gk * uhat[:, None, :], 2) * h + gld * by_a  # [BLOCK_G, BLOCK_N]
            pulled = tl.sum(t[:, :, None] * gk, 1)  # gradient of uhat [BLOCK_G, BLOCK_D]
            gaz = tl.sum(ga[:, :, None] * states[i], 1)
            _store_gradients(uk, wk, c, n2, slope, pulled, tl.sum(gld * by_x, 1), gaz, tl.sum(ga, 1), gu, gw, gb,
                (slot * G + g) * K + k, d, D, pm & more, gm & more, first, ACCUMULATE)  # fmt: skip
            gk += ga[:, :, None] * wk[:, None, :]
    tl.store(gz + row[:, :, None] * D + d3, gk.to(gz.dtype.element_ty), mask=zm)


@triton.jit
def _inverse_backward_tile(
    g, n, first, slot, z, act, u, w, gz_in, gl, gz, gu, gw, gb, G, N, D,
    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n,
    K: tl.constexpr, MODE: tl.constexpr, KEPT: tl.constexpr, BLOCK_D: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """By the implicit function theorem, from z_in on: the states come in the order in which they are needed."""
    ACC: tl.constexpr = act.dtype.element_ty
    d, g2, row, gm, pm, rm, zm = _places(g, n, G, N, D, BLOCK_D)
    d3 = d[:, None, :]
    zk = _load(z, (g2 * z_g + n[None, :] * z_n)[:, :, None] + d3, zm, ACC)
    gk = _load(gz_in, (g2 * o_g + n[None, :] * o_n)[:, :, None] + d3, zm, ACC)
    gld = _load(gl, row, rm, ACC)
    for k in range(K):
        uk, wk = _load(u, g2 * u_g + k * u_k + d, pm, ACC), _load(w, g2 * w_g + k * w_k + d, pm, ACC)
        c, s, x, sp, n2, slope = _terms(uk, wk, MODE)
        t, h = tanh_sech2(_load(act, row * K + k, rm, ACC))
        by_a, by_x, inv = log_det_slopes(t, h, s[:, None], x[:, None], sp[:, None], slope[:, None], MODE)
        uhat = uk + c[:, None] * wk
        gk += (gld * by_a)[:, :, None] * wk[:, None, :]
        gk -= (h * tl.sum(gk * uhat[:, None, :], 2) * inv)[:, :, None] * wk[:, None, :]  # the layer's inverse Jacobian, transposed
        ga = gld * by_a - tl.sum(gk * uhat[:, None, :], 2) * h
        pulled = -tl.sum(t[:, :, None] * gk, 1)
        gaz = tl.sum(ga[:, :, None] * zk, 1)
        _store_gradients(uk, wk, c, n2, slope, pulled, tl.sum(gld * by_x, 1), gaz, tl.sum(ga, 1), gu, gw, gb,
            (slot * G + g) * K + k, d, D, pm, gm, first, ACCUMULATE)  # fmt: skip
        zk += uhat[:, None, :] * t[:, :, None]
    tl.store(gz + row[:, :, None] * D + d3, gk.to(gz.dtype.element_ty), mask=zm)


@triton.jit
def backward_kernel(
    z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, SLOTS,
    K: tl.constexpr, MODE: tl.constexpr, INVERSE: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """ACCUMULATE: SLOTS programs share a block of groups, each takes every SLOTS-th tile of its rows and writes to its own slot."""
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
                    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, KEPT, BLOCK_D, ACCUMULATE)  # fmt: skip
            else:
                _backward_tile(g, m, first, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                    z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, KEPT, BLOCK_D, ACCUMULATE)  # fmt: skip
            tl.debug_barrier()  # what this tile stored is read again by the next one
    else:
        if INVERSE:
            _inverse_backward_tile(g, n, 1, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, KEPT, BLOCK_D, ACCUMULATE)  # fmt: skip
        else:
            _backward_tile(g, n, 1, slot, z, act, u, w, gz_out, gl, gz, gu, gw, gb, G, N, D,
                z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, K, MODE, KEPT, BLOCK_D, ACCUMULATE)  # fmt: skip


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    return _forward(z, u, w, b, mode, False)


def planar_flow_inverse(z_out: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    return _forward(z_out, u, w, b, mode, True)


def planar_flow_backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _backward(z, act, u, w, gz, gl, mode, False)


def planar_flow_inverse_backward(
    z_in: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _backward(z_in, act, u, w, gz, gl, mode, True)


def _forward(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    K, D = u.shape[-2:]
    acc = torch.float64 if z.dtype == torch.float64 else torch.float32
    out = z.new_empty(z.shape)
    log_det, act = z.new_empty(z.shape[:-1], dtype=acc), z.new_empty((*z.shape[:-1], K), dtype=acc)
    if z.numel() == 0:
        return out, log_det, act
    z, G, N, z_g, z_n = _groups(z, u.dim() == 2)
    u, u_g, u_k = _columns(u)
    w, w_g, w_k = _columns(w)
    b_g, b_k = (b.stride(0), b.stride(1)) if b.dim() == 2 else (0, b.stride(0))
    block_g, block_n, block_d, warps = _tile(N, D, z.dtype)
    with torch.cuda.device_of(z):
        forward_kernel[(triton.cdiv(G, block_g) * triton.cdiv(N, block_n),)](
            z, u, w, b, out, log_det, act, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, b_g, b_k,
            K, mode, inverse, _unrolled(K, inverse), block_g, block_n, block_d,
            num_warps=warps, num_stages=1, maxnreg=_registers(inverse, False),
        )  # fmt: skip
    return out, log_det, act


def _backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int, inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    K, D = u.shape[-2:]
    out = z.new_empty(z.shape)
    if z.numel() == 0:
        return out, torch.zeros_like(u, memory_format=torch.contiguous_format), w.new_zeros(w.shape), u.new_zeros(u.shape[:-1])
    shared, dtype, shape = u.dim() == 2, u.dtype, u.shape
    z, G, N, z_g, z_n = _groups(z, shared)
    gz, _, _, o_g, o_n = _groups(gz, shared)
    act, gl = act.contiguous(), gl.contiguous()
    u, u_g, u_k = _columns(u)
    w, w_g, w_k = _columns(w)
    block_g, block_n, block_d, warps = _tile(N, D, z.dtype)
    tiles = triton.cdiv(N, block_n)
    # One tile a program: gradients go straight out. Several: each program sums its own in fp32 or wider, then the slots are summed.
    slots = max(1, min(tiles, PARTIALS // triton.cdiv(G, block_g)))
    accumulate = tiles > 1
    like = act if accumulate else u
    gu, gw, gb = (like.new_empty((slots, G, K, *last)) for last in ((D,), (D,), ()))
    with torch.cuda.device_of(z):
        backward_kernel[(triton.cdiv(G, block_g) * slots,)](
            z, act, u, w, gz, gl, out, gu, gw, gb, G, N, D, z_g, z_n, u_g, u_k, w_g, w_k, o_g, o_n, slots,
            K, mode, inverse, min(K, KEEP), block_g, block_n, block_d, accumulate,
            num_warps=warps, num_stages=1, maxnreg=_registers(False, accumulate if block_d <= 1024 else False),
        )  # fmt: skip
    if accumulate:
        gu, gw, gb = ((t.sum(0) if slots > 1 else t).to(dtype) for t in (gu, gw, gb))
    return out, gu.view(shape), gw.view(shape), gb.view(shape[:-1])


def _groups(z: Tensor, shared: bool) -> tuple[Tensor, int, int, int, int]:
    """z with adjacent columns, G, N and the strides of a group and of a row in it."""
    if shared and z.dim() == 3:
        z = z.reshape(-1, z.shape[-1])
    if z.stride(-1) != 1 and z.shape[-1] > 1:
        z = z.contiguous()
    if shared:
        return z, 1, z.shape[0], 0, z.stride(0)
    if z.dim() == 2 or z.shape[1] == 1:
        return z, z.shape[0], 1, z.stride(0), 0
    return z, z.shape[0], z.shape[1], z.stride(0), z.stride(1)


def _columns(p: Tensor) -> tuple[Tensor, int, int]:
    """A parameter with adjacent columns, and the strides of a group and of a layer."""
    if p.stride(-1) != 1 and p.shape[-1] > 1:
        p = p.contiguous()
    return (p, p.stride(0), p.stride(1)) if p.dim() == 3 else (p, 0, p.stride(0))


def _unrolled(K: int, inverse: bool) -> bool:
    return K <= UNROLL and not inverse  # the inverse is a loop already


def _registers(newton: bool, accumulate: bool) -> int | None:
    """A thread's bound. Left alone, ptxas spills a few bytes of the Newton loop, or of the sums over tiles, to fit one program more."""
    return 128 if newton else 255 if accumulate else None


def _tile(N: int, D: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """(BLOCK_G, BLOCK_N, BLOCK_D, num_warps)."""
    block_d = triton.next_power_of_2(D)
    half = 2 if dtype == torch.float64 else 1
    if N == 1:
        return max(1, TILE_ROWS // half // block_d), 1, block_d, 4 if block_d <= 1024 else min(16, block_d // 256)
    rows = max(1, TILE_GROUPS // half // block_d)
    block_n = min(rows, triton.next_power_of_2(N))
    return rows // block_n, block_n, block_d, 4 if block_d <= 1024 else 8 if block_d <= 2048 else 16


def signatures():
    """What to compile ahead of time: (kernel, signature, constexprs, options), with the launcher's own blocks."""
    for dtype, N, K, D in (("fp32", 1, 4, 64), ("bf16", 1, 4, 128), ("fp32", 20, 4, 64), ("fp32", 1, 16, 64), ("fp64", 1, 2, 32)):
        p, f = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
        block_g, block_n, block_d, warps = _tile(N, D, torch.float64 if dtype == "fp64" else torch.float32)
        blocks = {"BLOCK_G": block_g, "BLOCK_N": block_n, "BLOCK_D": block_d, "K": K, "MODE": 1} | ({"N": 1} if N == 1 else {})
        sizes = dict.fromkeys(("G", "N", "D", "z_g", "z_n", "u_g", "u_k", "w_g", "w_k"), "i32")
        fixed = dict.fromkeys(("K", "MODE", "INVERSE", "BLOCK_G", "BLOCK_N", "BLOCK_D"), "constexpr")
        options = {"num_warps": warps, "num_stages": 1}
        for inverse in (False, True):
            forward = dict(z=p, u=p, w=p, b=p, out=p, log_det=f, act=f, b_g="i32", b_k="i32", UNROLLED="constexpr") | sizes | fixed
            yield (
                forward_kernel,
                forward,
                blocks | {"INVERSE": inverse, "UNROLLED": _unrolled(K, inverse)},
                options | {"maxnreg": _registers(inverse, False)},
            )
            several = block_n < N
            q = f if several else p
            backward = dict(z=p, act=f, u=p, w=p, gz_out=p, gl=f, gz=p, gu=q, gw=q, gb=q, o_g="i32", o_n="i32", SLOTS="i32")
            backward |= dict(KEPT="constexpr", ACCUMULATE="constexpr") | sizes | fixed
            values = blocks | {"INVERSE": inverse, "KEPT": min(K, KEEP), "ACCUMULATE": several}
            yield backward_kernel, backward, values, options | {"maxnreg": _registers(False, several)}
