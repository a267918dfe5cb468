"""Baseline of the generative models: quantiles of the target from the same encoder, by the pinball loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import ops, rng
from ..._validation.numbers import integer, real
from ...nn._eval_mode import inference
from ...samplers._base import central_levels
from .watch_time import WatchTimeModel

__all__ = ["QuantileRegression"]


class QuantileRegression(WatchTimeModel):
    """L quantiles of the target, at levels ``(l - 0.5) / L``, which never cross: what a distribution costs without a generative model.

    Loss: the mean pinball loss of ``log1p(y / unit)`` plus that of ``y`` over its standard deviation, as FlowTime's CRPS has both spaces.
    The twofold mean of pinball losses over all levels is the CRPS.

    Batches: ``ContextEncoder.keys`` and ``y [B]``.

    Args:
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: of the histories.
        levels: L, of the prediction.
        flags: ``ContextEncoder``'s, ``dropout`` and the fields of ``EncoderConfig``.

    Raises:
        ValueError: counts out of range and malformed batches.
        TypeError: unknown flags.

    Source: Koenker and Bassett, "Regression Quantiles", Econometrica 46 (1978).

    Example:
        >>> model = QuantileRegression(0, 0, dense_width=2)
        >>> model.quantiles({"dense": torch.zeros(3, 2)}, [0.1, 0.5, 0.9]).shape
        torch.Size([3, 3])
    """

    at: Tensor  # [L], the levels

    def __init__(self, n_users: int, n_items: int, dense_width: int, hidden: int = 64, quantiles: int = 20, *, levels: int = 20,
                 **flags: Any) -> None:  # fmt: skip
        integer("levels", levels, least=1)
        super().__init__(n_users, n_items, dense_width, levels, hidden, quantiles, flags)
        self.register_buffer("at", (torch.arange(levels) + 0.5) / levels, persistent=False)

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        log_q = self._log(out)
        log = ops.pinball(log_q, torch.log1p(y / self.unit), self.at).mean()
        linear = ops.pinball(torch.expm1(log_q) * (self.unit / self.scale), y / self.scale, self.at).mean()
        return {"loss": log + linear, "log": log.detach(), "linear": linear.detach()}

    def _log(self, out: Tensor) -> Tensor:
        """``log1p(quantiles / unit)`` ``[B, L]``, rising: the first, and what each next one has more."""
        rising = torch.cat((out[:, :1] + 1, F.softplus(out[:, 1:] - 2)), dim=1).cumsum(dim=1)
        return self._bounded_log(rising)

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return _between(self._seconds(out), [0.5])[:, 0]

    def _seconds(self, out: Tensor) -> Tensor:
        return torch.expm1(self._log(out)) * self.unit

    @inference
    def quantiles(self, x: dict[str, Tensor], levels: Sequence[float], *, batch_size: int = 8192) -> Tensor:
        """``[B, len(levels)]`` in the target's unit, at levels in [0, 1]: linear between the L predicted ones, level beyond them."""
        at = [real("levels", level, least=0, most=1) for level in levels]
        return _between(self._predicted(x, batch_size), at)

    def interval(self, x: dict[str, Tensor], level: float) -> Tensor:
        """Lower and upper end, ``[B, 2]``, of the central interval of that level, strictly between 0 and 1."""
        return self.quantiles(x, central_levels(level))

    @inference
    def sample(self, x: dict[str, Tensor], n: int, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` draws for each row, ``[B, n]``: its quantiles at uniform levels, which belong to seed and row id."""
        n, q = integer("n", n, least=1), self._predicted(x, 8192)
        ids = torch.arange(len(q), device=q.device) if row_ids is None else row_ids
        at = (rng.uniform(seed, ids, step=0, width=n).to(q.dtype) * q.shape[1] - 0.5).clamp(0, q.shape[1] - 1)
        low = at.long()
        return torch.lerp(q.gather(1, low), q.gather(1, (low + 1).clamp(max=q.shape[1] - 1)), at - low)

    def _predicted(self, x: dict[str, Tensor], batch_size: int) -> Tensor:
        """``[B, L]``, in the target's unit."""
        return self._by_batches(x, batch_size, lambda out, _: self._seconds(out), len(self.at))


def _between(q: Tensor, levels: Sequence[float]) -> Tensor:
    """``[B, L]`` at levels ``(l - 0.5) / L`` to ``[B, len(levels)]``."""
    L, out = q.shape[1], []
    for level in levels:
        at = min(max(level * L - 0.5, 0.0), L - 1.0)
        low = int(at)
        out.append(torch.lerp(q[:, low], q[:, min(low + 1, L - 1)], at - low))
    return torch.stack(out, dim=1)
