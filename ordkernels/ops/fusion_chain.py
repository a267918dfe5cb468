"""The whole guided chain of the built-in session denoiser in one call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import real
from .._validation.numbers import seed as signed_seed
from ..reference import fusion_chain as reference
from ..reference._diffusion import any_noise, chain_steps
from ._chain_plan import ChainPlan, Schedule, chain_plan, visited
from ._register import Op
from ._weights import SessionWeights, weights_of

__all__ = ["fusion_chain"]


def fusion_chain(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, denoiser: Any, schedule: Schedule, *,
    steps: int | Sequence[int] | Tensor = 1, gamma_cp: float = 2.0, gamma_tf: float = 1.0, seed: int = 0, row_ids: Any = None,
    draw_ids: Any = None, noise: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""A guided reverse chain from the long-term interest to the interest fused with the sessions.

    .. math:: x_T = h_L, \quad x^{(0)} = x_t, \quad x^{(k)} = \mathrm{net}(x^{(k-1)}, t, g_k), \quad f = x^{(K)}, \quad
              \hat f = f_{un} + \gamma_{cp} (f_{cp} - f_{un}) + \gamma_{tf} (f_{tf} - f_{un})

    and one step of :func:`guided_posterior_step` (its posterior variance) from each t of the chain to its successor, 0 after the last,
    which is without noise. What a timestep adds to the hidden layer is computed once per call, the guidance is projected once per
    session, and a block of rows goes through all steps and sessions before the next one. A masked session is skipped, whatever it
    holds, NaN included; a row without sessions is returned unchanged, bit for bit; a branch whose gamma is 0 is not computed,
    nor the one without guidance where the gammas have sum 1.
    Inference only: no gradients. A row's result does not depend on the batch around it, bit for bit on a CPU.

    Args:
        h_long: ``[B, D]``. Rows without long-term history start from ``rng.normal(seed, row_ids, 0, D)``, which the caller generates.
        g_cp, g_tf: ``[B, K, C]``, the guidance of every session.
        mask: ``[B, K]`` bool, true where there is a session.
        denoiser: an :class:`ordkernels.nn.SessionDenoiser` of width D and cond_width C, in eval mode (no dropout), or its
            ``weights()``.
        schedule: of T steps.
        steps: the timesteps to visit, strictly descending in [1, T]; or their number, for trailing spacing (``round(T - i T / steps)``).
        gamma_cp, gamma_tf: finite numbers, the strengths of guidance.
        noise: explicit noise ``[S, B, D]``, S the number of timesteps visited (the last one's is not used); or
        seed, row_ids, draw_ids: row-keyed noise, generated in the kernel and never materialized: at t that of
            ``rng.normal(seed, row_ids, t, D, draw_ids)``, ids ``[B]`` of any integers; None means rows 0, ..., B - 1 and draw 0.

    Returns:
        ``[B, D]``, like h_long. fp16 and bf16 are computed in fp32 and rounded once, fp64 in fp64. Next to it a call takes the packed
        weights, S times the hidden width, and on a CPU 48 times the hidden width a session per thread (48 KB a session for 256 units);
        on a GPU the projected guidance of up to 8192 rows.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: iFusion, algorithm 2, with its multi-session autoregressive reverse network.

    Example:
        >>> import torch
        >>> from ordkernels.nn import SessionDenoiser
        >>> from ordkernels.ops import fusion_chain
        >>> from ordkernels.schedules import NoiseSchedule
        >>> h_long, g_cp, g_tf, mask = torch.randn(5, 64), torch.randn(5, 4, 64), torch.randn(5, 4, 64), torch.rand(5, 4) < 0.7
        >>> fusion_chain(h_long, g_cp, g_tf, mask, SessionDenoiser(64), NoiseSchedule.cosine(50), steps=5).shape
        torch.Size([5, 64])
    """
    weights = weights_of(denoiser, SessionWeights, "denoiser", "a SessionDenoiser")
    if checks.autocast_is_active():
        h_long, g_cp, g_tf, noise = checks.cast_like(weights.network.w_in, h_long, g_cp, g_tf, noise)
    _check_inputs(h_long, g_cp, g_tf, mask, weights)
    gammas = real("gamma_cp", gamma_cp), real("gamma_tf", gamma_tf)
    plan = chain_plan(schedule, h_long.device, _plan, visited(steps))
    noise, row_ids, draw_ids = plan.noise_arguments(noise, row_ids, draw_ids, h_long, "h_long")
    seed = signed_seed(seed)
    if not torch.is_grad_enabled():
        return _run(h_long, g_cp, g_tf, mask, weights, plan, noise, row_ids, draw_ids, gammas, seed)
    with torch.no_grad():
        return _run(h_long, g_cp, g_tf, mask, weights, plan, noise, row_ids, draw_ids, gammas, seed)


def _check_inputs(h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, weights: SessionWeights) -> None:
    network = weights.network
    checks.floating("h_long", h_long)
    B = h_long.shape[0] if h_long.dim() else 0
    checks.shape("h_long", h_long, (B, network.w_out.size(0)), "[B, D]")
    K, C = g_cp.shape[1] if isinstance(g_cp, Tensor) and g_cp.dim() == 3 else 0, network.w_cond.size(1)
    for name, g in (("g_cp", g_cp), ("g_tf", g_tf)):
        checks.same(name, g, "h_long", h_long)
        checks.shape(name, g, (B, K, C), "[B, K, C]")
    checks.boolean("mask", mask)
    checks.shape("mask", mask, (B, K), "[B, K]")
    checks.same_device("mask", mask, "h_long", h_long)
    checks.same("denoiser", network.w_in, "h_long", h_long)


def _plan(schedule: Schedule, steps: Any) -> tuple[list[int], Tensor, bool]:
    times = chain_steps(steps, schedule.T)
    coefficients = reference.fusion_coefficients(schedule.exact, times)
    return times, coefficients, any_noise(schedule.exact, times)


def _run(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, weights: SessionWeights, plan: ChainPlan, noise: Tensor | None,
    row_ids: Tensor | None, draw_ids: Tensor | None, gammas: tuple[float, float], seed: int,
) -> Tensor:  # fmt: skip
    network = weights.network
    embedding = plan.embedding(network.frequencies, network.w_in.dtype)
    tensors = [h_long, g_cp, g_tf, mask, *network[:5], weights.empty, embedding]
    half = h_long.dtype in (torch.float16, torch.bfloat16)
    if half:
        tensors = [t.float() if t.is_floating_point() else t for t in tensors]
        noise = None if noise is None else noise.float()
    out = _OP(*tensors, plan.step_coefficients, noise, row_ids, draw_ids, *gammas, seed)
    return out.to(h_long.dtype) if half else out


def _fake(h_long: Tensor) -> Tensor:
    return h_long.new_empty(h_long.shape)


_OP: Op[Tensor] = Op("fusion_chain", reference=reference.chain_from_weights, fake=_fake, cuda=True)
