"""DiffoR: ordinal regression by denoising a latent of increments, each read off at a noise level of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .._validation.numbers import positive_sizes
from ..nn import IncrementHeads, MLPDenoiser, TransformerDenoiser
from ..samplers import DiffoRSampler
from ..schedules import NoiseSchedule, aligned_timesteps, mixture_timesteps
from .features import TargetModel
from .tabular import ContextEncoder
from .targets import TargetMap, interval_widths

__all__ = ["DiffoR"]

_LEAST_SPREAD = 0.05  # of an increment, as a share of its width: one row in a thousand must not become a latent of 30


class DiffoR(TargetModel):
    r"""Diffusion ordinal regression: a target is split into K increments, a denoiser recovers a latent that holds them, and
    head k reads increment k at its own timestep, coarse ones under heavy noise, fine ones under little.

    .. math:: v_k = \mathrm{clip}(y - c_{k-1}, 0, w_k), \quad z_0 = A\, \mathrm{standardised}(v), \quad
              \hat v_k = w_k\, \sigma(g_k(\hat z_0(\tau_k))), \quad \hat y = \sum_k \min(\hat v_k, C - \hat v_1 - \dots)

    Training: the denoiser's error at one timestep per row, drawn from ``(1 - rho)`` uniform and ``rho`` aligned ones, with
    ``z_0`` held fixed, plus ``increment_weight`` times the mean of ``(v_k - vhat_k)^2`` on K noised copies of ``z_0``, one
    per aligned timestep, in one call of the denoiser; the latter trains A too, which is scaled so that
    ``E |z_0|^2 = latent``. Inference: ``samplers.DiffoRSampler``.

    **Ours, not the paper's:** ``crps_weight`` times the CRPS of ``crps_draws`` draws of the reverse chain itself, with their
    gradient through all of it, on mapped targets, on targets over their deviation (``"linear"``), or the sum of both. In the
    paper's losses every state holds some of the row's own target, so nothing ever asks the chain, which starts from noise
    alone, for draws that are spread as the targets are: 80 % intervals hold fewer rows, and their median errs more.
    ``DiffoR.paper_loss()`` has the arguments of the paper's loss.

    Targets, non-negative, first go through a monotone map onto [0, 1] (``transform``: ``"quantile"``, by training
    quantiles; ``"linear"``, by least and largest), then onto [0, K], where uniform intervals have width 1
    (``widths="uniform"``); ``widths="quantile"`` puts the edges at quantiles of linearly mapped targets instead. Draws are
    mapped back, so they lie in the range of the training targets; with ``discrete=True`` they are training labels.

    ========================  ===================================================================================
    batch key                 shape
    ========================  ===================================================================================
    ``y``                     ``[B]``, targets, at least 0 (not needed by the samplers)
    ``dense``                 ``[B, dense_width]``, standardised features
    ``user``, ``item``, ``q_user``, ``q_item``, ``has_user``, ``has_item``: only with ``n_users``, ``n_items`` above 0,
    as in ``FlowTime``
    ``capacity``              ``[B]``, only with ``capacity=True``: the largest value that a row's prediction may take
    ========================  ===================================================================================

    Args:
        n_users, n_items: sizes of the id tables; both 0 for plain tables.
        latent: D; heads: K.
        T, schedule: diffusion steps; ``"linear"``, ``"cosine"`` or a ``NoiseSchedule``.
        process: ``"diffusion"`` or ``"flow_matching"`` (its table 6 (b)).
        denoiser: ``"transformer"``, ``"mlp"`` (table 6 (c)), or a module ``f(x, t, cond)`` for ``x [B, D]`` and
            ``[B, K, D]`` with conditions of ``.encoder.width``.
        increments: False for one scalar head on all aligned states, averaged (table 6 (d)).
        aligned: False for all heads at t = 1 (table 6 (e)); with ``increments=False`` one head at t = 1 (table 6 (f)).
        spacing: of the aligned timesteps, ``"linear"`` or ``"log"``.
        transform: None for ``"quantile"`` with uniform widths, ``"linear"`` with quantile widths.
        steps: of the chain, in the sampler (its default) and in the CRPS; None: the aligned timesteps alone, or ten without
            them. eta: 0 DDIM to 1 DDPM.
        clip: bound on the entries of the estimated ``z_0``; None: no bound, but 5 for ``prediction="eps"``, whose estimate
            multiplies errors by ``sqrt((1 - alpha_bar) / alpha_bar)``.
        encoder: of the histories, ``"transformer"`` or ``"mlp"``; the other arguments as ``FlowTime``.

    Errors: ``ValueError`` for unknown names, sizes below 1, T below K, weights out of range, and malformed batches.

    Source: DiffoR ("A Unified Continuous Generative Framework for Universal Ordinal Regression"), section 4. The map of
    targets, v-prediction, ``A``'s scale and ``rho = 0.5`` are ours.

    Example::

        >>> train, test = ordkernels.data.ordinal("abalone")
        >>> model = DiffoR(dense_width=10, discrete=True)
        >>> ordkernels.models.fit(model, train, epochs=30, batch_size=256)
        >>> model.predict(test)
    """

    def __init__(
        self,
        n_users: int = 0,
        n_items: int = 0,
        dense_width: int = 1,
        latent: int = 64,
        hidden: int = 64,
        heads: int = 8,
        quantiles: int = 20,
        *,
        T: int = 50,
        schedule: Literal["linear", "cosine"] | NoiseSchedule = "linear",
        process: Literal["diffusion", "flow_matching"] = "diffusion",
        prediction: Literal["eps", "x0", "v"] = "v",
        denoiser: Literal["transformer", "mlp"] | nn.Module = "transformer",
        increments: bool = True,
        aligned: bool = True,
        spacing: Literal["linear", "log"] = "linear",
        widths: Literal["uniform", "quantile"] = "uniform",
        transform: Literal["quantile", "linear"] | None = None,
        discrete: bool = False,
        capacity: bool = False,
        increment_weight: float = 10.0,
        crps_weight: float = 10.0,
        crps_draws: int = 2,
        crps_space: Literal["both", "linear", "mapped"] = "both",
        rho: float = 0.5,
        steps: int | Sequence[int] | None = None,
        eta: float = 0.0,
        clip: float | None = None,
        denoiser_hidden: int = 256,
        heads_hidden: int = 64,
        encoder: Literal["transformer", "mlp"] = "transformer",
        user_history: bool = True,
        item_history: bool = True,
        pattern_width: int = 16,
        id_width: int = 8,
        dropout: float = 0.1,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        positive_sizes(latent=latent, heads=heads, T=T)
        for name, value, allowed in (
            ("process", process, ("diffusion", "flow_matching")),
            ("prediction", prediction, ("eps", "x0", "v")),
            ("widths", widths, ("uniform", "quantile")),
            ("crps_space", crps_space, ("both", "linear", "mapped")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
        if not 0 <= rho <= 1:
            raise ValueError(f"rho: expected a share in [0, 1], got {rho}")
        for name, weight in (("increment_weight", increment_weight), ("crps_weight", crps_weight)):
            if not weight >= 0:
                raise ValueError(f"{name}: expected at least 0, got {weight}")
        if crps_draws < 2:
            raise ValueError(f"crps_draws: expected at least 2 (the fair score compares draws with each other), got {crps_draws}")
        self.process, self.prediction, self.eta, self.rho = process, prediction, eta, rho
        self.increments, self.width_kind, self.discrete, self.capacity = increments, widths, discrete, capacity
        self.increment_weight, self.crps_weight, self.crps_draws, self.crps_space = increment_weight, crps_weight, crps_draws, crps_space
        self.clip = 5.0 if clip is None and prediction == "eps" and process == "diffusion" else clip
        self.noise_width = latent

        self.schedule = schedule if isinstance(schedule, NoiseSchedule) else _schedule(schedule, T)
        T = self.schedule.T
        self.aligned: list[int] = aligned_timesteps(heads, T, spacing).tolist() if aligned else [1]
        self.steps = (self.aligned if aligned else min(T, 10)) if steps is None else steps
        self.register_buffer("alpha_bar", self.schedule.alpha_bar.clone(), persistent=False)
        self.register_buffer("taus", torch.tensor(self.aligned), persistent=False)

        self.encoder = ContextEncoder(
            n_users, n_items, dense_width, hidden, quantiles, kind=encoder, user_history=user_history, item_history=item_history,
            pattern_width=pattern_width, id_width=id_width, dropout=dropout, id_dropout=id_dropout, history_dropout=history_dropout,
        )  # fmt: skip
        self.batch_keys = (*self.encoder.keys, *(("capacity",) if capacity else ()), "y")
        context = self.encoder.width
        self.denoiser: nn.Module
        if isinstance(denoiser, nn.Module):
            self.denoiser = denoiser
        elif denoiser == "mlp":
            self.denoiser = MLPDenoiser(latent, context, denoiser_hidden, dropout=dropout)
        elif denoiser == "transformer":
            self.denoiser = TransformerDenoiser(latent, context, heads, dropout=dropout)
        else:
            raise ValueError(f"denoiser: expected 'transformer', 'mlp' or a module, got {denoiser!r}")

        H = heads if increments else 1
        self.target = TargetMap(transform or ("quantile" if widths == "uniform" else "linear"))
        self.heads = IncrementHeads(latent, H, heads_hidden, widths=[1.0] * H)
        self.latent_map = nn.Parameter(torch.randn(latent, H))  # A, before it is scaled
        self.register_buffer("v_mean", torch.full((H,), 0.5))
        self.register_buffer("v_spread", torch.ones(H))
        self.register_buffer("v_moment", torch.eye(H))  # E s s^T of the standardised increments s

    v_mean: Tensor
    v_spread: Tensor
    v_moment: Tensor
    alpha_bar: Tensor
    taus: Tensor

    @staticmethod
    def paper_loss() -> dict[str, Any]:
        """Arguments with which the loss is the paper's."""
        return {"crps_weight": 0.0}

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Fits the map of targets, the widths and the increments' moments on the whole training split."""
        super().prepare(train)
        with torch.no_grad():
            self.target.fit(train["y"])
            if self.discrete and len(train["y"].unique()) > len(self.target.values):
                raise ValueError(f"discrete: expected at most {len(self.target.values)} distinct labels, got {len(train['y'].unique())}")
            u = self.target(train["y"].to(self.v_mean.device, self.v_mean.dtype))
            self.heads.widths.copy_(interval_widths(u, self.heads.heads, self.width_kind))
            v = ops.encode_increments(u * self.heads.heads, self.heads.widths)
            self.v_mean.copy_(v.mean(dim=0))
            self.v_spread.copy_(torch.maximum(v.std(dim=0, correction=0), _LEAST_SPREAD * self.heads.widths))
            s = (v - self.v_mean) / self.v_spread
            self.v_moment.copy_(s.T @ s / len(s))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss on one batch, and its parts: ``loss`` (the total), ``noise``, ``increment``, ``crps``."""
        self.encoder.check(batch, target=True)
        self._check_capacity(batch)
        self._prepare_if_new(batch)
        context = self.encoder(batch)
        v = ops.encode_increments(self.target(batch["y"]) * self.heads.heads, self.heads.widths)  # [B, H]
        z0 = self._latent(v)
        parts = {"noise": self._noise_loss(z0.detach(), context), "increment": self._increment_loss(v, z0, context)}
        total = parts["noise"] + self.increment_weight * parts["increment"]
        if self.crps_weight:
            parts["crps"] = self._crps_loss(batch, context)
            total = total + self.crps_weight * parts["crps"]
        return {"loss": total, **{k: p.detach() for k, p in parts.items()}}

    def _latent(self, v: Tensor) -> Tensor:
        """``z_0 = A s``, with A scaled so that ``E |z_0|^2 = tr(A M A^T) = D``: ``[B, H] -> [B, D]``."""
        A: Tensor = self.latent_map
        A = A * (A.shape[0] / ((A @ self.v_moment) * A).sum()).sqrt()
        return ((v - self.v_mean) / self.v_spread) @ A.T

    def _noise_loss(self, z0: Tensor, context: Tensor) -> Tensor:
        T = self.schedule.T
        seed = int(torch.randint(2**31, ()))  # from torch's own stream, on the host
        t = mixture_timesteps(len(z0), T, self.aligned, self.rho, seed, device=z0.device)
        noise = torch.randn_like(z0)
        if self.process == "flow_matching":
            return F.mse_loss(self.denoiser(ops.flow_sample(z0, noise, t / T), t, context), noise - z0)
        ab = self.alpha_bar[t]
        out = self.denoiser(ops.q_sample(z0, noise, ab), t, context)
        if self.prediction == "v":
            aim = ab.sqrt()[:, None] * noise - (1 - ab).sqrt()[:, None] * z0
        else:
            aim = noise if self.prediction == "eps" else z0
        return F.mse_loss(out, aim)

    def _increment_loss(self, v: Tensor, z0: Tensor, context: Tensor) -> Tensor:
        noise = torch.randn(len(z0), len(self.aligned), z0.shape[1], device=z0.device, dtype=z0.dtype)  # [B, K, D]
        if self.process == "flow_matching":
            t = self.taus / self.schedule.T
            z = ops.flow_sample(z0, noise, t)
            states = z - t[:, None] * self.denoiser(z, self.taus, context)
        else:
            ab = self.alpha_bar[self.taus]
            z = ops.q_sample(z0, noise, ab)
            states = ops.predict_x0(z, self.denoiser(z, self.taus, context), ab, prediction=self.prediction, clip=self.clip)
        return F.mse_loss(self._increments(states), v)

    def _crps_loss(self, batch: dict[str, Tensor], context: Tensor) -> Tensor:
        """CRPS of the chain's own draws, with their gradient through all of it.

        The denoiser drops nothing here: it would spread the draws of a row, and sampling has no dropout to do that."""
        y, H, m = batch["y"].to(context.dtype), self.heads.heads, self.crps_draws
        noise = torch.randn(len(y), m, self.noise_width, device=y.device, dtype=context.dtype)
        keyed: dict[str, Any] = {}
        if self.eta:  # the steps' own noise, another each time
            keyed = {"seed": int(torch.randint(2**31, ())), "row_ids": torch.arange(len(y), device=y.device)}
        training = self.denoiser.training
        self.denoiser.eval()
        states = DiffoRSampler(self).walk(noise, context, **keyed).flatten(0, 1)
        self.denoiser.train(training)
        cap = (self.target(batch["capacity"]) * H).repeat_interleave(m) if self.capacity else None
        u = ops.nested_min(self._increments(states), self.heads.widths, cap)[0].view(-1, m) / H
        mapped, linear = self.crps_space != "linear", self.crps_space != "mapped"
        loss = ops.crps(u, self.target(y), fair=True).mean() if mapped else u.new_zeros(())
        if linear:
            loss = loss + ops.crps(self.target.inverse(u) / self.scale, y / self.scale, fair=True).mean()
        return loss

    def _increments(self, states: Tensor) -> Tensor:
        """Signal estimates at the aligned timesteps ``[B, K, D]`` (``[B, 1, D]`` where all heads read one) -> ``[B, H]``."""
        if self.increments:
            return self.heads(states)
        B, K, D = states.shape
        return self.heads(states.reshape(B * K, 1, D)).view(B, K, 1).mean(dim=1)

    # ------------------------------------------------------------------------------------------- sampling

    def condition(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The context ``[B, C]`` of the rows' chains, and their capacities ``[B]``, if there are any."""
        self.encoder.check(x, target=False)
        self._check_capacity(x)
        return self.encoder(x), x["capacity"] if self.capacity else None

    def _check_capacity(self, x: dict[str, Tensor]) -> None:
        if not self.capacity:
            return
        if "capacity" not in x:
            raise ValueError(f"batch: expected the key 'capacity', got {', '.join(sorted(x))}")
        if list(x["capacity"].shape) != [len(x["dense"])]:
            raise ValueError(f"capacity: expected shape [{len(x['dense'])}], got {list(x['capacity'].shape)}")

    def read_out(self, states: Tensor, capacity: Tensor | None = None) -> Tensor:
        """Values ``[N]``, in the target's unit, of signal estimates ``[N, K, D]`` at the aligned timesteps."""
        H = self.heads.heads
        cap = None if capacity is None else self.target(capacity) * H
        value, _ = ops.nested_min(self._increments(states), self.heads.widths, cap)
        y = self.target.inverse(value / H)
        y = self.target.nearest(y) if self.discrete else y
        return y if capacity is None else torch.minimum(y, capacity.to(y.dtype))

    def sample(self, x: dict[str, Tensor], n: int, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` draws for each row, ``[B, n]``, in the target's unit."""
        return DiffoRSampler(self).sample(x, n, seed, row_ids)

    def predict(
        self,
        x: dict[str, Tensor],
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean"] = "median",
    ) -> Tensor:
        """The median or mean of ``n`` draws, ``[B]``."""
        return DiffoRSampler(self).predict(x, n, seed, row_ids, statistic)

    def interval(self, x: dict[str, Tensor], level: float, n: int = 128, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The central interval that holds ``level`` of ``n`` draws, ``[B, 2]``."""
        return DiffoRSampler(self).interval(x, level, n, seed, row_ids)


def _schedule(kind: Any, T: int) -> NoiseSchedule:
    if kind not in ("linear", "cosine"):
        raise ValueError(f"schedule: expected 'linear', 'cosine' or a NoiseSchedule, got {kind!r}")
    return NoiseSchedule.linear(T) if kind == "linear" else NoiseSchedule.cosine(T)
