"""Philox-4x32-10 in Triton, and uniforms and normals from its words, for kernels that generate their own noise.

Only integer arithmetic and own polynomials: `tl.log`, `tl.sin` and `tl.sqrt` are fast approximations on a GPU.
"""

import triton
import triton.language as tl


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
    key = zero + seed
    return philox4(
        row.to(tl.uint32), (row >> 32).to(tl.uint32), (zero + step).to(tl.uint32), (block + zero).to(tl.uint32),
        key.to(tl.uint32), (key >> 32).to(tl.uint32),
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
