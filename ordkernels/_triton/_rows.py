"""Rows of numbers on a GPU: how many a program takes, and a stable sort of each in registers."""

import triton
import triton.language as tl

from ._sizes import next_power_of_2

LONGEST_SORT = 1024  # a longer sorting network takes up to a minute to compile, and torch.sort serves such rows


@triton.jit
def sort_rows(x, column, L):
    """x [BLOCK_B, BLOCK_L] in fp32 -> (its rows sorted, NaN last, and the columns that the values come from).

    A value and its column are one int64 key, so the sort is stable and needs no second array. Columns from L on come last.
    """
    bits = (x + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0: a tie
    bits = tl.where(x != x, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))  # rises with x
    key = (bits.to(tl.int64) << 32) | column[None, :]
    key = tl.where((column < L)[None, :], key, 0x7FFFFFFFFFFFFFFF)
    key = tl.sort(key, dim=1)
    bits = (key >> 32).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True), key & 0xFFFF


def sort_tile(L: int) -> tuple[int, int]:
    """(BLOCK_B, BLOCK_L) of a program that sorts rows with four warps: 4 to 8 keys a thread."""
    block_l = max(next_power_of_2(L), 2)
    return max(512 // block_l, 1), block_l


def row_tile(L: int) -> tuple[int, int]:
    """(BLOCK_B, BLOCK_L) of an elementwise program: 1024 elements."""
    block_l = min(max(next_power_of_2(L), 2), 1024)
    return 1024 // block_l, block_l
