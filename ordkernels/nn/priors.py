"""Priors over FlowTime's latent: noise in, latent out. The planar flow is the model's; the others are its ablations."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .. import ops
from .._validation.flags import reject_unknown
from .._validation.numbers import one_of, positive_sizes
from .flows import ConditionalPlanarFlow, Constrained

__all__ = ["DiffusionPrior", "FlowPrior", "StandardPrior"]


class StandardPrior(nn.Module):
    """The standard normal, the same for every row: noise is the latent. ``noise [B, N, D]``, ``h [B, C]`` -> ``[B, N, D]``."""

    def forward(self, noise: Tensor, h: Tensor) -> Tensor:
        return noise

    def loss(self, z: Tensor, h: Tensor) -> Tensor:
        return z.new_zeros(())


class FlowPrior(nn.Module):
    """Planar flows whose parameters an MLP makes from the row's patterns: ``noise [B, N, D]``, ``h [B, C]`` -> ``[B, N, D]``.

    The posterior's sample passes through the same flow, so both paths are one call.

    Args:
        width: D.
        cond_width: C.
        hidden: units of the MLP.
        layers: planar layers.
        constrained: of ``ops.planar_flow``.

    Source: FlowTime (arXiv:2606.01352), eq. 15-18.

    Example:
        >>> FlowPrior(8, cond_width=3)(torch.randn(5, 20, 8), torch.randn(5, 3)).shape
        torch.Size([5, 20, 8])
    """

    def __init__(self, width: int, cond_width: int, hidden: int = 64, layers: int = 4, constrained: Constrained = True) -> None:
        super().__init__()
        self.hyper = nn.Sequential(nn.Linear(cond_width, hidden), nn.SiLU())
        self.flow = ConditionalPlanarFlow(width, hidden, layers, constrained)

    def forward(self, noise: Tensor, h: Tensor) -> Tensor:
        latent: Tensor = self.flow(noise, self.hyper(h))[0]
        return latent

    def loss(self, z: Tensor, h: Tensor) -> Tensor:
        return z.new_zeros(())


class DiffusionPrior(nn.Module):
    """A denoiser's chain from noise to latent, deterministic given the noise: ``"ddpm"`` or ``"flow_matching"``.

    ``"ddpm"`` predicts the noise under the cosine schedule and runs ``steps`` DDIM steps with eta = 0;
    ``"flow_matching"`` predicts the velocity ``noise - z`` on the straight path and takes ``steps`` Euler steps.
    The denoiser is trained on the posterior's samples, detached (``loss``); the chain itself carries no gradient.

    Args:
        width: D of the latent.
        cond_width: C of the patterns.
        hidden: units of the denoiser.
        process: ``"ddpm"`` or ``"flow_matching"``.
        steps: of the chain.

    Raises:
        ValueError: sizes below 1, an unknown process.

    Source: FlowTime (arXiv:2606.01352), table 4, rows (b) and (c).

    Example:
        >>> DiffusionPrior(8, cond_width=3, steps=4)(torch.randn(5, 20, 8), torch.randn(5, 3)).shape
        torch.Size([5, 20, 8])
    """

    def __init__(
        self,
        width: int,
        cond_width: int,
        hidden: int = 64,
        *,
        process: Literal["ddpm", "flow_matching"] = "ddpm",
        steps: int = 10,
        **renamed: Any,
    ) -> None:
        super().__init__()
        reject_unknown(renamed, {"kind": "process"})
        positive_sizes(width=width, cond_width=cond_width, hidden=hidden, steps=steps)
        one_of("process", process, ("ddpm", "flow_matching"))
        self.process, self.steps = process, steps
        self.from_latent, self.from_pattern = nn.Linear(width, hidden), nn.Linear(cond_width, hidden)
        self.from_time = nn.Linear(16, hidden, bias=False)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, noise: Tensor, h: Tensor) -> Tensor:
        x = noise
        with torch.no_grad():
            for i in range(self.steps, 0, -1):
                t, earlier = i / self.steps, (i - 1) / self.steps
                out = self._net(x, x.new_full((1, 1), t), h)
                if self.process == "flow_matching":
                    x, _ = ops.flow_step(x, out, t, earlier)
                else:
                    x, _ = ops.reverse_step(x, out, _signal(t), _signal(earlier))
        return x

    def loss(self, z: Tensor, h: Tensor) -> Tensor:
        """Mean squared error of the predicted noise or velocity at one uniform time per row; ``z [B, D]``."""
        z = z.detach()[:, None]  # [B, 1, D]
        noise, t = torch.randn_like(z), torch.rand(len(z), 1, device=z.device, dtype=z.dtype)
        if self.process == "flow_matching":
            noisy, target = ops.flow_sample(z, noise, t), noise - z
        else:
            noisy, target = ops.q_sample(z, noise, _signal(t)), noise
        return nn.functional.mse_loss(self._net(noisy, t, h), target)

    def _net(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """``x [B, N, D]``, ``t [B, 1]`` or ``[1, 1]`` in [0, 1], ``h [B, C]``."""
        angle = t * torch.pi * 2.0 ** torch.arange(8, device=t.device, dtype=t.dtype) / 2
        shift = self.from_time(torch.cat((angle.sin(), angle.cos()), dim=-1)) + self.from_pattern(h)  # [B, hidden]
        out: Tensor = self.out(self.from_latent(x) + shift[:, None])
        return out


T = TypeVar("T", float, Tensor)


def _signal(t: T) -> T:
    """alphabar of the cosine schedule at t in [0, 1], at least 1e-3 before it is scaled, so that it is not 0 at the noisy end."""
    angle = (t + 0.008) / 1.008 * math.pi / 2
    whole = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    if isinstance(angle, Tensor):
        return angle.cos().square().clamp(min=1e-3).div(whole).clamp(max=1)
    return min(max(math.cos(angle) ** 2, 1e-3) / whole, 1.0)
