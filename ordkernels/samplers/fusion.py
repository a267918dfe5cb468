"""iFusion's inference: interests fused by a guided chain, clicks and numbers read off them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .. import ops, rng
from ..ops.denoise_guided import _gamma
from ..reference.fusion_chain import fusion_steps
from .flow import FlowSampler, _rows

__all__ = ["FusionSampler", "InterestSampler"]

_DRAW_STEP = 1 << 20  # the step of the stream that numbers are drawn by: behind those of any chain


class InterestSampler(FlowSampler):
    """Clicks and numbers of a model that reads both off fused interests; ``FusionSampler`` fuses them by a chain.

    Number ``2 j`` of a row is the quantile at ``u_j`` of the distribution that the model's head gives a fused interest, number
    ``2 j + 1`` the one at ``1 - u_j``, for row-keyed uniform ``u_j`` (``antithetic=False``: ``u_j`` for each). Between levels
    quantiles are interpolated, outside of them constant.
    """

    model: Any
    vectors: int | None = 1  # fused interests that the numbers of a row are drawn from, in turn; None: one for each pair

    def fuse(self, batch: dict[str, Tensor], n: int = 1, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` fused interests of each row, ``[B, n, D]``."""
        if n < 1:
            raise ValueError(f"n: expected at least 1, got {n}")
        out = self._in_batches(batch, row_ids, n, lambda rows, ids: self._fused(self.model.condition(rows), n, seed, ids))
        return out if out.dim() == 3 else out.new_empty(0, n, self.model.latent)

    def predict_click(self, x: dict[str, Tensor], n: int = 1, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The probability of a click, ``[B]``: the mean over ``n`` fused interests."""
        if n < 1:
            raise ValueError(f"n: expected at least 1, got {n}")

        def clicks(rows: dict[str, Tensor], ids: Tensor) -> Tensor:
            condition = self.model.condition(rows)
            return self.model.click_logit(self._fused(condition, n, seed, ids), condition.parts).sigmoid().mean(1, keepdim=True)

        return self._in_batches(x, row_ids, n, clicks)[:, 0] if _rows(x)[0] else next(iter(x.values())).new_empty(0).float()

    def _draws(self, x: dict[str, Tensor], n: int, seed: int, ids: Tensor) -> Tensor:
        condition = self.model.condition(x)
        pairs = (n + 1) // 2 if self.antithetic else n
        m = pairs if self.vectors is None else min(self.vectors, pairs)
        ranks = self.model.number_ranks(self._fused(condition, m, seed, ids), condition.parts)  # [b, m, L]
        u = rng.uniform(seed, ids, step=_DRAW_STEP, width=pairs).to(ranks.dtype)  # [b, pairs]
        which = (torch.arange(pairs, device=ids.device) % m).expand(len(u), -1)
        if self.antithetic:
            u, which = torch.stack((u, 1 - u), dim=2).flatten(1)[:, :n], which.repeat_interleave(2, dim=1)[:, :n]
        L = ranks.shape[2]
        at = (u * L - 0.5).clamp(0, L - 1)
        low = at.long().clamp(max=max(L - 2, 0))
        flat, base = ranks.flatten(1), which * L
        high = (low + 1).clamp(max=L - 1)
        return self.model.target.inverse(torch.lerp(flat.gather(1, base + low), flat.gather(1, base + high), at - low))

    def _rows_at_once(self, n: int) -> int:
        return max(1, min(4096, self.max_elements // (n * self.model.latent)))

    def _fused(self, condition: Any, n: int, seed: int, ids: Tensor) -> Tensor:
        """``[b, n, D]`` of one micro-batch."""
        raise NotImplementedError


class FusionModel(Protocol):
    """What the sampler needs of a model; ``ordkernels.models.IFusion`` is one."""

    latent: int
    steps: int
    schedule: Any
    denoiser: Any  # nn.SessionDenoiser

    @property
    def gammas(self) -> tuple[float, float]: ...

    def condition(self, x: dict[str, Tensor]) -> Any: ...  # parts, g_cp, g_tf, mask


class FusionSampler(InterestSampler):
    """Interests fused by the guided reverse chain that starts from the long-term interest itself.

    All rows, draws, sessions, branches and steps of a micro-batch are one call (``ops.fusion_chain``). Draw j of a row has row-keyed
    noise of draw j: where it has no history its start, ``rng.normal(seed, row_ids, 0, D, j)``, and where there are several steps that
    of step t. So the draws of a row with a history are all the same in one step, which is the default, and a row without sessions
    keeps what it starts from, bit for bit. A row's draws do not depend on how rows are split into batches (to rounding), as long as
    its id is passed.

    Numbers (``sample``, ``predict``, ``interval``) are drawn as ``InterestSampler`` says, from ``vectors`` fused interests in turn.

    Args:
        model: as ``ordkernels.models.IFusion``.
        steps, gamma_cp, gamma_tf: of the chain; None: the model's.
        vectors: how many fused interests the numbers of a row are drawn from; None: 4 in one step, else one for each pair of draws.
        antithetic, max_elements: as ``FlowSampler``.

    Errors: ``ValueError`` for steps outside [1, T], strengths that are not finite, counts below 1, and as ``FlowSampler``.

    Source: iFusion, algorithm 2; the row-keyed noise and the numbers are ours.

    Example::

        >>> fused = FusionSampler(model, steps=5).fuse(batch, n=8, seed=7, row_ids=ids)      # [B, 8, D]
    """

    def __init__(
        self,
        model: FusionModel,
        *,
        steps: int | None = None,
        gamma_cp: float | None = None,
        gamma_tf: float | None = None,
        vectors: int | None = None,
        antithetic: bool = True,
        max_elements: int = 1 << 21,
    ) -> None:
        super().__init__(model, antithetic=antithetic, max_elements=max_elements)  # type: ignore[arg-type]
        self.steps = model.steps if steps is None else steps
        if not 1 <= self.steps <= model.schedule.T:
            raise ValueError(f"steps: expected 1 to T = {model.schedule.T}, got {self.steps}")
        if vectors is not None and vectors < 1:
            raise ValueError(f"vectors: expected at least 1, got {vectors}")
        self.vectors = 4 if vectors is None and self.steps == 1 else vectors
        own = model.gammas
        self.gammas = (
            own[0] if gamma_cp is None else _gamma("gamma_cp", gamma_cp),
            own[1] if gamma_tf is None else _gamma("gamma_tf", gamma_tf),
        )

    def _fused(self, condition: Any, n: int, seed: int, ids: Tensor) -> Tensor:
        m, (parts, g_cp, g_tf, mask) = self.model, condition
        b, D = parts.long.shape
        row_ids, draw_ids = ids.repeat_interleave(n), torch.arange(n, device=ids.device).repeat(b)
        noise = rng.normal(seed, row_ids, 0, D, draw_ids).to(parts.long.dtype)
        h = torch.where(parts.has_long.repeat_interleave(n)[:, None], parts.long.repeat_interleave(n, dim=0), noise)
        g_cp, g_tf, mask = (v.repeat_interleave(n, dim=0) for v in (g_cp, g_tf, mask))
        if m.denoiser.parallel:
            return self.walk(h, g_cp, g_tf, mask, seed=seed, row_ids=row_ids, draw_ids=draw_ids).view(b, n, D)
        return ops.fusion_chain(
            h, g_cp, g_tf, mask, m.denoiser, m.schedule, steps=self.steps, gamma_cp=self.gammas[0], gamma_tf=self.gammas[1],
            seed=seed, row_ids=row_ids, draw_ids=draw_ids,
        ).view(b, n, D)  # fmt: skip

    def walk(
        self,
        h_long: Tensor,
        g_cp: Tensor,
        g_tf: Tensor,
        mask: Tensor,
        *,
        seed: int = 0,
        row_ids: Tensor | None = None,
        draw_ids: Tensor | None = None,
    ) -> Tensor:
        """``ops.fusion_chain`` step by step, differentiable, and for a denoiser with ``parallel=True``: ``[B, D]``."""
        schedule, x = self.model.schedule, h_long
        steps, alpha_bar = fusion_steps(self.steps, schedule.T), schedule.exact
        if row_ids is None:
            row_ids = torch.arange(len(x), device=x.device)
        for t, s in zip(steps, [*steps[1:], 0], strict=True):
            un, cp, tf = self.model.denoiser.branches(x, t, g_cp, g_tf, mask)
            noise = None
            if s:
                draw: Any = 0 if draw_ids is None else draw_ids
                noise = rng.normal(seed, row_ids, t, x.shape[1], draw).to(x.dtype)
            x = ops.guided_posterior_step(
                x, un, cp, tf, alpha_bar[t], alpha_bar[s], gamma_cp=self.gammas[0], gamma_tf=self.gammas[1], noise=noise
            )[0]
        return torch.where(mask.any(1)[:, None], x, h_long)
