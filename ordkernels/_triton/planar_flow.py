"""Planar flows on a GPU: forward, inverse, and their backwards. One program holds a tile ``[BLOCK_G, BLOCK_N, BLOCK_D]`` of z on chip.

As in the reference, rows come in groups: z ``[G, N, D]``, parameters ``[G, K, D]``. Per-row parameters are groups of one row,
shared ones a single group that holds every row. Any D: a program owns whole rows, so that w.z needs no second pass (past
D = 16384 it spills). u, w, z and the gradients keep their strides as long as columns are adjacent: slices of a hypernetwork's
output are read in place.

Bytes that have to move, fp32, per-row parameters, D = 64, K = 4, a row: forward 4 (2 K D + 2 D + 2 K + 1) = 2.6 KB, backward
4 (4 K D + 3 D + 3 K + 1) = 4.9 KB. At 2^20 rows and the 4.3 TB/s of an H200's copies, 0.63 ms and 1.19 ms are the limits;
predicted 0.72 and 1.5 ms, the inverse 1.2 ms (its Newton steps weigh as much as its bytes). Not yet measured.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ._planar_flow_backward import backward_signature, launch_backward
from ._planar_flow_forward import forward_signature, launch_forward

AHEAD_OF_TIME = (("fp32", 1, 4, 64), ("bf16", 1, 4, 128), ("fp32", 20, 4, 64), ("fp32", 1, 16, 64), ("fp64", 1, 2, 32))  # dtype, N, K, D


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    return launch_forward(z, u, w, b, mode, False)


def planar_flow_backward(
    z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return launch_backward(z, act, u, w, gz, gl, mode, False)


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options, with the launchers' own blocks."""
    for case in AHEAD_OF_TIME:
        yield forward_signature(*case, inverse=False)
        yield backward_signature(*case, inverse=False)
