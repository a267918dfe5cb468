"""Samplers as modules of tensors alone, for ``torch.export`` and programs without Python."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from .._validation.numbers import integer, one_of, real
from .._validation.numbers import seed as signed_seed
from ._base import Sampler

__all__ = ["ScoringModule"]


class ScoringModule(nn.Module):
    """A sampler's predictions as a module of tensors: what ``torch.export`` takes, and AOTInductor compiles for programs without Python.

    ``forward(row_ids, *features)`` is the sampler's ``predict``, or its quantiles, for any number of rows, all of them at once. The number
    of draws, the seed and the statistic are fixed when the module is made; noise belongs to ``(seed, row id)``, so other row ids are
    other draws. The model is a copy in eval mode: training the original further does not change the module.

    Args:
        sampler: of a model.
        inputs: names of the features, in the order in which ``forward`` takes them.
        n: draws of each row.
        seed: of the noise.
        statistic: of the draws, ``"median"`` or ``"mean"``; or
        levels: of quantiles, each in [0, 1].

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> import torch
        >>> from ordkernels.models import DiffoR
        >>> x = {"dense": torch.randn(4, 3)}
        >>> model = DiffoR(dense_width=3)
        >>> module = model.scoring_module(n=8)
        >>> module.inputs
        ('dense',)
        >>> batch = torch.export.Dim("batch")
        >>> program = torch.export.export(module, (torch.arange(4), x["dense"]), dynamic_shapes=module.dynamic_shapes(batch))
        >>> torch.allclose(program.module()(torch.arange(4), x["dense"]), model.predict(x, n=8))
        True
    """

    def __init__(
        self,
        sampler: Sampler[Any],
        inputs: Sequence[str],
        *,
        n: int = 32,
        seed: int = 0,
        statistic: Literal["median", "mean"] = "median",
        levels: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.n, self.seed = tuple(inputs), integer("n", n, least=1), signed_seed(seed)
        one_of("statistic", statistic, ("median", "mean"))
        self.levels = None if levels is None else [real("levels", level, least=0, most=1) for level in levels]
        self._summarized = self.levels or (None if statistic == "mean" else [0.5])
        self._sampler = copy.copy(sampler)
        self.model = self._sampler.model = copy.deepcopy(sampler.model).requires_grad_(False)
        self.eval()

    def forward(self, row_ids: Tensor, *features: Tensor) -> Tensor:
        """``[B]`` for a statistic, ``[B, len(levels)]`` for levels; row_ids ``[B]`` int64."""
        x = dict(zip(self.inputs, features, strict=True))
        out = self._sampler._summary(x, self.n, self.seed, row_ids, self._summarized)
        return out if self.levels else out[:, 0]

    def dynamic_shapes(self, batch: Any) -> tuple[Any, ...]:
        """For ``torch.export``: the first dimension of every argument is ``batch``."""
        return {0: batch}, tuple({0: batch} for _ in self.inputs)
