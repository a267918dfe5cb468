"""The whole guided chain of the built-in session denoiser in one call."""

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as _checks
from ..reference import fusion_chain as reference
from ..schedules import NoiseSchedule
from ._inference import InferenceOp, mlp_weights
from .denoise_chain import KEPT, _check_ids, _embedding, _int, _sequence, _signed
from .denoise_guided import _gamma

__all__ = ["fusion_chain"]


def fusion_chain(
    h_long: Tensor,
    g_cp: Tensor,
    g_tf: Tensor,
    mask: Tensor,
    denoiser: Any,
    schedule: NoiseSchedule,
    *,
    steps: int | Sequence[int] = 1,
    gamma_cp: float = 2.0,
    gamma_tf: float = 1.0,
    seed: int = 0,
    row_ids: Tensor | None = None,
    draw_ids: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    r"""A guided reverse chain from the long-term interest to the interest fused with the sessions.

    .. math:: x_T = h_L, \quad x^{(0)} = x_t, \quad x^{(k)} = \mathrm{net}(x^{(k-1)}, t, g_k), \quad f = x^{(K)}, \quad
              \hat f = f_{un} + \gamma_{cp} (f_{cp} - f_{un}) + \gamma_{tf} (f_{tf} - f_{un})

    and one step of :func:`guided_posterior_step` (its posterior variance) from each t of the chain to its successor, 0 after the last,
    which is without noise. What a timestep adds to the hidden layer is computed once per call, the guidance is projected once per
    session, and a block of rows goes through all steps and sessions before the next one. A masked session is skipped, whatever it
    holds, NaN included; a row without sessions is returned as it is, bit for bit; a branch whose gamma is 0 is not computed. Nothing is
    cached between calls. Inference only: no gradients. A row's result does not depend on the batch around it, bit for bit on a CPU.

    Args:
        h_long: ``[B, D]``. Rows without long-term history start from ``rng.normal(seed, row_ids, 0, D)``, which is the caller's to make.
        g_cp, g_tf: ``[B, K, C]``, the guidance of every session.
        mask: ``[B, K]`` bool, true where there is a session.
        denoiser: an :class:`ordkernels.nn.SessionDenoiser` of width D and cond_width C, taken in eval mode (no dropout).
        schedule: of T steps.
        steps: how many timesteps to visit, with trailing spacing (``round(T - i T / steps)``); or a list of them, strictly descending in
            [1, T].
        gamma_cp, gamma_tf: finite numbers, the strengths of guidance.
        noise: ``[S, B, D]``, S the number of timesteps visited (the last one's is not used); or
        seed, row_ids, draw_ids: noise made on the way, never stored: at t that of ``rng.normal(seed, row_ids, t, D, draw_ids)``, for
            int64 ``[B]``; None means rows 0, ..., B - 1 and draw 0.

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
    weights = _weights(denoiser)
    _checks.floating("h_long", h_long)
    _checks.shape("h_long", h_long, (h_long.shape[0] if h_long.dim() else 0, denoiser.width), "[B, D]")
    B, D = h_long.shape
    K = g_cp.shape[1] if isinstance(g_cp, Tensor) and g_cp.dim() == 3 else 0
    for name, g in (("g_cp", g_cp), ("g_tf", g_tf)):
        _checks.same(name, g, "h_long", h_long)
        _checks.shape(name, g, (B, K, denoiser.cond_width), "[B, K, C]")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    _checks.shape("mask", mask, (B, K), "[B, K]")
    if mask.device != h_long.device:
        raise ValueError(f"mask: expected the device of h_long, {h_long.device}, got {mask.device}")
    _checks.same("denoiser", weights[0], "h_long", h_long)
    if not isinstance(schedule, NoiseSchedule):
        raise TypeError(f"schedule: expected a NoiseSchedule, got {type(schedule).__name__}")
    gammas = _gamma("gamma_cp", gamma_cp), _gamma("gamma_tf", gamma_tf)
    plan, seed = _plan(schedule, steps, h_long.device), _signed(seed)
    if noise is not None:
        _checks.same("noise", noise, "h_long", h_long)
        _checks.shape("noise", noise, (len(plan.steps), B, D), "[S, B, D]")
        row_ids = draw_ids = None
    else:
        _check_ids("row_ids", row_ids, h_long)
        _check_ids("draw_ids", draw_ids, h_long)
        if not plan.random:
            row_ids = draw_ids = None
        elif row_ids is None:
            row_ids = torch.arange(B, device=h_long.device)
    if not plan.random:
        noise = None
    if not torch.is_grad_enabled():
        return _run(h_long, g_cp, g_tf, mask, weights, denoiser, plan, noise, row_ids, draw_ids, gammas, seed)
    with torch.no_grad():
        return _run(h_long, g_cp, g_tf, mask, weights, denoiser, plan, noise, row_ids, draw_ids, gammas, seed)


def _run(
    h_long: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, weights: tuple[Tensor, ...], denoiser: Any, plan: "Plan",
    noise: Tensor | None, row_ids: Tensor | None, draw_ids: Tensor | None, gammas: tuple[float, float], seed: int,
) -> Tensor:  # fmt: skip
    tensors = [h_long, g_cp, g_tf, mask, *weights, _embedding(denoiser.network, plan, weights[0])]  # type: ignore[arg-type]
    half = h_long.dtype in (torch.float16, torch.bfloat16)
    if half:
        tensors = [t.float() if t.is_floating_point() else t for t in tensors]
        noise = None if noise is None else noise.float()
    out = _OP(*tensors, plan.numbers, noise, row_ids, draw_ids, *gammas, seed)
    return out.to(h_long.dtype) if half else out


class Plan:
    """What a chain's timesteps come to: the numbers of each step, on the device."""

    def __init__(self, schedule: NoiseSchedule, steps: int | tuple[int, ...], device: torch.device) -> None:
        self.steps = reference.fusion_steps(steps, schedule.T)
        numbers = reference.fusion_numbers(schedule.exact, self.steps)
        self.random = bool((numbers[:, 2] != 0).any())
        self.numbers = numbers.to(device)
        self.times = torch.tensor(self.steps, device=device)
        self.embeddings: dict[Any, Any] = {}


PLANS: weakref.WeakKeyDictionary[NoiseSchedule, dict[Any, Plan]] = weakref.WeakKeyDictionary()


def _plan(schedule: NoiseSchedule, steps: Any, device: torch.device) -> Plan:
    """Kept for the next call: a schedule never changes."""
    steps = _sequence("steps", steps) if isinstance(steps, Tensor | Sequence) else _int("steps", steps)
    plans = PLANS.get(schedule)
    if plans is None:
        plans = PLANS[schedule] = {}
    key = (steps, device)
    plan = plans.get(key)
    if plan is None:
        if isinstance(steps, tuple):
            steps = tuple(_int("steps", t) for t in steps)
        with torch.inference_mode(False):
            plan = Plan(schedule, steps, device)
        if len(plans) >= KEPT:
            plans.clear()
        plans[key] = plan
    return plan


def _weights(denoiser: Any) -> tuple[Tensor, ...]:
    """W_x | W_t, its bias, W_c, W_o, its bias, the empty guidance."""
    if not isinstance(denoiser, _session_denoiser()):
        raise TypeError(f"denoiser: expected a SessionDenoiser, got {type(denoiser).__name__}")
    if denoiser.parallel:
        raise ValueError("denoiser: expected sessions in turn, got parallel=True, which runs step by step with guided_posterior_step alone")
    return *mlp_weights(denoiser.network), denoiser.empty


@functools.cache
def _session_denoiser() -> Any:
    from ..nn import SessionDenoiser  # which imports the ops

    return SessionDenoiser


def _fake(h_long: Tensor, *_: Any) -> Tensor:
    return h_long.new_empty(h_long.shape)


_OP = InferenceOp("fusion_chain", definition=reference.folded_chain, fake=_fake)
