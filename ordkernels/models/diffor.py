"""DiffoR: ordinal regression by denoising a latent of increments, each read off at a noise level of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .._validation.flags import with_flags
from .._validation.numbers import one_of, positive_sizes
from ..nn import IncrementHeads, MLPDenoiser, TransformerDenoiser
from ..nn._eval_mode import eval_mode
from ..nn.denoisers import conditioned
from ..samplers import DiffoRSampler
from ..schedules import NoiseSchedule, aligned_timesteps, mixture_timesteps, noise_schedule
from ._base import GenerativeModel
from ._checks import check_capacity, check_weights
from ._encoders import ContextEncoder, EncoderConfig
from ._noise import LossNoise
from .target_transforms import TargetMap, interval_widths

__all__ = ["DiffoR", "DiffoRLoss", "DiffusionConfig", "IncrementConfig"]

Denoise = Callable[[Tensor, Tensor | float], Tensor]  # (x [B, D] or [B, K, D], t) -> like x, under the batch's condition
_LEAST_DEVIATION = 0.05  # of an increment, as a share of its width: one row in a thousand must not become a latent of 30


@dataclass(frozen=True)
class DiffusionConfig:
    """DiffoR's diffusion of the latent.

    Attributes:
        T: diffusion steps.
        schedule: ``"linear"``, ``"cosine"`` or a ``NoiseSchedule``.
        process: ``"diffusion"`` or ``"flow_matching"`` (its table 6 (b)).
        prediction: what the denoiser predicts: ``"eps"``, ``"x0"`` or ``"v"``.
        denoiser: ``"mlp"`` (its table 6 (c)), whose whole chain is one op, ``"transformer"`` (the paper's), or a module
            ``f(x, t, cond)`` for ``x [B, D]`` and ``[B, K, D]`` with conditions of ``.encoder.width``.
        denoiser_hidden: hidden units of the MLP.
        steps: of the chain, in the sampler (its default) and in the CRPS: a number or a list; None: the aligned timesteps
            alone, or ten without them.
        eta: 0 DDIM to 1 DDPM.
        clip: bound on the entries of the estimated ``z_0``; None: no bound, but 5 for ``prediction="eps"``, whose estimate
            multiplies errors by ``sqrt((1 - alpha_bar) / alpha_bar)``.

    Raises:
        ValueError: unknown names, T below 1.
    """

    T: int = 50
    schedule: Literal["linear", "cosine"] | NoiseSchedule = "linear"
    process: Literal["diffusion", "flow_matching"] = "diffusion"
    prediction: Literal["eps", "x0", "v"] = "v"
    denoiser: Literal["transformer", "mlp"] | nn.Module = "mlp"
    denoiser_hidden: int = 256
    steps: int | Sequence[int] | None = None
    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        positive_sizes(T=self.T)
        one_of("process", self.process, ("diffusion", "flow_matching"))
        one_of("prediction", self.prediction, ("eps", "x0", "v"))
        if not isinstance(self.denoiser, nn.Module) and self.denoiser not in ("transformer", "mlp"):
            raise ValueError(f"denoiser: expected 'transformer', 'mlp' or a module, got {self.denoiser!r}")


@dataclass(frozen=True)
class IncrementConfig:
    """How DiffoR splits a target into increments and reads them.

    Attributes:
        increments: False for one scalar head on all aligned states, averaged (its table 6 (d)).
        aligned: False for all heads at t = 1 (table 6 (e)); with ``increments=False`` one head at t = 1 (table 6 (f)).
        spacing: of the aligned timesteps, ``"linear"`` or ``"log"``.
        widths: of the intervals: ``"uniform"``, or ``"quantile"``: edges at quantiles of the mapped targets.
        transform: of the targets onto [0, 1], ``"quantile"`` or ``"linear"``; None: ``"quantile"`` with uniform widths,
            ``"linear"`` with quantile widths.
        discrete: draws are training labels.
        capacity: rows have a largest value, ``capacity`` in the batch.
        heads_hidden: hidden units of a head.

    Raises:
        ValueError: unknown names.
    """

    increments: bool = True
    aligned: bool = True
    spacing: Literal["linear", "log"] = "linear"
    widths: Literal["uniform", "quantile"] = "uniform"
    transform: Literal["quantile", "linear"] | None = None
    discrete: bool = False
    capacity: bool = False
    heads_hidden: int = 64

    def __post_init__(self) -> None:
        one_of("widths", self.widths, ("uniform", "quantile"))


@dataclass(frozen=True)
class DiffoRLoss:
    """Weights of DiffoR's loss.

    Attributes:
        increment_weight: of the heads' squared errors.
        crps_weight: of the CRPS of the chain's own draws.
        crps_draws: their number, at least 2.
        crps_space: CRPS of ``"mapped"`` targets, of ``"linear"`` ones over their standard deviation, or the sum of ``"both"``.
        rho: share of rows whose noise loss is at an aligned timestep.

    Raises:
        ValueError: an unknown space, weights below 0, rho outside [0, 1], fewer than 2 draws.
    """

    increment_weight: float = 1.0
    crps_weight: float = 10.0
    crps_draws: int = 4
    crps_space: Literal["both", "linear", "mapped"] = "both"
    rho: float = 0.5

    def __post_init__(self) -> None:
        one_of("crps_space", self.crps_space, ("both", "linear", "mapped"))
        check_weights(increment_weight=self.increment_weight, crps_weight=self.crps_weight)
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho: expected a share in [0, 1], got {self.rho}")
        if self.crps_draws < 2:
            raise ValueError(f"crps_draws: expected at least 2 (the fair score compares draws with each other), got {self.crps_draws}")


class DiffoR(GenerativeModel):
    r"""Diffusion ordinal regression: a target is split into K increments, a denoiser recovers a latent that holds them, and
    head k reads increment k at its own timestep, coarse ones under heavy noise, fine ones under little.

    .. math:: v_k = \mathrm{clip}(y - c_{k-1}, 0, w_k), \quad z_0 = A\, \mathrm{standardised}(v), \quad
              \hat v_k = w_k\, \sigma(g_k(\hat z_0(\tau_k))), \quad \hat y = \sum_k \min(\hat v_k, C - \hat v_1 - \dots)

    Training: the denoiser's error at one timestep per row, drawn from ``(1 - rho)`` uniform and ``rho`` aligned ones, with
    ``z_0`` detached, plus ``increment_weight`` times the mean of ``(v_k - vhat_k)^2`` on K noised copies of ``z_0``, one
    per aligned timestep, in one call of the denoiser; the latter trains A too, which is scaled so that
    ``E |z_0|^2 = latent``. Inference: ``samplers.DiffoRSampler``.

    **Deviations from the paper:** ``crps_weight`` times the CRPS of ``crps_draws`` draws of the reverse chain itself, with
    their gradient through all of it. In the paper's losses every state contains some of the row's own target, so nothing ever
    asks the chain, which starts from noise alone, for draws that are spread as the targets are: 80 % intervals hold fewer
    rows, and their median errs more. ``DiffoR.paper_loss()`` has the arguments of the paper's loss. The default denoiser is
    the MLP of its table 6 (c), not the Transformer: its chain is one call (``ops.denoise_chain``), and with the paper's loss
    on abalone (one seed) it had the lower MAE (1.57 against 1.61) and CRPS (1.25 against 1.33) in a sixteenth of the
    training time. The map of targets, v-prediction, ``A``'s scale and ``rho = 0.5`` are not the paper's either.

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
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        latent: D.
        hidden: width of the context.
        heads: K, the number of increments.
        quantiles: L, of the histories.
        dropout: of the context encoder and the denoiser.
        diffusion_config: schedule, denoiser and chain.
        increment_config: targets, intervals and heads.
        loss_config: weights of the loss.
        encoder_config: of ids and histories.
        flags: fields of the four configs as plain keywords: ``DiffoR(..., T=100, discrete=True)``.

    Raises:
        ValueError: unknown names, sizes below 1, T below K, weights out of range, and malformed batches.
        TypeError: unknown flags.

    Source: DiffoR ("A Unified Continuous Generative Framework for Universal Ordinal Regression"), section 4.

    Example:
        >>> train = {"dense": torch.randn(64, 2), "y": torch.arange(64) % 7.0}
        >>> model = DiffoR(dense_width=2, discrete=True)
        >>> model.prepare(train)
        >>> model.sample({"dense": train["dense"]}, 8).shape
        torch.Size([64, 8])
    """

    v_mean: Tensor  # [H], of the increments
    v_spread: Tensor  # [H]
    v_moment: Tensor  # [H, H]: E s s^T of the standardised increments s
    alpha_bar: Tensor  # [T + 1]
    taus: Tensor  # [K], the aligned timesteps

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
        dropout: float = 0.1,
        diffusion_config: DiffusionConfig | None = None,
        increment_config: IncrementConfig | None = None,
        loss_config: DiffoRLoss | None = None,
        encoder_config: EncoderConfig | None = None,
        **flags: Any,
    ) -> None:
        super().__init__()
        diffusion, reading, loss, encoder = with_flags(
            flags,
            diffusion_config or DiffusionConfig(),
            increment_config or IncrementConfig(),
            loss_config or DiffoRLoss(),
            encoder_config or EncoderConfig(),
        )
        positive_sizes(latent=latent, heads=heads)
        self._set_chain(diffusion, reading, heads)
        self.noise_width = latent
        self.loss_config, self.rho = loss, loss.rho
        self.increments, self.widths, self.discrete, self.capacity = reading.increments, reading.widths, reading.discrete, reading.capacity
        self.encoder = ContextEncoder(n_users, n_items, dense_width, hidden, quantiles, dropout=dropout, config=encoder)
        self.batch_keys = (*self.encoder.keys, *(("capacity",) if self.capacity else ()), "y")
        self.denoiser = _denoiser(diffusion, latent, self.encoder.width, heads, dropout)
        H = heads if self.increments else 1
        self.target = TargetMap(reading.transform or ("quantile" if self.widths == "uniform" else "linear"))
        self.heads = IncrementHeads(latent, H, reading.heads_hidden, widths=[1.0] * H)
        self.latent_map = nn.Parameter(torch.randn(latent, H))  # A, before it is scaled
        self.register_buffer("v_mean", torch.full((H,), 0.5))
        self.register_buffer("v_spread", torch.ones(H))
        self.register_buffer("v_moment", torch.eye(H))

    def _set_chain(self, config: DiffusionConfig, reading: IncrementConfig, heads: int) -> None:
        """The schedule, and what a sampler needs to know of the chain."""
        self.process, self.prediction, self.eta = config.process, config.prediction, config.eta
        self.clip = 5.0 if config.clip is None and config.prediction == "eps" and config.process == "diffusion" else config.clip
        self.schedule = noise_schedule(config.schedule, config.T)
        T = self.schedule.T
        self.aligned: list[int] = aligned_timesteps(heads, T, reading.spacing).tolist() if reading.aligned else [1]
        default = self.aligned if reading.aligned else min(T, 10)
        self.steps: int | Sequence[int] = default if config.steps is None else config.steps
        self.register_buffer("alpha_bar", self.schedule.alpha_bar, persistent=False)
        self.register_buffer("taus", torch.tensor(self.aligned), persistent=False)

    @staticmethod
    def paper_loss() -> dict[str, Any]:
        """Arguments with which the loss is the paper's."""
        return {"crps_weight": 0.0, "increment_weight": 10.0}

    @staticmethod
    def last_step() -> dict[str, Any]:
        """Arguments with which every head reads the chain's last estimate (the paper's table 6 (e)).

        Where targets have many small values, as watch times do, their draws are better calibrated: coarse increments, read under heavy
        noise, are near the row's mean and seldom small enough (``bench/QUALITY.md``).
        """
        return {"aligned": False}

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Fits the map of targets, the widths and the increments' moments on the whole training split."""
        super().prepare(train)
        with torch.no_grad():
            self.target.fit(train["y"])
            if self.discrete and len(train["y"].unique()) > len(self.target.values):
                raise ValueError(f"discrete: expected at most {len(self.target.values)} distinct labels, got {len(train['y'].unique())}")
            u = self.target(train["y"].to(self.v_mean.device, self.v_mean.dtype))
            self.heads.widths.copy_(interval_widths(u, self.heads.heads, self.widths))
            v = ops.encode_increments(u * self.heads.heads, self.heads.widths)
            self.v_mean.copy_(v.mean(dim=0))
            self.v_spread.copy_(torch.maximum(v.std(dim=0, correction=0), _LEAST_DEVIATION * self.heads.widths))
            s = (v - self.v_mean) / self.v_spread
            moment = s.T @ s / len(s)
            self.v_moment.copy_(moment if float(moment.trace()) > 0 else torch.eye(len(moment)))  # of equal targets nothing can be told

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss on one batch, and its parts: ``loss`` (the total), ``noise``, ``increment``, ``crps``."""
        self.encoder.check(batch, target=True)
        check_capacity(batch, self.capacity)
        self._prepare_on_first_batch(batch)
        context = self.encoder(batch)
        v = ops.encode_increments(self.target(batch["y"]) * self.heads.heads, self.heads.widths)  # [B, H]
        z0 = self._latent(v)
        random, denoise = LossNoise(batch, context), self._conditioned(context)
        parts = {
            "noise": self._noise_loss(z0.detach(), context, random, denoise),
            "increment": self._increment_loss(v, z0, context, random, denoise),
        }
        total = parts["noise"] + self.loss_config.increment_weight * parts["increment"]
        if self.loss_config.crps_weight:
            parts["crps"] = self._crps_loss(batch, context, random, denoise)
            total = total + self.loss_config.crps_weight * parts["crps"]
        return {"loss": total, **{k: p.detach() for k, p in parts.items()}}

    def _conditioned(self, context: Tensor) -> Denoise:
        return conditioned(self.denoiser, context, self.schedule.T)

    def _latent(self, v: Tensor) -> Tensor:
        """``z_0 = A s``, with A scaled so that ``E |z_0|^2 = tr(A M A^T) = D``: ``[B, H] -> [B, D]``."""
        A: Tensor = self.latent_map
        A = A * (A.shape[0] / ((A @ self.v_moment) * A).sum()).sqrt()
        return ((v - self.v_mean) / self.v_spread) @ A.T

    def _noise_loss(self, z0: Tensor, context: Tensor, random: LossNoise, denoise: Denoise | None = None) -> Tensor:
        denoise = denoise or self._conditioned(context)
        T = self.schedule.T
        t = mixture_timesteps(len(z0), T, self.aligned, self.rho, random.seed(), row_ids=random.ids(len(z0)))
        noise = random.normal(*z0.shape)
        if self.process == "flow_matching":
            return F.mse_loss(denoise(ops.flow_sample(z0, noise, t / T), t), noise - z0)
        ab = self.alpha_bar[t]
        out = denoise(ops.q_sample(z0, noise, ab), t)
        if self.prediction == "v":
            aim = ab.sqrt()[:, None] * noise - (1 - ab).sqrt()[:, None] * z0
        else:
            aim = noise if self.prediction == "eps" else z0
        return F.mse_loss(out, aim)

    def _increment_loss(self, v: Tensor, z0: Tensor, context: Tensor, random: LossNoise, denoise: Denoise | None = None) -> Tensor:
        denoise = denoise or self._conditioned(context)
        noise = random.normal(len(z0), len(self.aligned), z0.shape[1])  # [B, K, D]
        if self.process == "flow_matching":
            t = self.taus / self.schedule.T
            z = ops.flow_sample(z0, noise, t)
            states = z - t[:, None] * denoise(z, self.taus)
        else:
            ab = self.alpha_bar[self.taus]
            z = ops.q_sample(z0, noise, ab)
            states = ops.predict_x0(z, denoise(z, self.taus), ab, prediction=self.prediction, clip=self.clip)
        return F.mse_loss(self._increments(states), v)

    def _crps_loss(self, batch: dict[str, Tensor], context: Tensor, random: LossNoise, denoise: Denoise | None = None) -> Tensor:
        """CRPS of the chain's own draws, with their gradient through all of it.

        The denoiser drops nothing here: it would spread the draws of a row, and sampling has no dropout to do that."""
        y, H, m = batch["y"].to(context.dtype), self.heads.heads, self.loss_config.crps_draws
        noise = random.normal(len(y), m, self.noise_width)
        keyed: dict[str, Any] = {}
        if self.eta:  # the steps' own noise, another each time
            keyed = {"seed": random.seed(), "row_ids": random.ids(len(y))}
        with eval_mode(self.denoiser):
            states = DiffoRSampler(self).sample_stepwise(noise, context, denoise=denoise, **keyed).flatten(0, 1)
        cap = (self.target(batch["capacity"]) * H).repeat_interleave(m) if self.capacity else None
        u = ops.nested_min(self._increments(states), self.heads.widths, cap)[0].view(-1, m) / H
        mapped, linear = self.loss_config.crps_space != "linear", self.loss_config.crps_space != "mapped"
        loss = ops.crps(u, self.target(y), fair=True).mean() if mapped else u.new_zeros(())
        if linear:
            loss = loss + ops.crps(self.target.inverse(u) / self.scale, y / self.scale, fair=True).mean()
        return loss

    def _increments(self, states: Tensor) -> Tensor:
        """Signal estimates at the aligned timesteps ``[B, K, D]`` (``[B, 1, D]`` where all heads read one) -> ``[B, H]``."""
        B, K, D = states.shape
        read: Tensor = self.heads(states if self.increments else states.reshape(B * K, 1, D))
        return read if self.increments else read.view(B, K, 1).mean(dim=1)

    def condition(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The context ``[B, C]`` of the rows' chains, and their capacities ``[B]``, if there are any."""
        self.encoder.check(x, target=False)
        check_capacity(x, self.capacity)
        return self.encoder(x), x["capacity"] if self.capacity else None

    def read_out(self, states: Tensor, capacity: Tensor | None = None) -> Tensor:
        """Values ``[N]``, in the target's unit, of signal estimates ``[N, K, D]`` at the aligned timesteps."""
        H = self.heads.heads
        cap = None if capacity is None else self.target(capacity) * H
        value, _ = ops.nested_min(self._increments(states), self.heads.widths, cap)
        y = self.target.read(value / H)
        y = self.target.nearest(y) if self.discrete else y
        return y if capacity is None else torch.minimum(y, capacity.to(y.dtype))

    def sampler(self) -> DiffoRSampler:
        """``samplers.DiffoRSampler`` with the model's steps and eta."""
        return DiffoRSampler(self)


def _denoiser(config: DiffusionConfig, latent: int, context: int, heads: int, dropout: float) -> nn.Module:
    if isinstance(config.denoiser, nn.Module):
        return config.denoiser
    if config.denoiser == "mlp":
        return MLPDenoiser(latent, context, config.denoiser_hidden, dropout=dropout)
    return TransformerDenoiser(latent, context, heads, dropout=dropout)
