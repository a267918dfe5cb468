"""iFusion: long-term interest fused with recent sessions by guided denoising, for clicks and for numbers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from .._validation.numbers import positive_sizes
from ..nn import MLPDenoiser, SessionDenoiser, SessionFilters
from ..samplers import FusionSampler
from ..schedules import NoiseSchedule
from .diffor import _schedule
from .interests import InterestModel, Interests

__all__ = ["IFusion"]


class Guidance(NamedTuple):
    """What a fusion starts from, and what guides it."""

    parts: Interests
    g_cp: Tensor  # [B, K, D]
    g_tf: Tensor  # [B, K, D]
    mask: Tensor  # [B, K]


class IFusion(InterestModel):
    r"""Diffusion fusion of interests: the long-term one, noised, is denoised under the guidance of the sessions' core preferences
    and transient fluctuations, session after session; heads read a click and a number off the result.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, h_L + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
              f = (\gamma_{cp} f(x_t, t, g_{cp}) + \gamma_{tf} f(x_t, t, g_{tf})) / (\gamma_{cp} + \gamma_{tf})

    Training: two random (t, noise) per row, guidance dropped from either branch by mask; the losses are, with K + 1 sessions,

    - ``click``: cross-entropy of the click head, averaged over both t, on f guided by the sessions 2 ... K + 1 (task mode);
      ``number``: in the same place, the loss of the head for a number (``InterestModel``);
    - ``evolution``: 1 - cosine of f guided by sessions 1 ... K (evo mode) and the projected session K + 1, through which no gradient
      goes; rows with fewer than two sessions have no such term;
    - ``disentangle``: a session's ``(g_cp . g_tf)^2 / D`` (``"dot"``), squared cosine (``"cosine"``), or the squared cosine of the
      directions ``f_cp - f_un`` and ``f_tf - f_un`` in which the two pull x_t, per row (``"gradient"``: the score of a
      guidance is in proportion to it), averaged over what is there;
    - ``consistency``: ``mean over D of (f(x_t1) - f(x_t2))^2`` of task mode, over rows with sessions;
    - ``chain``, **ours, not the paper's:** click and number of what inference itself makes of the row, which starts from ``h_L``
      without noise and extrapolates by both gammas; nothing in the paper's losses ever sees that. ``IFusion.paper_loss()``
      has the arguments without it, ``IFusion.chain_loss()`` those with little else.

    A row without sessions is not denoised: its fused interest is ``h_L``, in training too. One without a history starts from
    normal noise, row-keyed in inference. Inference: ``samplers.FusionSampler``. Numbers are drawn from the head's distribution
    given a fused interest.

    =========================  ================================================================================================
    batch key                  shape
    =========================  ================================================================================================
    ``long``                   ``[B, M]`` integers, ``item + 1``, oldest first, 0 behind; the last ``long`` are read
    ``sessions``               ``[B, P, S]``, likewise, the last session last; the last K + 1 are read (K in inference)
    ``feedback``               ``[B, P, S, feedback_width]``, what is known of each of these; not with ``feedback_width=0``
    ``click``                  ``[B]``, 0 or 1; for ``loss`` alone, not with ``click_weight=0``
    ``y``                      ``[B]``, at least 0; for ``loss`` alone
    ``user``, ``item``, ``dense``, ``q_user``, ``q_item``, ``has_user``, ``has_item``: as in ``FlowTime``
    =========================  ================================================================================================

    ``data.kuairand_sessions`` and ``data.movielens`` give all of them.

    Args:
        n_users, n_items, dense_width, hidden, quantiles: of the ids, features and history quantiles, as in ``FlowTime``.
        latent: D; sessions: K.
        T, schedule: diffusion steps; ``"cosine"``, ``"linear"`` or a ``NoiseSchedule``. steps: of the chain.
        gamma_cp, gamma_tf: strengths of guidance. guidance: ``"dcfg"``, or ``"cfg"``: one guidance, the mean of both, with
            strength gamma_cp.
        parallel: every session acts on x_t itself, and what comes out is averaged (an ablation of sessions in turn).
        drop_cp, drop_tf: how often a branch is trained without guidance.
        click_weight, number_weight, evolution_weight, disentangle_weight, consistency_weight, chain_weight: 0 takes a loss
            away (and its part of the batch: ``click_weight=0`` needs no ``click``).
        long: of the history, the most items read; heads: of the Transformers; levels: L of the head for a number.
        context: False hides all but the item, the history and the sessions from the heads.

    Errors: ``TypeError`` and ``ValueError`` naming the argument or the batch's key.

    Source: iFusion, section 4 and algorithms 1 and 2. The head for a number is ours; so is what guides with both gammas 0 in
    training: nothing (f_un).

    Example::

        >>> train, test = ordkernels.data.kuairand_sessions()
        >>> model = IFusion(*ordkernels.data.n_ids(train, test), train["dense"].shape[1])
        >>> ordkernels.models.fit(model, train, epochs=1, batch_size=256, lr=1e-3)
        >>> model.predict_click(test, row_ids=test["row"])                     # [N]
        >>> model.predict(test, n=64, row_ids=test["row"])                     # [N], seconds
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        latent: int = 64,
        hidden: int = 64,
        sessions: int = 4,
        quantiles: int = 20,
        *,
        T: int = 50,
        schedule: Literal["linear", "cosine"] | NoiseSchedule = "cosine",
        steps: int = 1,
        gamma_cp: float = 2.0,
        gamma_tf: float = 1.0,
        guidance: Literal["dcfg", "cfg"] = "dcfg",
        parallel: bool = False,
        disentangle: Literal["dot", "cosine", "gradient"] = "dot",
        drop_cp: float = 0.1,
        drop_tf: float = 0.1,
        click_weight: float = 1.0,
        number_weight: float = 1.0,
        evolution_weight: float = 0.1,
        disentangle_weight: float = 0.01,
        consistency_weight: float = 0.1,
        chain_weight: float = 1.0,
        denoiser_hidden: int = 256,
        long: int = 50,
        feedback_width: int = 3,
        heads: int = 4,
        levels: int = 32,
        context: bool = True,
        dropout: float = 0.1,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
    ) -> None:
        super().__init__(
            n_users, n_items, dense_width, latent, hidden, sessions, quantiles, long=long, feedback_width=feedback_width, heads=heads,
            levels=levels, click_weight=click_weight, number_weight=number_weight, context=context, dropout=dropout,
            id_dropout=id_dropout, history_dropout=history_dropout,
        )  # fmt: skip
        positive_sizes(T=T, steps=steps, denoiser_hidden=denoiser_hidden)
        for name, value, allowed in (("guidance", guidance, ("dcfg", "cfg")), ("disentangle", disentangle, ("dot", "cosine", "gradient"))):
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
        for name, p in (("drop_cp", drop_cp), ("drop_tf", drop_tf)):
            if not 0 <= p <= 1:
                raise ValueError(f"{name}: expected a probability in [0, 1], got {p}")
        self.weights = {
            "evolution": evolution_weight, "disentangle": disentangle_weight, "consistency": consistency_weight, "chain": chain_weight,
        }  # fmt: skip
        self._weights(gamma_cp=gamma_cp, gamma_tf=gamma_tf, **{f"{name}_weight": w for name, w in self.weights.items()})
        self.gamma_cp, self.gamma_tf, self.guidance, self.disentangle = float(gamma_cp), float(gamma_tf), guidance, disentangle
        self.drop_cp, self.drop_tf = drop_cp, drop_tf
        self.schedule = schedule if isinstance(schedule, NoiseSchedule) else _schedule(schedule, T)
        if steps > self.schedule.T:
            raise ValueError(f"steps: expected at most T = {self.schedule.T}, got {steps}")
        self.steps = steps
        self.register_buffer("alpha_bar", self.schedule.alpha_bar.clone(), persistent=False)
        self.filters = SessionFilters(latent)
        self.denoiser = SessionDenoiser(latent, hidden=denoiser_hidden, dropout=dropout, parallel=parallel)
        if denoiser_hidden >= 2 * latent:
            _start_as_sum(self.denoiser.network)

    alpha_bar: Tensor

    @staticmethod
    def paper_loss() -> dict[str, Any]:
        """Arguments with which the loss is the paper's."""
        return {"chain_weight": 0.0, "number_weight": 0.0}

    @staticmethod
    def chain_loss() -> dict[str, Any]:
        """Arguments with which the loss is led by the chain's own predictions, and gammas of sum 1 extrapolate nothing. Ours."""
        return {
            "chain_weight": 4.0, "gamma_cp": 2 / 3, "gamma_tf": 1 / 3, "evolution_weight": 0.0, "disentangle_weight": 0.0,
            "consistency_weight": 0.0,
        }  # fmt: skip

    @property
    def gammas(self) -> tuple[float, float]:
        """Of both branches of the chain: with ``guidance="cfg"`` there is one."""
        return (self.gamma_cp, self.gamma_tf) if self.guidance == "dcfg" else (self.gamma_cp, 0.0)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` (the total) and its parts on one batch."""
        self.check(batch, target=True)
        self._prepare_if_new(batch)
        parts = self.interests(batch, self.session_count + 1)
        g_cp, g_tf = self._filter(parts)
        there, task = parts.there, slice(-self.session_count, None)
        h = self._start(parts, torch.randn_like(parts.long))
        x, t = self._noised(h)
        fused = self._task(h, x, t, g_cp[:, task], g_tf[:, task], there[:, task])
        losses: dict[str, list[Tensor]] = {}
        for v in fused:
            for name, value in self._prediction_loss(v, parts, batch).items():
                losses.setdefault(name, []).append(value / 2)
        found = {name: torch.stack(values).sum() for name, values in losses.items()}
        total = self._total(found)
        extra = {
            "evolution": lambda: self._evolution(x, t, g_cp[:, :-1], g_tf[:, :-1], there, parts),
            "disentangle": lambda: self._disentangled(x, t, g_cp, g_tf, there),
            "consistency": lambda: _mean((fused[0] - fused[1]).square().mean(1), there[:, task].any(1)),
            "chain": lambda: self._total(self._prediction_loss(self._chain(h, g_cp[:, task], g_tf[:, task], there[:, task]), parts, batch)),
        }
        for name, weight in self.weights.items():
            if weight:
                found[name] = extra[name]()
                total = total + weight * found[name]
        return {"loss": total, **{name: value.detach() for name, value in found.items()}}

    # ------------------------------------------------------------------------------------------- training

    def _filter(self, parts: Interests) -> tuple[Tensor, Tensor]:
        g_cp, g_tf = self.filters(parts.items, parts.mask)
        if self.guidance == "cfg":
            g_cp = g_tf = (g_cp + g_tf) / 2
        return g_cp, g_tf

    def _start(self, parts: Interests, noise: Tensor) -> Tensor:
        """``h_L``, or noise where there is no history."""
        return torch.where(parts.has_long[:, None], parts.long, noise)

    def _noised(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Two (t, noise) per row, one after the other: ``[2 B, D]``, ``[2 B]``."""
        t = torch.randint(1, self.schedule.T + 1, (2 * len(h),), device=h.device)
        return ops.q_sample(h.repeat(2, 1), torch.randn(2 * len(h), h.shape[1], device=h.device, dtype=h.dtype), self.alpha_bar[t]), t

    def _task(self, h: Tensor, x: Tensor, t: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Fused interests at both t, ``2 x [B, D]``."""
        f = self._mixed(x, t, g_cp, g_tf, mask)
        return torch.where(mask.any(1).repeat(2)[:, None], f, h.repeat(2, 1)).chunk(2)

    def _mixed(self, x: Tensor, t: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor) -> Tensor:
        """Algorithm 1's combination of both branches, each without its guidance in some rows: ``[2 B, D]``."""
        a, b = self.gammas
        if not a + b:
            return self.denoiser(x, t, g_cp.repeat(2, 1, 1), mask.repeat(2, 1), empty=mask.new_ones(len(x)))
        B = len(g_cp)
        drop = [(torch.rand(B, device=x.device) < p).repeat(2) for p in (self.drop_cp, self.drop_tf)]  # a row's, at both t
        sides = [(w, g, d) for w, g, d in zip((a, b), (g_cp, g_tf), drop, strict=True) if w]
        n = len(sides)
        f = self.denoiser(
            x.repeat(n, 1), t.repeat(n), torch.cat([g.repeat(2, 1, 1) for _, g, _ in sides]), mask.repeat(2 * n, 1),
            empty=torch.cat([d for *_, d in sides]),
        )  # fmt: skip
        return torch.stack([w / (a + b) * part for (w, *_), part in zip(sides, f.chunk(n), strict=True)]).sum(0)

    def _evolution(self, x: Tensor, t: Tensor, g_cp: Tensor, g_tf: Tensor, there: Tensor, parts: Interests) -> Tensor:
        if there.shape[1] < 2:
            return x.new_zeros(())
        f = self._mixed(x, t, g_cp, g_tf, there[:, :-1])
        items, mask = parts.items[:, -1].detach(), parts.mask[:, -1, :, None]
        aim = torch.where(mask, items, 0.0).sum(1) / mask.sum(1).clamp(min=1)
        rows = (there[:, -1] & there[:, :-1].any(1)).repeat(2)
        return _mean(1 - F.cosine_similarity(f, aim.repeat(2, 1), dim=1), rows)

    def _disentangled(self, x: Tensor, t: Tensor, g_cp: Tensor, g_tf: Tensor, there: Tensor) -> Tensor:
        if self.guidance == "cfg":
            return x.new_zeros(())
        if self.disentangle == "dot":
            return _mean((g_cp * g_tf).sum(2).square() / g_cp.shape[2], there)
        if self.disentangle == "cosine":
            return _mean(F.cosine_similarity(g_cp, g_tf, dim=2).square(), there)
        B = len(g_cp)
        un, cp, tf = self.denoiser.branches(x[:B], t[:B], g_cp, g_tf, there)
        return _mean(F.cosine_similarity(cp - un, tf - un, dim=1).square(), there.any(1))

    def _chain(self, h: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor) -> Tensor:
        """What inference makes of the row, with its gradient."""
        training = self.denoiser.training
        self.denoiser.eval()  # dropout would be noise that inference does not have
        ids = torch.arange(len(h), device=h.device)
        fused = FusionSampler(self).walk(h, g_cp, g_tf, mask, seed=int(torch.randint(2**31, ())), row_ids=ids)
        self.denoiser.train(training)
        return fused

    # ------------------------------------------------------------------------------------------- sampling

    def condition(self, x: dict[str, Tensor]) -> Guidance:
        """The row's interests and guidance, for the sampler."""
        self.check(x, target=False)
        parts = self.interests(x, self.session_count)
        return Guidance(parts, *self._filter(parts), parts.there)

    def sampler(self) -> FusionSampler:
        return FusionSampler(self)


def _start_as_sum(network: MLPDenoiser) -> None:
    """``x + C g`` before training, so a chain of sessions begins as a sum over them: silu(a) - silu(-a) = a. The hidden units that this
    leaves start as they are; without it the interest would have to find its way through K networks first."""
    D = network.width
    with torch.no_grad():
        network.input.weight[: 2 * D] = 0.0
        network.input.bias[: 2 * D] = 0.0
        network.output.bias.zero_()
        network.output.weight[:, 2 * D :] *= 0.5
        network.input.weight[:D, :D] = torch.eye(D)
        network.input.weight[D : 2 * D, :D] = -torch.eye(D)
        network.condition.weight[D : 2 * D] = -network.condition.weight[:D]
        network.output.weight[:, :D] = torch.eye(D)
        network.output.weight[:, D : 2 * D] = -torch.eye(D)


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """Over the rows that count, 0 if there are none; the others' values do not matter."""
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)
