"""The inverse of planar flows on a GPU: the layers backwards, a monotone equation solved in each."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ._planar_flow_backward import backward_signature, launch_backward
from ._planar_flow_forward import forward_signature, launch_forward
from .planar_flow import AHEAD_OF_TIME


def planar_flow_inverse(z_out: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    return launch_forward(z_out, u, w, b, mode, True)


def planar_flow_inverse_backward(
    z_in: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return launch_backward(z_in, act, u, w, gz, gl, mode, True)


def signatures() -> Iterator[tuple[Any, ...]]:
    """What to compile ahead of time: kernel, signature, constexprs, options, with the launchers' own blocks."""
    for case in AHEAD_OF_TIME:
        yield forward_signature(*case, inverse=True)
        yield backward_signature(*case, inverse=True)
