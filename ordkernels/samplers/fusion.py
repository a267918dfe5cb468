"""iFusion's inference: interests fused by a guided chain, clicks and numbers read off them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from .. import ops, rng
from .._validation.numbers import boolean, integer, real
from .._validation.tensors import can_read_values
from ..nn._mlp import copies_of_rows, kernel_serves
from ..reference._diffusion import chain_steps
from ._base import Batch, Levels, SampledModel, Sampler, Steps, draw_count, quantiles_of, requested_steps

__all__ = ["FusionSampler", "InterestSampler"]

_DRAW_STEP = 1 << 20  # the step of the random stream that numbers are drawn from: above those of any chain
_MOST_ROWS = 4096  # a micro-batch holds the encoded sessions of its rows too


class ReadableInterests(SampledModel, Protocol):
    """What the sampler needs of a model: heads that read clicks and numbers off fused interests."""

    latent: int  # D
    target: Any  # models.TargetMap

    def click_logit(self, fused: Tensor, parts: Any, row: Tensor | None) -> Tensor: ...  # [N, D] of these rows -> [N]

    def number_ranks(self, fused: Tensor, parts: Any, row: Tensor | None) -> Tensor: ...  # [N, D] -> [N, L]


class FusedInterests(NamedTuple):
    """Of b rows in n draws each. Draws that cannot differ may share theirs, so that what follows is computed once."""

    vectors: Tensor  # [N, D]
    row: Tensor | None  # [N], whose they are; None: one for each row
    of_draw: Tensor  # [b, n], which of them


Estimates = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]  # of x0: without guidance, by each kind of it
Interested = TypeVar("Interested", bound=ReadableInterests)


class InterestSampler(Sampler[Interested]):
    """Clicks and numbers of a model that reads both off fused interests; ``FusionSampler`` fuses them by a chain.

    Number ``2 j`` of a row is the quantile at ``u_j`` of the distribution that the model's head gives a fused interest, number
    ``2 j + 1`` the one at ``1 - u_j``, for row-keyed uniform ``u_j`` (``antithetic=False``: ``u_j`` for each). Between levels
    quantiles are interpolated, outside of them constant.

    Args:
        model: as ``ordkernels.models.PooledFusion``.
        vectors: fused interests that the numbers of a row are drawn from, in turn; None: one for each pair of draws.
        antithetic: pairs of quantiles, as above.
        max_rows: bound on the draws that are in memory at once, as in ``Sampler``; of rows at most 4096.

    Raises:
        ValueError: counts below 1.
    """

    def __init__(
        self, model: Interested, *, vectors: int | None = 1, antithetic: bool = True, max_rows: int = 1 << 15, **renamed: Any
    ) -> None:
        super().__init__(model, max_rows=max_rows, **renamed)
        self.vectors = None if vectors is None else integer("vectors", vectors, least=1)
        self.antithetic = boolean("antithetic", antithetic)

    def fuse(self, batch: Batch, n: int = 1, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` fused interests of each row, ``[B, n, D]``."""
        n = draw_count(n)

        def fused(rows: Batch, ids: Tensor) -> Tensor:
            found = self._fused(self.model.condition(rows), n, seed, ids)
            return found.vectors[found.of_draw]

        return self._in_batches(batch, row_ids, n, fused, [n, self.model.latent])

    def predict_click(self, x: Batch, n: int = 1, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The probability of a click, ``[B]``: the mean over ``n`` fused interests."""
        n = draw_count(n)

        def clicks(rows: Batch, ids: Tensor) -> Tensor:
            condition = self.model.condition(rows)
            fused = self._fused(condition, n, seed, ids)
            return self.model.click_logit(fused.vectors, condition.parts, fused.row).sigmoid()[fused.of_draw].mean(1)

        return self._in_batches(x, row_ids, n, clicks, [])

    def _draws(self, x: Batch, n: int, seed: int, ids: Tensor) -> Tensor:
        values: Tensor = self.model.target.inverse(self._ranks(x, n, seed, ids))
        return values

    def _summary(self, x: Batch, n: int, seed: int, ids: Tensor, levels: Levels) -> Tensor:
        if levels is None:
            return super()._summary(x, n, seed, ids, levels)
        return quantiles_of(self._ranks(x, n, seed, ids), levels, self.model.target.inverse)  # of few draws the values are asked for

    def _ranks(self, x: Batch, n: int, seed: int, ids: Tensor) -> Tensor:
        """The draws, mapped: ``[b, n]``."""
        condition = self.model.condition(x)
        pairs = (n + 1) // 2 if self.antithetic else n
        m = pairs if self.vectors is None else min(self.vectors, pairs)
        fused = self._fused(condition, m, seed, ids)
        ranks = self.model.number_ranks(fused.vectors, condition.parts, fused.row)  # [N, L]
        u = rng.uniform(seed, ids, step=_DRAW_STEP, width=pairs).to(ranks.dtype)  # [b, pairs]
        which = fused.of_draw[:, torch.arange(pairs, device=ids.device) % m]
        if self.antithetic:
            u, which = torch.stack((u, 1 - u), dim=2).flatten(1)[:, :n], which.repeat_interleave(2, dim=1)[:, :n]
        return _rank_at(u, which, ranks)

    def _rows_at_once(self, n: int) -> int:
        return min(_MOST_ROWS, super()._rows_at_once(n))

    def _fused(self, condition: Any, n: int, seed: int, ids: Tensor) -> FusedInterests:
        """Those of one micro-batch."""
        raise NotImplementedError


def _rank_at(u: Tensor, which: Tensor, ranks: Tensor) -> Tensor:
    """Draw ``[b, n]`` at level u of the distribution ``ranks[which]``, given by its L quantiles: ``[b, n]``."""
    L = ranks.shape[1]
    at = (u * L - 0.5).clamp(0, L - 1)
    low = at.long().clamp(max=max(L - 2, 0))
    flat, base = ranks.flatten(), which * L
    high = (low + 1).clamp(max=L - 1)
    return torch.lerp(flat[base + low], flat[base + high], at - low)


class FusionModel(ReadableInterests, Protocol):
    """What the sampler needs of a model; ``ordkernels.models.IFusion`` is one."""

    schedule: Any  # NoiseSchedule
    denoiser: Any  # nn.SessionDenoiser

    @property
    def steps(self) -> Steps: ...

    @property
    def gammas(self) -> tuple[float, float]: ...

    def condition(self, x: Batch) -> Any: ...  # parts, g_cp, g_tf, mask


class FusionSampler(InterestSampler[FusionModel]):
    """Interests fused by the guided reverse chain that starts from the long-term interest itself.

    All rows, draws, sessions, branches and steps of a micro-batch are one call (``ops.fusion_chain``). Draw j of a row has row-keyed
    noise of draw j: where it has no history its start, ``rng.normal(seed, row_ids, 0, D, j)``, and where there are several steps that
    of step t. So the draws of a row with a history are all the same in one step, which is the default, where they are made once; and
    a row without sessions is left as it starts, bit for bit.

    Numbers (``sample``, ``predict``, ``interval``) are drawn as ``InterestSampler`` says, from ``vectors`` fused interests in turn.

    Args:
        model: as ``ordkernels.models.IFusion``.
        steps: of the chain: their number (trailing spacing) or a descending list; None: the model's.
        gamma_cp: strength of the core preferences' guidance; None: the model's.
        gamma_tf: strength of the transient fluctuations' guidance; None: the model's.
        vectors: how many fused interests the numbers of a row are drawn from; None: 4 in one step, else one for each pair of draws.
        antithetic: as in ``InterestSampler``.
        max_rows: as in ``InterestSampler``.

    Raises:
        ValueError: steps outside [1, T] or that do not descend, strengths that are not finite, counts below 1, and as ``FlowSampler``.

    Source: iFusion, algorithm 2. Deviations from the paper: row-keyed noise, numbers.

    Example:
        >>> from ordkernels.models import IFusion
        >>> model = IFusion(n_users=5, n_items=9, dense_width=2)
        >>> x = {"user": torch.tensor([0, 4]), "item": torch.tensor([8, 1]), "dense": torch.zeros(2, 2)}
        >>> x |= {f"q_{side}": torch.ones(2, 20) for side in ("user", "item")} | {f"has_{side}": torch.ones(2) for side in ("user", "item")}
        >>> x |= {"long": torch.tensor([[3, 0], [1, 9]]), "sessions": torch.ones(2, 4, 3, dtype=torch.int64)}
        >>> FusionSampler(model, steps=5).fuse(x | {"feedback": torch.zeros(2, 4, 3, 3)}, n=8, seed=7).shape
        torch.Size([2, 8, 64])
    """

    def __init__(
        self,
        model: FusionModel,
        *,
        steps: Steps | None = None,
        gamma_cp: float | None = None,
        gamma_tf: float | None = None,
        vectors: int | None = None,
        antithetic: bool = True,
        max_rows: int = 1 << 15,
        **renamed: Any,
    ) -> None:
        self.steps = chain_steps(requested_steps(model.steps if steps is None else steps), model.schedule.T)
        vectors = 4 if vectors is None and len(self.steps) == 1 else vectors
        super().__init__(model, vectors=vectors, antithetic=antithetic, max_rows=max_rows, **renamed)
        cp, tf = model.gammas
        self.gammas = (
            cp if gamma_cp is None else real("gamma_cp", gamma_cp),
            tf if gamma_tf is None else real("gamma_tf", gamma_tf),
        )

    def _fused(self, condition: Any, n: int, seed: int, ids: Tensor) -> FusedInterests:
        m, (parts, g_cp, g_tf, mask) = self.model, condition
        row, draw, of_draw = self._places(parts, n)
        of_rows = ids, parts.long, parts.has_long, g_cp, g_tf, mask
        row_ids, start, has_start, g_cp, g_tf, mask = of_rows if row is None else (v[row] for v in of_rows)
        noise = rng.normal(seed, row_ids, 0, start.shape[1], 0 if draw is None else draw).to(start.dtype)
        h = torch.where(has_start[:, None], start, noise)
        if m.denoiser.parallel:
            vectors = self.sample_stepwise(h, g_cp, g_tf, mask, seed=seed, row_ids=row_ids, draw_ids=draw)
        else:
            vectors = ops.fusion_chain(
                h, g_cp, g_tf, mask, m.denoiser, m.schedule, steps=self.steps, gamma_cp=self.gammas[0], gamma_tf=self.gammas[1],
                seed=seed, row_ids=row_ids, draw_ids=draw,
            )  # fmt: skip
        return FusedInterests(vectors, row, of_draw)

    def _places(self, parts: Any, n: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Of each vector to be made, its row and its draw, ``[N]``, or None: one of each row; of each draw the vector, ``[b, n]``. A row
        with a history has one vector in one step, which is without noise, where N may depend on values."""
        long, b = parts.long, parts.long.shape[0]
        if n > 1 and len(self.steps) == 1 and can_read_values(long) and kernel_serves(long):
            own = (torch.arange(n, device=long.device) == 0) | ~parts.has_long[:, None]
            row, draw = own.nonzero().unbind(1)
            return row, draw, own.flatten().cumsum(0).view(b, n) - 1
        return *copies_of_rows(b, n, long.device), torch.arange(b * n, device=long.device).view(b, n)

    def sample_stepwise(
        self,
        h_long: Tensor,
        g_cp: Tensor,
        g_tf: Tensor,
        mask: Tensor,
        *,
        seed: int | Tensor = 0,
        row_ids: Tensor | None = None,
        draw_ids: Tensor | None = None,
        denoise: Estimates | None = None,
    ) -> Tensor:
        """``ops.fusion_chain`` step by step, differentiable, and for a denoiser with ``parallel=True``: ``[B, D]``.

        ``denoise``: ``(f_un, f_cp, f_tf)`` of x and t under this guidance, where that has been prepared already."""
        schedule, x = self.model.schedule, h_long
        if denoise is None:
            guided = self.model.denoiser.conditioned(g_cp, g_tf, mask, schedule.T)
            denoise = lambda x, t: guided.estimates(x, t, *self.gammas)  # noqa: E731
        steps, alpha_bar = self.steps, schedule.exact
        if row_ids is None:
            row_ids = torch.arange(x.shape[0], device=x.device)
        for t, s in zip(steps, [*steps[1:], 0], strict=True):
            un, cp, tf = denoise(x, t)
            noise = None
            if s:
                draw: Any = 0 if draw_ids is None else draw_ids
                noise = rng.normal(seed, row_ids, t, x.shape[1], draw).to(x.dtype)
            x = ops.guided_posterior_step(
                x, un, cp, tf, alpha_bar[t], alpha_bar[s], gamma_cp=self.gammas[0], gamma_tf=self.gammas[1], noise=noise
            )[0]
        return torch.where(mask.any(1)[:, None], x, h_long)
