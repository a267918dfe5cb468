"""Row-keyed Philox noise in Triton. `philox4`, `uniform4` and `normal4` serve other kernels that make their own noise.

Only integer arithmetic and own polynomials: `tl.log`, `tl.sin` and `tl.sqrt` are fast approximations on a GPU.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import rng as reference


@triton.jit
def philox4(c0, c1, c2, c3, k0, k1):
    """Philox-4x32-10: uint32 tensors of one shape -> four of them."""
    for _ in tl.static_range(10):
        a, b = c0, c2
        c0 = tl.umulhi(b, tl.full(b.shape, 0xCD9E8D57, tl.uint32)) ^ c1 ^ k0
        c2 = tl.umulhi(a, tl.full(a.shape, 0xD2511F53, tl.uint32)) ^ c3 ^ k1
        c1 = b * tl.full(b.shape, 0xCD9E8D57, tl.uint32)
        c3 = a * tl.full(a.shape, 0xD2511F53, tl.uint32)
        k0 = k0 + tl.full(k0.shape, 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full(k1.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def row_words(row, step, block, seed):
    """row, block int64 tensors of one shape; step, seed integer scalars -> the four words of `block` in the row's stream."""
    zero = row * 0  # int64, which small seeds and steps are not when Triton picks their type
    wide = zero + seed
    return philox4(
        row.to(tl.uint32), (row >> 32).to(tl.uint32), (zero + step).to(tl.uint32), (block + zero).to(tl.uint32),
        wide.to(tl.uint32), (wide >> 32).to(tl.uint32),
    )  # fmt: skip


@triton.jit
def word_to_uniform(x):
    return ((x >> 8).to(tl.int32).to(tl.float32) + 0.5) * 5.9604644775390625e-8  # 2^-24


@triton.jit
def word_radius(x):
    """sqrt(-2 ln u) of u = k 2^-25: near u = 1 a rounded u would leave no digit of it."""
    k = ((x >> 7) | 1).to(tl.int32)
    e = (k.to(tl.float32).to(tl.int32, bitcast=True) - 0x3F3504F3) >> 23  # k 2^-e in [sqrt 1/2, sqrt 2)
    w = (k - ((e * 0 + 1) << e)).to(tl.float32) * ((127 - e) << 23).to(tl.float32, bitcast=True)
    n, w2 = (e - 25).to(tl.float32), w * w
    p = 7.0376836292e-2 * w - 1.1514610310e-1  # ln(1 + w): Cephes
    p = p * w + 1.1676998740e-1
    p = p * w - 1.2420140846e-1
    p = p * w + 1.4249322787e-1
    p = p * w - 1.6668057665e-1
    p = p * w + 2.0000714765e-1
    p = p * w - 2.4999993993e-1
    p = p * w + 3.3333331174e-1
    low = (p * w2 * w + n * -2.12194440e-4) - 0.5 * w2
    return tl.sqrt_rn(-2.0 * ((w + low) + n * 0.693359375))


@triton.jit
def box_muller(x, y):
    """Two words -> two normals; the angle is reduced to an eighth of a turn in integers, exactly."""
    k = ((y >> 7) | 1).to(tl.int32)
    q = (k + (1 << 22)) >> 23
    t = (k - (q << 23)).to(tl.float32) * 1.87253514146e-7  # 2 pi / 2^25
    z, r = t * t, word_radius(x)
    s = t + t * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4))
    c = 1.0 + z * (-0.5 + z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5)))
    odd = (q & 1) != 0
    cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
    return r * tl.where(((q + 1) & 2) != 0, -cosine, cosine), r * tl.where((q & 2) != 0, -sine, sine)


@triton.jit
def normal4(row, step, block, seed):
    """row, block int64 tensors of one shape -> normals 4 block, ..., 4 block + 3 of the row's stream, four fp32 tensors."""
    x0, x1, x2, x3 = row_words(row, step, block, seed)
    n0, n1 = box_muller(x0, x1)
    n2, n3 = box_muller(x2, x3)
    return n0, n1, n2, n3


@triton.jit
def uniform4(row, step, block, seed):
    x0, x1, x2, x3 = row_words(row, step, block, seed)
    return word_to_uniform(x0), word_to_uniform(x1), word_to_uniform(x2), word_to_uniform(x3)


@triton.jit(do_not_specialize=["draw", "seed", "step", "largest"])
def noise_kernel(
    row_ids, draw_ids, out, draw, seed, step, largest, B, width, tiles,
    NORMAL: tl.constexpr, HAS_DRAWS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Tile of BLOCK_B rows and BLOCK_Q blocks of four; a row's first block may begin before its first lane."""
    pid = tl.program_id(0).to(tl.int64)
    r = pid // tiles * BLOCK_B + tl.arange(0, BLOCK_B)  # [BLOCK_B]
    live = r < B
    row = tl.load(row_ids + r, mask=live, other=0)
    d = r * 0 + draw
    if HAS_DRAWS:
        d = tl.load(draw_ids + r, mask=live, other=0)
    dead = (d < 0) | (d > largest)
    first = tl.where(dead, 0, d) * width
    block = (first // 4)[:, None] + (pid % tiles * BLOCK_Q + tl.arange(0, BLOCK_Q))[None, :]  # [BLOCK_B, BLOCK_Q]
    rows = row[:, None] + block * 0
    if NORMAL:
        n0, n1, n2, n3 = normal4(rows, step, block, seed)
    else:
        n0, n1, n2, n3 = uniform4(rows, step, block, seed)
    value = tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))  # [BLOCK_B, 4 BLOCK_Q], neighbours in memory
    lane = (pid % tiles * (4 * BLOCK_Q) - first % 4)[:, None] + tl.arange(0, 4 * BLOCK_Q)[None, :]
    value = tl.where(dead[:, None], float("nan"), value)
    tl.store(out + r[:, None] * width + lane, value, mask=live[:, None] & (lane >= 0) & (lane < width))


@triton.jit
def philox_kernel(counter, key, out, N, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = i < N
    c0 = tl.load(counter + 4 * i, mask=m, other=0).to(tl.uint32)
    c1 = tl.load(counter + 4 * i + 1, mask=m, other=0).to(tl.uint32)
    c2 = tl.load(counter + 4 * i + 2, mask=m, other=0).to(tl.uint32)
    c3 = tl.load(counter + 4 * i + 3, mask=m, other=0).to(tl.uint32)
    k0 = tl.load(key + 2 * i, mask=m, other=0).to(tl.uint32)
    k1 = tl.load(key + 2 * i + 1, mask=m, other=0).to(tl.uint32)
    x0, x1, x2, x3 = philox4(c0, c1, c2, c3, k0, k1)
    tl.store(out + 4 * i, x0.to(tl.int32, bitcast=True), mask=m)
    tl.store(out + 4 * i + 1, x1.to(tl.int32, bitcast=True), mask=m)
    tl.store(out + 4 * i + 2, x2.to(tl.int32, bitcast=True), mask=m)
    tl.store(out + 4 * i + 3, x3.to(tl.int32, bitcast=True), mask=m)


def _tile(width: int) -> tuple[int, int]:
    """(BLOCK_B, BLOCK_Q): 1024 numbers a program, the longest side along the row."""
    Q = min(triton.next_power_of_2((width + 6) // 4), 256)
    return 256 // Q, Q


def _noise(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int, normal: bool) -> Tensor:
    B = row_ids.shape[0]
    out = row_ids.new_empty((B, width), dtype=torch.float32)
    if B == 0 or width == 0:
        return out
    row_ids = row_ids.contiguous()
    draws = row_ids if draw_ids is None else draw_ids.contiguous()
    BB, BQ = _tile(width)
    tiles = triton.cdiv((width + 6) // 4, BQ)  # a row may start three numbers into its first block
    with torch.cuda.device_of(row_ids):
        noise_kernel[(triton.cdiv(B, BB) * tiles,)](
            row_ids, draws, out, draw, seed, step, reference.largest_draw(width), B, width, tiles,
            normal, draw_ids is not None, BB, BQ, num_warps=4,
        )  # fmt: skip
    return out


def random_normal(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int) -> Tensor:
    return _noise(row_ids, draw_ids, draw, seed, step, width, True)


def random_uniform(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int) -> Tensor:
    return _noise(row_ids, draw_ids, draw, seed, step, width, False)


def philox(counter: Tensor, key: Tensor) -> Tensor:
    counter, key = counter.contiguous(), key.contiguous()
    N = counter.shape[0]
    out = counter.new_empty((N, 4), dtype=torch.int32)
    if N:
        with torch.cuda.device_of(counter):
            philox_kernel[(triton.cdiv(N, 256),)](counter, key, out, N, 256, num_warps=4)
    return out


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    ids, f, i, warps = "*i64", "*fp32", "i64", {"num_warps": 4}
    consts = dict.fromkeys(("NORMAL", "HAS_DRAWS", "BLOCK_B", "BLOCK_Q"), "constexpr")
    for normal in (True, False):
        for draws in (True, False):
            for width in (1, 20, 64, 4096):
                BB, BQ = _tile(width)
                yield (
                    noise_kernel,
                    dict(row_ids=ids, draw_ids=ids, out=f, draw=i, seed=i, step=i, largest=i, B="i32", width="i32", tiles="i32", **consts),
                    {"NORMAL": normal, "HAS_DRAWS": draws, "BLOCK_B": BB, "BLOCK_Q": BQ},
                    warps,
                )
    yield philox_kernel, dict(counter=ids, key=ids, out="*i32", N="i32", BLOCK="constexpr"), {"BLOCK": 256}, warps
