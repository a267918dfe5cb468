"""A scheduler of diffusers whose timesteps and noise may be each row's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..swap import Fallback
from ..swap.diffusers import DDIMSteps

try:
    from diffusers import DDIMScheduler
except ImportError as error:
    raise ImportError(f"ordkernels.adapters.diffusers: expected diffusers, got {error}: pip install diffusers") from error

__all__ = ["RowScheduler"]


class RowScheduler(DDIMSteps, DDIMScheduler):
    """diffusers' ``DDIMScheduler`` (``eta=1`` is DDPM), configured, saved and loaded like it, with one fused call for a step.

    ``step(model_output, timestep, sample, eta, ...)`` also takes a tensor of timesteps ``[B]``, one per row, and ``seed`` with
    ``row_ids`` ``[B]``: noise that depends on seed, row and timestep alone, so that a sample is the same in every batch.

    Args:
        kwargs: those of ``DDIMScheduler``.

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, eq. 12 and 16.

    Example:
        >>> import torch
        >>> scheduler = RowScheduler(prediction_type="v_prediction")
        >>> scheduler.set_timesteps(10)
        >>> x, ids = torch.randn(4, 8), torch.tensor([7, 3, 12, 5])
        >>> whole = scheduler.step(x, 500, x, eta=1.0, seed=0, row_ids=ids).prev_sample
        >>> part = scheduler.step(x[1:3], 500, x[1:3], eta=1.0, seed=0, row_ids=ids[1:3]).prev_sample
        >>> torch.equal(whole[1:3], part)
        True
    """

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, eta: float = 0.0, use_clipped_model_output: bool = False,
        generator: Any = None, variance_noise: Tensor | None = None, return_dict: bool = True, *, seed: int | None = None,
        row_ids: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """The sample at the timestep before, and the estimate of x0."""
        given = model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
        result = super().step(*given, seed=seed, row_ids=row_ids)
        return DDIMScheduler.step(self, *given) if isinstance(result, Fallback) else result

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Any:
        """The samples at each row's timestep."""
        result = super().add_noise(original_samples, noise, timesteps)
        return DDIMScheduler.add_noise(self, original_samples, noise, timesteps) if isinstance(result, Fallback) else result
