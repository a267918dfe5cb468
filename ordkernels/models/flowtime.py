"""FlowTime: a one-step generative model of watch time with a flow prior for each user and item."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .._validation.numbers import positive_sizes
from ..nn.flows import Constrained
from ..nn.priors import DiffusionPrior, FlowPrior, StandardPrior
from ..samplers import FlowSampler
from .features import FeatureEncoder, TargetModel, check_batch

__all__ = ["FlowTime"]


class Condition(NamedTuple):
    """What a row's draws are conditioned on."""

    context: Tensor  # [B, C]: for the decoder and the posterior
    patterns: Tensor  # [B, 2d]: for the prior
    has_user: Tensor  # [B], after histories were dropped
    has_item: Tensor


class FlowTime(TargetModel):
    """Watch time generated in one pass: a VAE whose prior is a planar flow made from the row's own histories.

    Draws: ``z_0 ~ N(0, I)``, ``z = flow(z_0; h)``, ``yhat = decoder(z, x)``, with ``h`` the encoded quantiles of the user's
    and the item's past targets; a row's draws are its predictive distribution. Training:

        ``huber_weight Huber(y, decoder(flow(z_0))) + kl_weight KL(q(z_0 | y, x) || N(0, I)) + wdist_weight W-dist + crps_weight CRPS``

    with ``z_0`` from the posterior in the first two, and ``quantiles`` prior draws in the last two: W-dist draws their
    order statistics to the user's (share ``lam``) and the item's history quantiles, CRPS to the row's own target. A side
    without history gives its W-dist weight to the other; a row without either has no such term. Seconds (or whatever
    the unit is) are divided by the training targets' deviation in every loss; inside, values are ``log1p`` of seconds.

    **Ours, not the paper's:** the CRPS term. The paper's loss never compares a prior draw with the row's target, and
    what W-dist pulls the draws to is the history, whatever the row's features say. ``FlowTime.paper_loss()`` has the
    arguments of the paper's loss. Also ours: the weights (the paper gives none; at ``huber_weight=1``
    the draws come out narrower, and 80 % intervals hold fewer rows), embeddings that start at zero and are
    dropped in training, histories dropped in training, and ``decoder_patterns``: the decoder sees ``h`` too.

    ===============================  ================================================================================
    ``user``, ``item``               int64 ``[B]``
    ``dense``                        ``[B, dense_width]``, standardised
    ``q_user``, ``q_item``           ``[B, quantiles]``, history quantiles in the target's unit, non-negative
    ``has_user``, ``has_item``       ``[B]``, 1 where there is a history (where not, the quantiles are ignored)
    ``y``                            ``[B]``, finite and non-negative; for ``loss`` only
    ===============================  ================================================================================

    Args:
        n_users, n_items: sizes of the id embeddings.
        dense_width: columns of ``dense``.
        latent, hidden: widths D of the latent and of the networks.
        layers: planar layers K; the paper has 1 to 8 and finds 4 best.
        quantiles: L, of the histories and of the prior draws in training.
        lam: W-dist's share of the user's side.
        prior: ``"flow"``; the paper's ablations ``"ddpm"``, ``"flow_matching"``, ``"none"`` (standard normal).
        constrained: of ``ops.planar_flow``.
        encoder: of the quantiles: ``"transformer"`` or ``"mlp"``.
        user_history, item_history: False takes that side's history away.
        crps_space: CRPS of ``log1p`` values, of ``"linear"`` ones, or the sum of both.
        diffusion_steps: of the ``"ddpm"`` and ``"flow_matching"`` priors.

    ``sample`` / ``predict`` / ``interval`` take a batch without ``y`` and are ``samplers.FlowSampler``'s.

    Errors: ``ValueError`` naming the argument or the batch's key, what was expected and what came.

    Source: FlowTime (arXiv:2606.01352), eq. 9-22 and table 4.

    Example::

        >>> model = FlowTime(n_users, n_items, train["dense"].shape[1])
        >>> ordkernels.models.fit(model, train)
        >>> seconds = model.predict(test, n=64, seed=7, row_ids=test["row"])
        >>> low_high = model.interval(test, 0.8, row_ids=test["row"])          # [B, 2]
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        latent: int = 64,
        hidden: int = 64,
        layers: int = 4,
        quantiles: int = 20,
        lam: float = 0.8,
        *,
        prior: Literal["flow", "ddpm", "flow_matching", "none"] = "flow",
        constrained: Constrained = True,
        encoder: Literal["transformer", "mlp"] = "transformer",
        user_history: bool = True,
        item_history: bool = True,
        huber_weight: float = 0.1,
        kl_weight: float = 0.01,
        wdist_weight: float = 0.1,
        crps_weight: float = 1.0,
        crps_space: Literal["both", "linear", "log"] = "both",
        decoder_patterns: bool = True,
        pattern_width: int = 16,
        id_width: int = 8,
        dropout: float = 0.2,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
        diffusion_steps: int = 10,
    ) -> None:
        super().__init__()
        positive_sizes(latent=latent, layers=layers, quantiles=quantiles)
        if not 0 <= lam <= 1:
            raise ValueError(f"lam: expected a share in [0, 1], got {lam}")
        if crps_space not in ("both", "linear", "log"):
            raise ValueError(f"crps_space: expected 'both', 'linear' or 'log', got {crps_space!r}")
        self.dense_width, self.quantiles, self.lam = dense_width, quantiles, lam
        self.noise_width = latent
        self.weights = {"huber": huber_weight, "kl": kl_weight, "wdist": wdist_weight, "crps": crps_weight, "prior": 1.0}
        self.crps_space = crps_space
        self.encoder = FeatureEncoder(
            n_users,
            n_items,
            dense_width,
            hidden=hidden,
            quantiles=quantiles,
            id_width=id_width,
            pattern_width=pattern_width,
            encoder=encoder,
            user_history=user_history,
            item_history=item_history,
            dropout=dropout,
            id_dropout=id_dropout,
            history_dropout=history_dropout,
            patterns_in_context=decoder_patterns,
        )
        patterns = self.encoder.pattern_width
        self.posterior = nn.Sequential(nn.Linear(hidden + 2, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latent))
        self.prior: FlowPrior | StandardPrior | DiffusionPrior
        if prior == "flow":
            self.prior = FlowPrior(latent, patterns, hidden, layers, constrained)
        elif prior == "none":
            self.prior = StandardPrior()
        elif prior in ("ddpm", "flow_matching"):
            self.prior = DiffusionPrior(latent, patterns, hidden, kind=prior, steps=diffusion_steps)
        else:
            raise ValueError(f"prior: expected 'flow', 'ddpm', 'flow_matching' or 'none', got {prior!r}")
        self.decoder = _Decoder(latent, hidden, hidden)

    @staticmethod
    def paper_loss() -> dict[str, float]:
        """Arguments for the paper's own loss: Huber + 0.01 KL + W-dist, no CRPS."""
        return {"huber_weight": 1.0, "kl_weight": 0.01, "wdist_weight": 1.0, "crps_weight": 0.0}

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss on one batch, and its parts: ``loss`` (the total), ``huber``, ``kl``, ``wdist``, ``crps``."""
        check_batch(batch, self.dense_width, self.quantiles, target=True)
        self._prepare_if_new(batch)
        y, L = batch["y"].to(self.scale.dtype), self.quantiles
        c = self._encode(batch)
        log_y = torch.log1p(y / self.unit)
        evidence = torch.stack((log_y - 2, y / self.scale), dim=1)
        mean, log_var = self.posterior(torch.cat((c.context, evidence), dim=1)).chunk(2, dim=1)  # [B, D]
        log_var = log_var.clamp(-12, 6)
        z = torch.addcmul(mean, torch.randn_like(mean), (0.5 * log_var).exp())
        noise = torch.randn(len(y), L, mean.shape[1], device=y.device, dtype=mean.dtype)
        if isinstance(self.prior, FlowPrior):  # both paths in one call
            latents = self.prior(torch.cat((z[:, None], noise), dim=1), c.patterns)  # [B, 1 + L, D]
        else:
            latents = torch.cat((z[:, None], self.prior(noise, c.patterns)), dim=1)
        log_out = self._log_value(latents, c)  # [B, 1 + L], log1p(yhat / unit)
        out = torch.expm1(log_out) * (self.unit / self.scale)  # yhat / scale
        draws = out[:, 1:]
        parts = {
            "huber": F.huber_loss(out[:, 0], y / self.scale, delta=1.0),
            "kl": 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(dim=1).mean(),
            "wdist": self._wdist(draws, batch, c),
            "crps": self._crps(draws, y / self.scale, log_out[:, 1:], log_y),
            "prior": self.prior.loss(z, c.patterns),
        }
        total = sum((self.weights[name] * part for name, part in parts.items() if self.weights[name]), y.new_zeros(()))
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def _wdist(self, draws: Tensor, batch: dict[str, Tensor], c: Condition) -> Tensor:
        # a side without history gives its weight to the other; without either, the row has no term
        both = c.has_user * c.has_item
        lam = both * self.lam + (1 - both) * c.has_user
        some = torch.maximum(c.has_user, c.has_item)
        q_user, q_item = (batch[name].to(draws.dtype) / self.scale for name in ("q_user", "q_item"))
        return (ops.wasserstein_quantile_loss(draws, q_user, q_item, lam=lam) * some).mean()

    def _crps(self, draws: Tensor, y: Tensor, log_draws: Tensor, log_y: Tensor) -> Tensor:
        terms = []
        if self.crps_space != "linear":
            terms.append(ops.crps(log_draws, log_y, fair=True))
        if self.crps_space != "log":
            terms.append(ops.crps(draws, y, fair=True))
        return torch.stack(terms).sum(dim=0).mean()

    # ------------------------------------------------------------------------------------------- sampling

    def condition(self, x: dict[str, Tensor]) -> Condition:
        check_batch(x, self.dense_width, self.quantiles, target=False)
        return self._encode(x)

    def generate(self, condition: Condition, noise: Tensor) -> Tensor:
        """Draws ``[B, n]``, in the target's unit, for noise ``[B, n, D]``."""
        return torch.expm1(self._log_value(self.prior(noise, condition.patterns), condition)) * self.unit

    def sample(self, x: dict[str, Tensor], n: int, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        return FlowSampler(self).sample(x, n, seed, row_ids)

    def predict(
        self,
        x: dict[str, Tensor],
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean"] = "median",
    ) -> Tensor:
        return FlowSampler(self).predict(x, n, seed, row_ids, statistic)

    def interval(self, x: dict[str, Tensor], level: float, n: int = 128, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        return FlowSampler(self).interval(x, level, n, seed, row_ids)

    # ------------------------------------------------------------------------------------------- pieces

    def _encode(self, batch: dict[str, Tensor]) -> Condition:
        return Condition(*self.encoder(batch))

    def _log_value(self, latents: Tensor, c: Condition) -> Tensor:
        top = torch.log1p(2 * self.largest / self.unit)
        return _rectified(self.decoder(latents, c.context)).clamp(max=top)


def _rectified(x: Tensor) -> Tensor:
    """``max(x, 0)``, so that draws can be exactly zero, with softplus's gradient, so that they need not stay there."""
    soft = F.softplus(x)
    return soft + (F.relu(x) - soft).detach()


class _Decoder(nn.Module):
    """Latents ``[B, N, D]`` and a context per row ``[B, C]`` to ``[B, N]``, the context's share computed once per row."""

    def __init__(self, latent: int, context: int, hidden: int) -> None:
        super().__init__()
        self.from_latent, self.from_context = nn.Linear(latent, hidden), nn.Linear(context, hidden)
        self.out = nn.Linear(hidden, 1)
        self.direct = nn.Linear(context, 1)

    def forward(self, latents: Tensor, context: Tensor) -> Tensor:
        hidden = F.silu(self.from_latent(latents) + self.from_context(F.silu(context))[:, None])
        return self.out(hidden)[..., 0] + self.direct(context) + 1.0
