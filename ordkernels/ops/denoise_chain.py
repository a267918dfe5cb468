"""The whole reverse diffusion of the built-in MLP denoiser in one call."""

import functools
import math
import operator
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as _checks
from ..reference import denoise_chain as reference
from ..schedules import NoiseSchedule
from ._inference import InferenceOp, mlp_weights, tensor_of
from .denoise import Prediction, _clip, _kind

__all__ = ["denoise_chain"]


def denoise_chain(
    x_T: Tensor,
    cond: Tensor,
    denoiser: Any,
    schedule: NoiseSchedule,
    *,
    steps: int | Sequence[int],
    aligned: Sequence[int] | Tensor,
    prediction: Prediction = "v",
    eta: float = 0.0,
    clip: float | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    row_ids: Tensor | None = None,
    draw_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""A reverse chain from x_T to x_0 that keeps the estimates of x_0 at the aligned timesteps.

    .. math:: o = f(x_t, t, c), \quad \hat x_0 = \hat x_0(x_t, o), \quad
              x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma \xi

    for each t of the chain and its successor s (0 after the last), as :func:`reverse_step` has it. What a timestep adds to the hidden
    layer is computed once per call, the condition is projected once per row, and a block of rows goes through all timesteps before
    the next one. On a CPU what a thread made of the weights is kept for its next call, and used where the weights are still the same
    bit for bit. Inference only: no gradients. A row's result does not depend on the batch around it, bit for bit on a CPU.

    Args:
        x_T: ``[B, D]``.
        cond: ``[B, C]``.
        denoiser: an :class:`ordkernels.nn.MLPDenoiser` of width D and cond_width C, taken in eval mode (no dropout).
        schedule: of T steps.
        steps: the timesteps to visit, strictly descending in [1, T], among them every aligned one; or a number, for trailing spacing
            (``round(T - i T / steps)``) united with ``aligned``.
        aligned: ``[K]``, strictly descending in [1, T].
        prediction: what the denoiser's output is.
        eta: stochasticity, 0 for DDIM, 1 for DDPM.
        clip: bound of the magnitude of the estimates of x_0, or None.
        noise: ``[S, B, D]``, S the number of timesteps visited (the last one's is not used); or
        seed, row_ids, draw_ids: noise made on the way, never stored: at t that of ``rng.normal(seed, row_ids, t, D, draw_ids)``, for
            int64 ``[B]``; None means rows 0, ..., B - 1 and draw 0.

    Returns:
        x_0 ``[B, D]`` and x0_at_aligned ``[B, K, D]``, like x_T. fp64 is computed in fp64, the others in fp32 and rounded once; on
        Zen 4 processors, which multiply bf16 twice as fast, bf16 states and hidden units are rounded where they enter a product,
        too: after 50 steps 3e-3 of the largest value either way (256 hidden units), and 5e-3 with what the weights lost. Next to
        the outputs a call takes the packed weights, S times the hidden width, and on a CPU up to 0.2 MB per thread at D = 64; up to
        1 MB stays with the calling thread.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. RuntimeError: ``use_backend("triton")`` with fp64
        or D above 128, which its kernel has not; on a GPU without a forced backend these run as a loop in torch.

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
    weights = _weights(denoiser)
    _checks.floating("x_T", x_T)
    _checks.shape("x_T", x_T, (x_T.shape[0] if x_T.dim() else 0, denoiser.width), "[B, D]")
    B, D = x_T.shape
    _checks.same("cond", cond, "x_T", x_T)
    _checks.shape("cond", cond, (B, denoiser.cond_width), "[B, C]")
    _checks.same("denoiser", weights[0], "x_T", x_T)
    if not isinstance(schedule, NoiseSchedule):
        raise TypeError(f"schedule: expected a NoiseSchedule, got {type(schedule).__name__}")
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 0 <= eta < math.inf:
        raise ValueError(f"eta: expected a finite number of 0 or more, got {eta}")
    plan = _plan(schedule, steps, aligned, _kind(prediction), float(eta), x_T.device)
    limit, seed = _clip(clip), _signed(seed)
    if noise is not None:
        _checks.same("noise", noise, "x_T", x_T)
        _checks.shape("noise", noise, (len(plan.steps), B, D), "[S, B, D]")
        row_ids = draw_ids = None
    else:
        _check_ids("row_ids", row_ids, x_T)
        _check_ids("draw_ids", draw_ids, x_T)
        if not plan.random:
            row_ids = draw_ids = None
        elif row_ids is None:
            row_ids = torch.arange(B, device=x_T.device)
    if not plan.random:
        noise = None
    if not torch.is_grad_enabled():
        return _run(x_T, cond, weights, denoiser, plan, noise, row_ids, draw_ids, limit, seed)
    with torch.no_grad():
        return _run(x_T, cond, weights, denoiser, plan, noise, row_ids, draw_ids, limit, seed)


def _run(
    x_T: Tensor, cond: Tensor, weights: tuple[Tensor, ...], denoiser: Any, plan: "Plan", noise: Tensor | None, row_ids: Tensor | None,
    draw_ids: Tensor | None, limit: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    tensors = [x_T, cond, *weights, _embedding(denoiser, plan, weights[0])]
    half = x_T.dtype in (torch.float16, torch.bfloat16)
    if half:
        tensors = [t.float() for t in tensors]
        noise = None if noise is None else noise.float()
    x_0, states = _OP(*tensors, plan.numbers, noise, row_ids, draw_ids, len(plan.aligned), limit, seed, x_T.dtype is torch.bfloat16)
    return (x_0.to(x_T.dtype), states.to(x_T.dtype)) if half else (x_0, states)


class Plan:
    """What a chain's timesteps come to: the numbers of each step, on the device."""

    def __init__(
        self, schedule: NoiseSchedule, steps: int | tuple[int, ...], aligned: tuple[int, ...], kind: int, eta: float, device: torch.device
    ) -> None:
        self.steps, self.aligned = reference.chain_steps(steps, aligned, schedule.T), aligned
        numbers = reference.chain_numbers(schedule.exact, self.steps, aligned, kind, eta)
        self.random = bool((numbers[:, 5] != 0).any())
        self.numbers = numbers.to(device)
        self.times = torch.tensor(self.steps, device=device)
        self.embeddings: dict[Any, Any] = {}


PLANS: weakref.WeakKeyDictionary[NoiseSchedule, dict[Any, Plan]] = weakref.WeakKeyDictionary()
KEPT = 32  # plans of a schedule


def _plan(schedule: NoiseSchedule, steps: Any, aligned: Any, kind: int, eta: float, device: torch.device) -> Plan:
    """Kept for the next call: a schedule never changes."""
    aligned = _sequence("aligned", aligned)
    steps = _sequence("steps", steps) if isinstance(steps, Tensor | Sequence) else _int("steps", steps)
    plans = PLANS.get(schedule)
    if plans is None:
        plans = PLANS[schedule] = {}
    key = (steps, aligned, kind, eta, device)
    plan = plans.get(key)
    if plan is None:
        aligned = tuple(_int("aligned", t) for t in aligned)
        if isinstance(steps, tuple):
            steps = tuple(_int("steps", t) for t in steps)
        with torch.inference_mode(False):
            plan = Plan(schedule, steps, aligned, kind, eta, device)
        if len(plans) >= KEPT:
            plans.clear()
        plans[key] = plan
    return plan


def _embedding(denoiser: Any, plan: Plan, weight: Tensor) -> Tensor:
    """e(t) of the plan's timesteps, [S, E], kept for as long as the frequencies are this very buffer, unchanged."""
    f, key = tensor_of(denoiser._modules["embedding"], "frequencies"), (denoiser.time_width, weight.dtype)
    of, version, made = plan.embeddings.get(key, (None, 0, None))
    now = 0 if f.is_inference() else f._version
    if made is None or of() is not f or version != now:
        with torch.inference_mode(False):
            made = denoiser.embedding(plan.times).to(weight.dtype)
        plan.embeddings[key] = (weakref.ref(f), now, made)
    return made


def _weights(denoiser: Any) -> tuple[Tensor, ...]:
    """W_x | W_t, its bias, W_c, W_o and its bias."""
    if not isinstance(denoiser, _mlp_denoiser()):
        raise TypeError(f"denoiser: expected an MLPDenoiser (any other runs in samplers.DiffoRSampler), got {type(denoiser).__name__}")
    return mlp_weights(denoiser)


@functools.cache
def _mlp_denoiser() -> Any:
    from ..nn import MLPDenoiser  # which imports the ops

    return MLPDenoiser


def _sequence(name: str, t: Any) -> tuple[Any, ...]:
    if isinstance(t, Tensor):
        if t.is_floating_point() or t.dim() != 1:
            raise TypeError(f"{name}: expected integers [K], got {t.dtype} {list(t.shape)}")
        return tuple(t.tolist())
    if isinstance(t, str) or not isinstance(t, Sequence):
        raise TypeError(f"{name}: expected a sequence of ints or a tensor, got {type(t).__name__}")
    return tuple(t)


def _int(name: str, x: Any) -> int:
    try:
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{name}: expected ints, got {type(x).__name__}") from None


def _signed(seed: Any) -> int:
    """mod 2^64, as the dispatcher's int64."""
    return (_int("seed", seed) + 2**63) % 2**64 - 2**63


def _check_ids(name: str, ids: Any, rows: Tensor) -> None:
    if ids is None:
        return
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        raise TypeError(f"{name}: expected an int64 tensor, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.shape != rows.shape[:1] or ids.device != rows.device:
        raise ValueError(f"{name}: expected [B] = [{rows.shape[0]}] on {rows.device}, got {list(ids.shape)} on {ids.device}")


def _fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], args[-4], x.shape[1])


_OP = InferenceOp("denoise_chain", definition=reference.folded_chain, fake=_fake)
