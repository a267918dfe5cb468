"""What all samplers share: micro-batches in inference mode, row ids, and statistics of the draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import rng
from .._validation.flags import reject_unknown
from .._validation.numbers import integer, one_of, real
from .._validation.tensors import can_read_values, integers
from ..nn._eval_mode import eval_mode
from ..ops._chain_plan import visited

__all__ = ["Batch", "SampledModel", "Sampler", "Steps", "draw_count", "mirrored_noise", "requested_steps", "row_count"]

MOST_DRAWS = 1 << 24
Batch = dict[str, Tensor]
Levels = Sequence[float] | None  # of the quantiles that draws are summarized by; None: by their mean
Steps = int | Sequence[int] | Tensor | np.ndarray[Any, Any]  # of a chain: their number, or the timesteps


class SampledModel(Protocol):
    """What every sampler needs of a model."""

    training: bool

    def condition(self, x: Batch) -> Any: ...  # what the draws of these rows are conditioned on

    def train(self, mode: bool = True) -> Any: ...


Model = TypeVar("Model", bound=SampledModel)


class Sampler(Generic[Model]):
    """Draws, point predictions and intervals of a generative model.

    Draws are made in micro-batches under ``torch.inference_mode`` with the model in eval mode. The noise of a draw belongs to
    (seed, row id, draw number), so a row's draws do not depend on how rows are split into batches (to rounding), as long as its
    id is passed, nor on how many draws are asked for. A subclass defines ``_draws``.

    Args:
        model: has ``condition``, and what the subclass says.
        max_rows: bound on the draws, rows times n, that are in memory at once; a single row's n draws are never split.

    Raises:
        ValueError: max_rows below 1.
    """

    def __init__(self, model: Model, *, max_rows: int = 1 << 15, **renamed: Any) -> None:
        reject_unknown(renamed, {"max_elements": "max_rows"})
        self.model, self.max_rows = model, integer("max_rows", max_rows, least=1)

    def sample(self, x: Batch, n: int, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` draws for each row, ``[B, n]``.

        Args:
            x: a batch as the model's ``loss`` takes it, without the target.
            n: draws, at least 1.
            seed: of the noise.
            row_ids: ``[B]`` integers that the noise belongs to; None: ``0 .. B - 1``.

        Raises:
            ValueError: n below 1, row ids of another length, a malformed batch.
        """
        n = draw_count(n)
        return self._in_batches(x, row_ids, n, lambda rows, ids: self._draws(rows, n, seed, ids))

    def predict(
        self,
        x: Batch,
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean"] = "median",
    ) -> Tensor:
        """The median (best for absolute error) or mean (for squared error) of ``n`` draws, ``[B]``."""
        statistic = one_of("statistic", statistic, ("median", "mean"))
        return self._statistics(x, n, seed, row_ids, None if statistic == "mean" else [0.5])[:, 0]

    def interval(self, x: Batch, level: float, n: int = 128, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """Lower and upper end, ``[B, 2]``, of the central interval that holds a further draw with probability ``level``.

        Its ends are quantiles as in `quantiles`. n draws have at most ``(n - 1) / (n + 1)`` of that between the least and the largest.
        """
        return self._statistics(x, n, seed, row_ids, central_levels(level))

    def quantiles(self, x: Batch, levels: Sequence[float], n: int = 128, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """Quantiles of the ``n`` draws at levels in [0, 1], ``[B, len(levels)]``.

        Order statistic i of n (from 1) is the quantile at level ``i / (n + 1)``: a further draw is below it with that probability. Linear
        between them; below ``1 / (n + 1)`` the least draw, above ``n / (n + 1)`` the largest. (Where the least is level 0 and the
        largest 1, an interval of 80 % of 32 draws holds 75.8 % of what they are draws of.)
        """
        return self._statistics(x, n, seed, row_ids, [real("levels", level, least=0, most=1) for level in levels])

    def _draws(self, x: Batch, n: int, seed: int, ids: Tensor) -> Tensor:
        """``[b, n]`` for one micro-batch."""
        raise NotImplementedError

    def _statistics(self, x: Batch, n: int, seed: int, row_ids: Tensor | None, levels: Levels) -> Tensor:
        """Quantiles of the draws, ``[B, len(levels)]``, or for None their mean, ``[B, 1]``."""
        n = draw_count(n)
        return self._in_batches(x, row_ids, n, lambda rows, ids: self._summary(rows, n, seed, ids, levels), [len(levels or [0])])

    def _summary(self, x: Batch, n: int, seed: int, ids: Tensor, levels: Levels) -> Tensor:
        """The same of one micro-batch."""
        draws = self._draws(x, n, seed, ids)
        return draws.mean(dim=1, keepdim=True) if levels is None else quantiles_of(draws, levels)

    def _in_batches(
        self, x: Batch, row_ids: Tensor | None, n: int, make: Callable[[Batch, Tensor], Tensor], shape: Sequence[int] | None = None
    ) -> Tensor:
        """``make(rows, ids) -> [b, *shape]``, by default ``[b, n]``, one micro-batch after the other: ``[B, *shape]``."""
        B, device = row_count(x)
        ids = _row_ids(row_ids, B, device)
        step, parts = self._rows_at_once(n), []
        with eval_mode(self.model), torch.inference_mode():
            for i in range(0, B, step):
                rows = slice(i, i + step)
                parts.append(make({name: v[rows] for name, v in x.items()}, ids[rows]))
        # outside of inference mode: an ordinary tensor, which training may use
        return torch.cat(parts) if parts else torch.empty(0, *([n] if shape is None else shape), device=device)

    def _rows_at_once(self, n: int) -> int:
        return max(1, self.max_rows // n)


def mirrored_noise(n: int, width: int, seed: int, ids: Tensor, *, antithetic: bool) -> Tensor:
    """Normal noise ``[b, n, width]``: draws ``2 j`` and ``2 j + 1`` are ``z_j`` and ``-z_j``; if not antithetic, draw j is ``z_j``."""
    independent = (n + 1) // 2 if antithetic else n
    noise = rng.normal(seed, ids, step=0, width=independent * width).view(-1, independent, width)
    return torch.stack((noise, -noise), dim=2).flatten(1, 2)[:, :n] if independent < n else noise


def central_levels(level: Any) -> list[float]:
    """The levels of both ends of the central interval of a level, strictly between 0 and 1."""
    level = real("level", level)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share strictly between 0 and 1, got {level}")
    return [0.5 - level / 2, 0.5 + level / 2]


def draw_count(n: Any) -> int:
    """Draws of a row. So many that a row's random stream, of 2^32 numbers, could end are refused by this name."""
    return integer("n", n, least=1, most=MOST_DRAWS)


def requested_steps(steps: Steps) -> int | Sequence[int]:
    """Their number, or the timesteps as a tuple of ints."""
    return visited(steps)


def row_count(x: Batch) -> tuple[int, torch.device]:
    """B and the device of a batch, all of whose tensors have B rows."""
    if not isinstance(x, Mapping):
        raise TypeError(f"x: expected a dict of tensors with one entry per row, got {type(x).__name__}")
    for name, v in x.items():
        if not isinstance(v, Tensor) or not v.dim():
            found = "a scalar" if isinstance(v, Tensor) else type(v).__name__
            raise TypeError(f"{name}: expected a tensor with one entry per row, got {found}")
    sizes = {name: len(v) for name, v in x.items()}
    if not sizes:
        raise ValueError("x: expected a dict of tensors with one entry per row, got none")
    name, B = next(iter(sizes.items()))
    for other, size in sizes.items():
        if size != B:
            raise ValueError(f"{other}: expected {B} rows as in {name}, got {size}")
    return B, x[name].device


def _row_ids(row_ids: Any, B: int, device: torch.device) -> Tensor:
    if row_ids is None:
        return torch.arange(B, device=device)
    ids = integers("row_ids", row_ids, None if isinstance(row_ids, Tensor) else device)
    if ids.device != device:
        raise ValueError(f"row_ids: expected the device of x, {device}, got {ids.device}")
    if ids.shape != (B,):
        raise ValueError(f"row_ids: expected shape [B] = [{B}], got {list(ids.shape)}")
    return ids


def quantiles_of(draws: Tensor, levels: Sequence[float], values: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
    """``[B, n] -> [B, len(levels)]``, linear between order statistics, of which i is at level ``i / (n + 1)``; of ``values(draws)``, for a
    map that rises."""
    ordered, n = _ordered(draws), draws.shape[1]
    places = [min(max(level * (n + 1) - 1, 0.0), n - 1.0) for level in levels]
    beside = [(int(at), min(int(at) + 1, n - 1)) for at in places]
    read = sorted({i for pair in beside for i in pair})
    column = dict(zip(read, values(torch.stack([ordered[:, i] for i in read], dim=1)).unbind(1), strict=True))
    return torch.stack([torch.lerp(column[i], column[j], at - i) for at, (i, j) in zip(places, beside, strict=True)], dim=1)


def _ordered(draws: Tensor) -> Tensor:
    """``[B, n]``, each row's in order, NaN last: by NumPy where that has vectors for it, ten times as fast as torch."""
    if can_read_values(draws) and draws.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(draws.numpy(), axis=1))
    return draws.sort(dim=1).values
