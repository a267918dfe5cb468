"""DiffoR's inference: one reverse chain per draw, which leaves its signal estimate at every aligned timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from .. import ops, rng
from .._validation.numbers import boolean, real
from ..nn import MLPDenoiser
from ..nn.denoisers import conditioned
from ..reference.denoise_chain import chain_steps
from ..schedules import NoiseSchedule
from ._base import Batch, SampledModel, Sampler, Steps, mirrored_noise, requested_steps

__all__ = ["DiffoRSampler"]


class ChainModel(SampledModel, Protocol):
    """What the sampler needs of a model: a condition per row, a denoiser with its process, and values read off its estimates."""

    noise_width: int  # D
    denoiser: nn.Module  # (x [B, n, D], t, cond [B, C]) -> like x
    schedule: NoiseSchedule
    process: Literal["diffusion", "flow_matching"]
    aligned: list[int]  # descending
    prediction: Literal["eps", "x0", "v"]
    eta: float
    clip: float | None

    @property
    def steps(self) -> Steps: ...

    def condition(self, x: Batch) -> tuple[Tensor, Tensor | None]: ...  # [B, C], capacity [B] or None

    def read_out(self, states: Tensor, capacity: Tensor | None) -> Tensor: ...  # [N, K, D], [N] -> [N]


class DiffoRSampler(Sampler[ChainModel]):
    """Draws, point predictions and intervals of a model that reads values off a reverse chain.

    A draw starts from ``x_T``, standard normal noise of its row as in ``FlowSampler`` (mirrored pairs unless
    ``antithetic=False``; the noise of the step at t, where ``eta > 0``, is that of step t), visits ``steps``, and stores the
    estimate of the signal at each aligned timestep; ``model.read_out`` turns these into a value. The chain ends at the last
    aligned timestep, since nothing is read after it. An ``nn.MLPDenoiser`` runs its whole chain in one call
    (``ops.denoise_chain``); any other denoiser is called once per step, on ``[B, n, D]``, with the step itself fused, without
    ever waiting for the device, so that the loop can be captured in a CUDA graph.

    Args:
        model: as ``ordkernels.models.DiffoR``.
        steps: a number of steps (trailing spacing, united with the aligned timesteps) or a descending list that contains
            every aligned timestep; None: the model's.
        eta: 0 (DDIM) to 1 (DDPM); None: the model's. Flow matching has no such noise.
        antithetic: as in ``FlowSampler``.
        max_rows: bound on the draws that are in memory at once, as in ``Sampler``.

    Raises:
        ValueError: steps that skip an aligned timestep, leave [1, T] or do not descend, eta out of range or given to flow
            matching, and as ``FlowSampler``.

    Source: DiffoR, section 4.3.2 and eq. 13, 16. Deviation from the paper: row-keyed, mirrored noise.

    Example:
        >>> from ordkernels.models import DiffoR
        >>> sampler = DiffoRSampler(DiffoR(dense_width=2), steps=20)
        >>> sampler.sample({"dense": torch.zeros(3, 2)}, 32, seed=7, row_ids=torch.arange(3)).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        model: ChainModel,
        *,
        steps: Steps | None = None,
        eta: float | None = None,
        antithetic: bool = True,
        max_rows: int = 1 << 15,
        **renamed: Any,
    ) -> None:
        super().__init__(model, max_rows=max_rows, **renamed)
        self.antithetic = boolean("antithetic", antithetic)
        self.eta = model.eta if eta is None else real("eta", eta)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")
        if self.eta and model.process == "flow_matching":
            raise ValueError(f"eta: expected 0, flow matching has no noise along its chain, got {self.eta}")
        visited = chain_steps(requested_steps(model.steps if steps is None else steps), model.aligned, model.schedule.T)
        self.steps = [t for t in visited if t >= model.aligned[-1]]

    def _draws(self, x: Batch, n: int, seed: int, ids: Tensor) -> Tensor:
        context, capacity = self.model.condition(x)
        noise = mirrored_noise(n, self.model.noise_width, seed, ids, antithetic=self.antithetic).to(context.dtype)
        states = self.sample_fused(noise, context, seed=seed, row_ids=ids).flatten(0, 1)  # [b n, K, D]
        if capacity is not None:
            capacity = capacity.repeat_interleave(n)
        return self.model.read_out(states, capacity).view(-1, n)

    def sample_fused(self, x_T: Tensor, cond: Tensor, *, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The chain's signal estimates at the aligned timesteps, in one call where the denoiser is an ``nn.MLPDenoiser``.

        Draw j of a row has the numbers ``j D .. j D + D - 1`` of its stream, so it does not depend on how many there are.

        Args:
            x_T: ``[B, n, D]`` noise.
            cond: ``[B, C]`` conditions.
            seed: of the steps' noise, where ``eta > 0``.
            row_ids: ``[B]`` integers; None: ``0 .. B - 1``.

        Returns:
            ``[B, n, K, D]``.
        """
        m, (B, n, D) = self.model, x_T.shape
        if m.process == "flow_matching" or not isinstance(m.denoiser, MLPDenoiser):
            return self.sample_stepwise(x_T, cond, seed=seed, row_ids=row_ids)
        ids = torch.arange(B, device=x_T.device) if row_ids is None else row_ids
        dtype = m.denoiser.input.weight.dtype  # under autocast the condition has another
        x_T, cond = x_T.to(dtype), cond.to(dtype)
        states: Tensor = ops.denoise_chain(
            x_T.reshape(B * n, D), cond.repeat_interleave(n, dim=0), m.denoiser, m.schedule, steps=self.steps, aligned=m.aligned,
            prediction=m.prediction, eta=self.eta, clip=m.clip, seed=seed, row_ids=ids.repeat_interleave(n),
            draw_ids=torch.arange(n, device=x_T.device).repeat(B),
        )[1]  # fmt: skip
        return states.view(B, n, *states.shape[1:])

    def sample_stepwise(
        self,
        x_T: Tensor,
        cond: Tensor,
        *,
        seed: int | Tensor = 0,
        row_ids: Tensor | None = None,
        denoise: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Tensor:
        """``sample_fused`` step by step, for any denoiser, and differentiable: ``[B, n, K, D]``.

        denoise: ``f(x, t)``, the denoiser under ``cond``, where the caller has prepared it for more than this chain.
        """
        m = self.model
        f = denoise or conditioned(m.denoiser, cond, m.schedule.T)
        x, estimates = x_T, []
        T, alpha_bar = m.schedule.T, m.schedule.exact  # numbers on the host: no step waits for the device
        for t, s in zip(self.steps, [*self.steps[1:], 0], strict=True):
            out = f(x, t)
            if m.process == "flow_matching":
                x, x0 = ops.flow_step(x, out, t / T, s / T)
            else:
                keyed = _step_noise(x, seed, row_ids, t) if self.eta else {}
                x, x0 = ops.reverse_step(x, out, alpha_bar[t], alpha_bar[s], eta=self.eta, prediction=m.prediction, clip=m.clip, **keyed)
            if t in m.aligned:
                estimates.append(x0)
        return torch.stack(estimates, dim=2)


def _step_noise(x: Tensor, seed: int | Tensor, row_ids: Tensor | None, t: int) -> dict[str, Any]:
    """Arguments of ``ops.reverse_step`` for step t's noise of ``x [B, n, D]``; made here where the seed is a tensor, as in a graph."""
    if not isinstance(seed, Tensor):
        return {"seed": seed, "row_ids": row_ids, "step": t}
    ids = torch.arange(len(x), device=x.device) if row_ids is None else row_ids
    return {"noise": rng.normal(seed, ids, t, x[0].numel()).view(x.shape).to(x.dtype)}
