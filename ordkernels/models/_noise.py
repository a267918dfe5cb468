"""The noise of a training loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import rng
from ..rng import _NORMAL

__all__ = ["LossNoise"]


class LossNoise:
    """Noise of one loss: torch's own stream, or, where the batch has ``row_ids``, noise keyed by them and by one seed of that stream.

    Then a row has the same noise in whatever batch or process it is: the processes of a parallel training that start with one seed
    draw together what one process would on the joint batch. Normals without ids are keyed by the place in the batch where a kernel
    makes them faster than torch: on a CPU, in fp32.
    """

    def __init__(self, batch: dict[str, Tensor], like: Tensor) -> None:
        self.row_ids, self.like, self.device, self.dtype = batch.get("row_ids"), like, like.device, like.dtype
        self.draws = 0
        self.key: int | Tensor = 0 if self.row_ids is None else self.seed()

    def seed(self) -> int | Tensor:
        """Of torch's own stream, on the host; of a compiled loss it stays a tensor, whose value the trace does not ask for."""
        seed = torch.randint(2**31, ())
        return seed if torch.compiler.is_compiling() else int(seed)

    def ids(self, rows: int) -> Tensor:
        return torch.arange(rows, device=self.device) if self.row_ids is None else self.row_ids

    def normal(self, rows: int, *shape: int, copies: int = 1) -> Tensor:
        """``[copies * rows, *shape]``, the copies one after the other."""
        if self.row_ids is not None:
            return self._keyed(rng.normal, copies, shape).to(self.dtype)
        if self.device.type == "cpu" and self.dtype == torch.float32 and _NORMAL.has_kernel(self.like):
            return rng.normal(self.seed(), None, 0, math.prod(shape), rows=copies * rows).view(copies * rows, *shape)
        return torch.randn(copies * rows, *shape, device=self.device, dtype=self.dtype)

    def uniform(self, rows: int, *shape: int, copies: int = 1) -> Tensor:
        """``[copies * rows, *shape]`` fp32 in [0, 1]."""
        if self.row_ids is None:
            return torch.rand(copies * rows, *shape, device=self.device)
        return self._keyed(rng.uniform, copies, shape)

    def integers(self, low: int, high: int, rows: int, *, copies: int = 1) -> Tensor:
        """``[copies * rows]`` in [low, high)."""
        if self.row_ids is None:
            return torch.randint(low, high, (copies * rows,), device=self.device)
        u = self.uniform(rows, copies=copies).double()  # in (0, 1]
        return low + (u * (high - low)).ceil().long().clamp(1, high - low) - 1

    def _keyed(self, source: Callable[..., Tensor], copies: int, shape: tuple[int, ...]) -> Tensor:
        found = [source(self.key, self.row_ids, self.draws, math.prod(shape), c).view(-1, *shape) for c in range(copies)]
        self.draws += 1
        return torch.cat(found) if copies > 1 else found[0]
