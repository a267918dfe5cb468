"""The whole reverse diffusion of the built-in MLP denoiser in one call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import real
from .._validation.numbers import seed as signed_seed
from ..reference import denoise_chain as reference
from ..reference._diffusion import any_noise
from ._chain_plan import ChainPlan, Schedule, chain_plan, timesteps, visited
from ._diffusion import clip_limit, prediction_kind
from ._register import Op
from ._weights import MLPWeights, Prediction, weights_of

__all__ = ["denoise_chain"]


def denoise_chain(
    x_T: Tensor, cond: Tensor, denoiser: Any, schedule: Schedule, *, steps: int | Sequence[int] | Tensor, aligned: Sequence[int] | Tensor,
    prediction: Prediction | None = None, eta: float = 0.0, clip: float | None = None, noise: Tensor | None = None, seed: int = 0,
    row_ids: Any = None, draw_ids: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""A reverse chain from x_T to x_0 that keeps the estimates of x_0 at the aligned timesteps.

    .. math:: o = f(x_t, t, c), \quad \hat x_0 = \hat x_0(x_t, o), \quad
              x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma \xi

    for each t of the chain and its successor s (0 after the last), as in :func:`reverse_step`. What a timestep adds to the hidden
    layer is computed once per call, the condition is projected once per row, and a block of rows goes through all timesteps before
    the next one. On a CPU each thread caches the packed weights, and reuses them while the weights are the same bit for bit.
    Inference only: no gradients. A row's result does not depend on the batch around it, bit for bit on a CPU.

    Args:
        x_T: ``[B, D]``.
        cond: ``[B, C]``.
        denoiser: an :class:`ordkernels.nn.MLPDenoiser` of width D and cond_width C, in eval mode (no dropout), or its ``weights()``.
        schedule: of T steps.
        steps: the timesteps to visit, strictly descending in [1, T], every aligned one among them; or their number, for trailing
            spacing (``round(T - i T / steps)``) united with ``aligned``.
        aligned: ``[K]``, strictly descending in [1, T].
        prediction: what the denoiser's output is: ``"eps"``, ``"x0"`` or ``"v"``. None: what the denoiser says (its ``prediction``),
            else ``"v"``. (:func:`reverse_step` and :func:`predict_x0` know no denoiser, and take ``"eps"``.)
        eta: stochasticity, 0 for DDIM, 1 for DDPM.
        clip: bound of the magnitude of the estimates of x_0, or None.
        noise: explicit noise ``[S, B, D]``, S the number of timesteps visited (the last one's is not used); or
        seed, row_ids, draw_ids: row-keyed noise, generated in the kernel and never materialized: at t that of
            ``rng.normal(seed, row_ids, t, D, draw_ids)``, ids ``[B]`` of any integers; None means rows 0, ..., B - 1 and draw 0.

    Returns:
        x_0 ``[B, D]`` and x0_at_aligned ``[B, K, D]``, like x_T. fp64 is computed in fp64, the others in fp32 and rounded once; on
        Zen 4 processors, which multiply bf16 twice as fast, bf16 states and hidden units are also rounded where they enter a product:
        after 50 steps 3e-3 of the largest value either way (256 hidden units), and 5e-3 with the rounding of the weights. Next to the
        outputs a call takes the packed weights, S times the hidden width, and on a CPU up to 0.2 MB per thread at D = 64; up to 1 MB
        stays with the calling thread.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. RuntimeError: ``use_backend("triton")`` with fp64
        or D above 128, which its kernel does not have; on a GPU without a forced backend these run in CUDA C++, where that is built, or
        as a loop in torch.

    Source: DiffoR, section 4.3.2 (one chain that visits every aligned timestep); Song, Meng, Ermon, Denoising Diffusion Implicit
    Models, eq. 12 and 16.

    Example:
        >>> import torch
        >>> from ordkernels.nn import MLPDenoiser
        >>> from ordkernels.ops import denoise_chain
        >>> from ordkernels.schedules import NoiseSchedule, aligned_timesteps
        >>> model, aligned = MLPDenoiser(64, cond_width=32), aligned_timesteps(8, 50)
        >>> x_0, states = denoise_chain(
        ...     torch.randn(5, 64), torch.randn(5, 32), model, NoiseSchedule.linear(50), steps=20, aligned=aligned
        ... )
        >>> x_0.shape, states.shape
        (torch.Size([5, 64]), torch.Size([5, 8, 64]))
    """
    weights = weights_of(denoiser, MLPWeights, "denoiser", "an MLPDenoiser (any other runs in samplers.DiffoRSampler)")
    if checks.autocast_is_active():
        x_T, cond, noise = checks.cast_like(weights.w_in, x_T, cond, noise)
    _check_inputs(x_T, cond, weights)
    kind = prediction_kind(weights.prediction or "v" if prediction is None else prediction)
    aligned = timesteps("aligned", aligned)
    plan = chain_plan(schedule, x_T.device, _plan, visited(steps), aligned, kind, real("eta", eta, least=0))
    noise, row_ids, draw_ids = plan.noise_arguments(noise, row_ids, draw_ids, x_T, "x_T")
    constants = len(aligned), clip_limit(clip), signed_seed(seed)
    if not torch.is_grad_enabled():
        return _run(x_T, cond, weights, plan, noise, row_ids, draw_ids, constants)
    with torch.no_grad():
        return _run(x_T, cond, weights, plan, noise, row_ids, draw_ids, constants)


def _check_inputs(x_T: Tensor, cond: Tensor, weights: MLPWeights) -> None:
    checks.floating("x_T", x_T)
    B = x_T.shape[0] if x_T.dim() else 0
    checks.shape("x_T", x_T, (B, weights.w_out.size(0)), "[B, D]")
    checks.same("cond", cond, "x_T", x_T)
    checks.shape("cond", cond, (B, weights.w_cond.size(1)), "[B, C]")
    checks.same("denoiser", weights.w_in, "x_T", x_T)


def _plan(schedule: Schedule, steps: Any, aligned: Any, kind: int, eta: float) -> tuple[list[int], Tensor, bool]:
    times = reference.chain_steps(steps, aligned, schedule.T)
    coefficients = reference.chain_coefficients(schedule.exact, times, aligned, kind, eta)
    return times, coefficients, eta > 0 and any_noise(schedule.exact, times)


def _run(
    x_T: Tensor, cond: Tensor, weights: MLPWeights, plan: ChainPlan, noise: Tensor | None, row_ids: Tensor | None,
    draw_ids: Tensor | None, constants: tuple[int, float, int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    tensors = [x_T, cond, *weights[:5], plan.embedding(weights.frequencies, weights.w_in.dtype)]
    half = x_T.dtype in (torch.float16, torch.bfloat16)
    if half:
        tensors = [t.float() for t in tensors]
        noise = None if noise is None else noise.float()
    x_0, states = _OP(*tensors, plan.step_coefficients, noise, row_ids, draw_ids, *constants, x_T.dtype is torch.bfloat16)
    return (x_0.to(x_T.dtype), states.to(x_T.dtype)) if half else (x_0, states)


def _fake(x: Tensor, K: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], K, x.shape[1])


_OP: Op[tuple[Tensor, Tensor]] = Op("denoise_chain", reference=reference.chain_from_weights, fake=_fake, cuda=True)
