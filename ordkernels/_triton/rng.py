"""Row-keyed noise, and Philox itself, as ops: `random_normal`, `random_uniform`, `philox`."""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import rng as reference
from ._launch import launch
from ._noise import four_to_columns
from ._philox import normal4, philox4, uniform4
from ._sizes import cdiv, next_power_of_2


@triton.jit(do_not_specialize=["draw", "seed", "step", "largest_draw"])
def noise_kernel(
    row_ids, draw_ids, out, draw, seed, step, largest_draw, B, width, tiles,
    NORMAL: tl.constexpr, HAS_DRAWS: tl.constexpr, ALIGNED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Tile of BLOCK_B rows and BLOCK_Q blocks of four; a row's first block may begin before its first number, unless ALIGNED."""
    pid = tl.program_id(0).to(tl.int64)
    r = pid // tiles * BLOCK_B + tl.arange(0, BLOCK_B)  # [BLOCK_B]
    row_mask = r < B
    row = tl.load(row_ids + r, mask=row_mask, other=0)
    d = r * 0 + draw
    if HAS_DRAWS:
        d = tl.load(draw_ids + r, mask=row_mask, other=0)
    invalid = (d < 0) | (d > largest_draw)
    first = tl.where(invalid, 0, d) * width
    block = (first // 4)[:, None] + (pid % tiles * BLOCK_Q + tl.arange(0, BLOCK_Q))[None, :]  # [BLOCK_B, BLOCK_Q]
    rows = row[:, None] + block * 0
    if NORMAL:
        n0, n1, n2, n3 = normal4(rows, step, block, seed)
    else:
        n0, n1, n2, n3 = uniform4(rows, step, block, seed)
    value = four_to_columns(n0, n1, n2, n3)  # [BLOCK_B, 4 BLOCK_Q], neighbours in memory
    column = (pid % tiles * (4 * BLOCK_Q) + tl.arange(0, 4 * BLOCK_Q))[None, :]
    if not ALIGNED:
        column = column - (first % 4)[:, None]
    value = tl.where(invalid[:, None], float("nan"), value)
    tl.store(out + r[:, None] * width + column, value, mask=row_mask[:, None] & (column >= 0) & (column < width))


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


def _tile(width: int) -> tuple[int, int, int]:
    """(BLOCK_B, BLOCK_Q, tiles of a row): 1024 numbers a program, the longest side along the row."""
    blocks = width // 4 if width % 4 == 0 else (width + 6) // 4  # a row may start three numbers into its first block
    Q = min(next_power_of_2(blocks), 256)
    return 256 // Q, Q, cdiv(blocks, Q)


def _noise(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int, normal: bool) -> Tensor:
    B = row_ids.shape[0]
    out = row_ids.new_empty(B, width, dtype=torch.float32)
    if B == 0 or width == 0:
        return out
    row_ids = row_ids.contiguous()
    draws = row_ids if draw_ids is None else draw_ids.contiguous()
    block_b, block_q, tiles = _tile(width)
    launch(
        noise_kernel, (cdiv(B, block_b) * tiles,),
        row_ids, draws, out, draw, seed, step, reference.largest_draw(width), B, width, tiles,
        normal, draw_ids is not None, width % 4 == 0, block_b, block_q, num_warps=4,
    )  # fmt: skip
    return out


def random_normal(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int) -> Tensor:
    return _noise(row_ids, draw_ids, draw, seed, step, width, True)


def random_uniform(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: int, step: int, width: int) -> Tensor:
    return _noise(row_ids, draw_ids, draw, seed, step, width, False)


def philox(counter: Tensor, key: Tensor) -> Tensor:
    counter, key = counter.contiguous(), key.contiguous()
    N = counter.shape[0]
    out = counter.new_empty(N, 4, dtype=torch.int32)
    if N:
        launch(philox_kernel, (cdiv(N, 256),), counter, key, out, N, 256, num_warps=4)
    return out


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options."""
    ids, f, i, warps = "*i64", "*fp32", "i64", {"num_warps": 4}
    for normal, draws, width in (
        (True, True, 1), (True, True, 64), (True, False, 20), (True, False, 4096), (False, True, 20), (False, False, 64),
    ):  # fmt: skip
        block_b, block_q, _ = _tile(width)
        arguments = dict(row_ids=ids, draw_ids=ids, out=f, draw=i, seed=i, step=i, largest_draw=i, B="i32", width="i32", tiles="i32")
        values = {"NORMAL": normal, "HAS_DRAWS": draws, "ALIGNED": width % 4 == 0, "BLOCK_B": block_b, "BLOCK_Q": block_q}
        yield noise_kernel, arguments | dict.fromkeys(values, "constexpr"), values, warps
    yield philox_kernel, dict(counter=ids, key=ids, out="*i32", N="i32", BLOCK="constexpr"), {"BLOCK": 256}, warps
