"""One step of diffusion or flow matching: noising, the estimate of x0, and a reverse step fused with it."""

import math
import operator
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _backend
from .._validation import tensors as _checks
from ..reference import denoise as reference
from ._autograd import DifferentiableOp, Kernel, _front

__all__ = ["flow_sample", "flow_step", "predict_x0", "q_sample", "reverse_step"]

Prediction = Literal["eps", "x0", "v"]
PREDICTIONS = {"eps": reference.EPS, "x0": reference.X0, "v": reference.V}


def q_sample(x0: Tensor, noise: Tensor, alpha_bar: float | Tensor) -> Tensor:
    r"""Noise x0 to the level alpha_bar.

    .. math:: x_t = \sqrt{\bar\alpha}\, x_0 + \sqrt{1 - \bar\alpha}\, \epsilon

    Args:
        x0: ``[B, D]``, or like noise.
        noise: ``[B, D]``, or ``[B, K, D]`` for K noised copies of every row.
        alpha_bar: in (0, 1], a number or a tensor that broadcasts right-aligned to the rows: ``[B]`` against ``[B, D]``;
            ``[K]``, ``[B, 1]`` or ``[B, K]`` against ``[B, K, D]``. What it is made into is computed in fp64.

    Returns:
        x_t like noise.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; alpha_bar in any of
        them. Values of tensors on a GPU are not looked at.

    Source: Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, eq. 4; DiffoR, aligned noising.

    Example:
        >>> import torch
        >>> from ordkernels.ops import q_sample
        >>> q_sample(torch.ones(2, 4), torch.zeros(2, 3, 4), torch.tensor([1.0, 0.25, 0.04]))[0, :, 0]
        tensor([1.0000, 0.5000, 0.2000])
    """
    return _sample("x0", x0, noise, "alpha_bar", alpha_bar, 0)


def flow_sample(x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    r"""Noise x0 to the time t of flow matching: :math:`x_t = (1 - t)\, x_0 + t\, \epsilon`.

    Args:
        x0, noise: as in :func:`q_sample`.
        t: in [0, 1]; shapes as alpha_bar's there.

    Returns:
        x_t like noise.

    Raises:
        TypeError, ValueError: as :func:`q_sample`.

    Source: Lipman et al., Flow Matching for Generative Modeling, section 4.1; DiffoR, table 6(b).

    Example:
        >>> import torch
        >>> from ordkernels.ops import flow_sample
        >>> flow_sample(torch.ones(1, 2), torch.zeros(1, 2), 0.25)
        tensor([[0.7500, 0.7500]])
    """
    return _sample("x0", x0, noise, "t", t, 1)


def _sample(name: str, x0: Tensor, noise: Tensor, alpha_name: str, alpha: Any, kind: int) -> Tensor:
    _checks.floating(name, x0)
    _checks.dims(name, x0, (2, 3), "[B, D]")
    _checks.same("noise", noise, name, x0)
    _checks.dims("noise", noise, (2, 3), "[B, D] or [B, K, D]")
    if noise.shape != x0.shape and (x0.dim() != 2 or (noise.shape[0], noise.shape[-1]) != x0.shape):
        B, D = x0.shape[0], x0.shape[-1]
        raise ValueError(f"noise: expected [B, D] or [B, K, D] with B = {B}, D = {D}, got {list(noise.shape)}")
    t, number = _per_row(alpha_name, alpha, noise, kind == 1)
    return _SAMPLE(x0, noise, t, number, kind)


def predict_x0(
    x_t: Tensor, output: Tensor, alpha_bar: float | Tensor, *, prediction: Prediction = "eps", clip: float | None = None
) -> Tensor:
    r"""The estimate of x0 that a denoiser's output stands for.

    .. math:: \hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha}\, \hat\epsilon}{\sqrt{\bar\alpha}}, \quad \hat x_0, \quad
              \sqrt{\bar\alpha}\, x_t - \sqrt{1 - \bar\alpha}\, \hat v

    for ``"eps"``, ``"x0"`` and ``"v"``.

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        output: like x_t.
        alpha_bar: as in :func:`q_sample`.
        clip: bound of the estimate's magnitude, or None.

    Returns:
        like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, section 4.

    Example:
        >>> import torch
        >>> from ordkernels.ops import predict_x0
        >>> predict_x0(torch.ones(1, 2), torch.zeros(1, 2), 0.25)
        tensor([[2., 2.]])
    """
    _check_pair(x_t, output, "output")
    t, number = _per_row("alpha_bar", alpha_bar, x_t, False)
    return _PREDICT(x_t, output, t, number, _kind(prediction), _clip(clip))


def reverse_step(
    x_t: Tensor,
    output: Tensor,
    alpha_bar_t: float | Tensor,
    alpha_bar_s: float | Tensor,
    *,
    eta: float = 0.0,
    prediction: Prediction = "eps",
    clip: float | None = None,
    use_clipped_model_output: bool = False,
    noise: Tensor | None = None,
    seed: int | None = None,
    row_ids: Tensor | None = None,
    step: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""One reverse step from level t to s, and the estimate of x0 that it goes through.

    .. math:: x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma \xi, \qquad
              \sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}} \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        output: the denoiser's, like x_t.
        alpha_bar_t, alpha_bar_s: as in :func:`q_sample`; with ``eta > 0`` alpha_bar_s is the larger.
        eta: stochasticity, 0 for DDIM, 1 for DDPM.
        prediction: what the output is.
        clip: bound of the magnitude of the estimate of x0, or None.
        use_clipped_model_output: take epsilon from x_t and the clipped estimate, as DDPM does, not from the output.
        noise: like x_t; or
        seed, row_ids, step: noise made on the way, never stored: that of :func:`ordkernels.rng.normal` with width ``K D``,
            lane ``k D + d``, for row_ids ``[B]`` int64; None means 0, ..., B - 1.

    Returns:
        x_s and x0, like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; also where noise is needed (eta > 0, unless
        alpha_bar_s is the number 1) and neither noise nor seed is given.

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, eq. 12 and 16.

    Example:
        >>> import torch
        >>> from ordkernels.ops import reverse_step
        >>> x_s, x0 = reverse_step(torch.randn(8, 64), torch.randn(8, 64), 0.5, 0.7, eta=1.0, seed=0, step=20)
        >>> x_s.shape, x0.shape
        (torch.Size([8, 64]), torch.Size([8, 64]))
    """
    _check_pair(x_t, output, "output")
    t, a_t = _per_row("alpha_bar_t", alpha_bar_t, x_t, False)
    s, a_s = _per_row("alpha_bar_s", alpha_bar_s, x_t, False)
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta: expected a finite number of 0 or more, got {eta}")
    kind, limit = _kind(prediction), _clip(clip)
    if eta == 0 or (s is None and a_s == 1):
        return _STEP(x_t, output, t, s, None, None, a_t, a_s, 0.0, kind, limit, use_clipped_model_output, False, 0, 0)
    noise, ids, seed = _noise(x_t, noise, seed, row_ids, step)
    return _STEP(
        x_t, output, t, s, noise, ids, a_t, a_s, float(eta), kind, limit, use_clipped_model_output, noise is None, seed, step
    )  # fmt: skip


def flow_step(x_t: Tensor, velocity: Tensor, t: float | Tensor, s: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""One Euler step of flow matching from time t to s, and the estimate of x0.

    .. math:: x_s = x_t + (s - t) v, \quad \hat x_0 = x_t - t v

    Args:
        x_t: ``[B, D]`` or ``[B, K, D]``.
        velocity: like x_t, an estimate of ``noise - x0``.
        t, s: in [0, 1]; shapes as alpha_bar's in :func:`q_sample`.

    Returns:
        x_s and x0, like x_t.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: as :func:`flow_sample`.

    Example:
        >>> import torch
        >>> from ordkernels.ops import flow_step
        >>> flow_step(torch.ones(1, 2), torch.ones(1, 2), 0.5, 0.25)
        (tensor([[0.7500, 0.7500]]), tensor([[0.5000, 0.5000]]))
    """
    _check_pair(x_t, velocity, "velocity")
    at, t_number = _per_row("t", t, x_t, True)
    to, s_number = _per_row("s", s, x_t, True)
    return _STEP(x_t, velocity, at, to, None, None, t_number, s_number, 0.0, reference.FLOW, math.inf, False, False, 0, 0)


def _check_pair(x: Tensor, other: Tensor, name: str) -> None:
    plain = type(x) is Tensor and type(other) is Tensor and x.dtype is torch.float32 is other.dtype and x.dim() in (2, 3)
    if plain and x.shape == other.shape and x.device == other.device:
        return  # what most calls bring, in a fraction of the time of the checks one by one
    _checks.floating("x_t", x)
    _checks.dims("x_t", x, (2, 3), "[B, D] or [B, K, D]")
    _checks.same(name, other, "x_t", x)
    if other.shape != x.shape:
        raise ValueError(f"{name}: expected the shape of x_t, {list(x.shape)}, got {list(other.shape)}")


def _kind(prediction: Any) -> int:
    kind = PREDICTIONS.get(prediction) if isinstance(prediction, str) else None
    if kind is None:
        raise ValueError(f"prediction: expected 'eps', 'x0' or 'v', got {prediction!r}")
    return kind


def _clip(clip: Any) -> float:
    if clip is None:
        return math.inf
    if not clip > 0:
        raise ValueError(f"clip: expected a positive number or None, got {clip}")
    return float(clip)


def _per_row(name: str, t: Any, rows: Tensor, time: bool) -> tuple[Tensor | None, float]:
    """Its view with one number per row, [B] or [B, K], or the number."""
    if type(t) is float and 0 < t <= 1:
        return None, t
    if isinstance(t, Tensor):
        _checks.floating(name, t)
        if t.dim() == 0 and not t.requires_grad and _checks.may_look(t):
            t = t.item()
    elif isinstance(t, bool) or not isinstance(t, int | float):
        raise TypeError(f"{name}: expected a number or a tensor, got {type(t).__name__}")
    if not isinstance(t, Tensor):
        _check_range(name, t, t, time)
        return None, float(t)
    if t.numel() and _checks.may_look(t):
        low, high = torch.aminmax(t.detach() if t.requires_grad else t)
        _check_range(name, low.item(), high.item(), time)
    if t.dtype not in (torch.float32, torch.float64):
        t = t.float()
    if t.device != rows.device:
        if t.dim():
            raise ValueError(f"{name}: expected the device of the rows, {rows.device}, got {t.device}")
        t = t.to(rows.device)
    lead = rows.shape[:-1]
    if t.shape != lead:
        if t.dim() > len(lead) or any(n not in (1, m) for n, m in zip(reversed(t.shape), reversed(lead), strict=False)):
            form = "[B]" if len(lead) == 1 else "[B, K]"
            raise ValueError(f"{name}: expected a number or a shape that broadcasts to {form} = {list(lead)}, got {list(t.shape)}")
        t = t.expand(lead)
    return t, 0.0


def _check_range(name: str, low: float, high: float, time: bool) -> None:
    if low < 0 or (low == 0 and not time) or high > 1:  # NaN passes
        bad = high if high > 1 else low
        raise ValueError(f"{name}: expected values in {'[0, 1]' if time else '(0, 1]'}, got {bad}")


def _noise(x: Tensor, noise: Any, seed: Any, row_ids: Any, step: Any) -> tuple[Tensor | None, Tensor | None, int]:
    if noise is not None:
        _checks.same("noise", noise, "x_t", x)
        if noise.shape != x.shape:
            raise ValueError(f"noise: expected the shape of x_t, {list(x.shape)}, got {list(noise.shape)}")
        return noise, None, 0
    if seed is None:
        raise ValueError("noise: expected noise or seed, as eta > 0 needs noise, got neither")
    seed = operator.index(seed)
    if not -(2**63) <= seed < 2**63:  # mod 2^64, as the dispatcher's int64
        seed = (seed + 2**63) % 2**64 - 2**63
    if not 0 <= operator.index(step) < 2**32:
        raise ValueError(f"step: expected 0 to 2^32 - 1, got {step}")
    if row_ids is not None:
        if not isinstance(row_ids, Tensor) or row_ids.dtype != torch.int64:
            raise TypeError(f"row_ids: expected an int64 tensor, got {getattr(row_ids, 'dtype', type(row_ids).__name__)}")
        if row_ids.shape != x.shape[:1] or row_ids.device != x.device:
            want = f"[B] = [{x.shape[0]}] on {x.device}"
            raise ValueError(f"row_ids: expected {want}, got {list(row_ids.shape)} on {row_ids.device}")
    return None, row_ids, seed


def _fake_like(position: int) -> Any:
    return lambda *args: args[position].new_empty(args[position].shape)


def _if(wanted: int, t: Tensor) -> Tensor:
    return t.new_empty(t.shape if wanted else 0)


def _dots(wanted: int, rows: Tensor, n: int) -> Tensor:
    return rows.new_empty((*rows.shape[:-1], n) if wanted else 0, dtype=reference.compute_dtype(rows))


def _fake_sample_backward(x0: Tensor, noise: Tensor, alpha_bar: Any, g: Any, a: float, kind: int, wanted: int) -> tuple[Tensor, ...]:
    return _if(wanted & 1, x0), _if(wanted & 2, noise), _dots(wanted & 4, noise, 2)


def _fake_predict_backward(
    x_t: Tensor, output: Tensor, alpha_bar: Any, g: Any, a: float, kind: int, clip: float, wanted: int
) -> tuple[Tensor, ...]:
    return _if(wanted & 1, x_t), _if(wanted & 2, x_t), _dots(wanted & 4, x_t, 2)


def _fake_step(x_t: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x_t.new_empty(x_t.shape), x_t.new_empty(x_t.shape)


def _fake_step_backward(x_t: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    wanted = rest[-1]
    return _if(wanted & 1, x_t), _if(wanted & 2, x_t), _if(wanted & 16, x_t), _dots(wanted & 12, x_t, 6)


def _dot(slopes: Any, dots: Tensor) -> Tensor:
    return sum(slope * dots[..., i] for i, slope in enumerate(slopes))  # type: ignore[return-value]


def _finish_sample(saved: Any, out: Any, consts: Any, wanted: int) -> tuple[Any, ...]:
    gx, gn, dots = out
    t, kind = saved[2], consts[1]
    return gx, gn, _dot(reference.sample_slopes(kind, t.double()), dots).to(t.dtype) if wanted & 4 else None


def _finish_predict(saved: Any, out: Any, consts: Any, wanted: int) -> tuple[Any, ...]:
    gx, go, dots = out
    t, kind = saved[2], consts[1]
    return gx, go, _dot(reference.x0_slopes(kind, t.double()), dots).to(t.dtype) if wanted & 4 else None


def _finish_step(saved: Any, out: Any, consts: Any, wanted: int) -> tuple[Any, ...]:
    gx, go, gn, dots = out
    gt = gs = None
    if wanted & 12:
        a_t, a_s, eta, kind, _, reclip = consts[:6]
        t, s = reference.per_row(saved[2], a_t, gx), reference.per_row(saved[3], a_s, gx)
        by_t, by_s = reference.step_slopes(kind, t, s, eta, reclip)
        if wanted & 4:
            gt = (_dot(reference.x0_slopes(kind, t), dots[..., :2]) + _dot(by_t, dots[..., 2:])).to(saved[2].dtype)
        if wanted & 8:
            gs = _dot(by_s, dots[..., 2:]).to(saved[3].dtype)
    return gx, go, gt, gs, gn


# op -> the places of the arguments `random` and row_ids
RANDOM = {
    "reverse_step": (12, 5),
    "reverse_step_backward": (14, 5),
    "guided_posterior_step": (13, 7),
    "guided_posterior_step_backward": (15, 7),
}


def _vmap(kernel: Kernel) -> Kernel:
    """vmap rule: V batches of B rows are V * B rows; row-keyed noise without ids is that of rows 0, ..., B - 1 in every batch."""
    name = kernel._schema.name.split("::")[1].lstrip("_")  # type: ignore[attr-defined]
    random, ids = RANDOM.get(name, (None, 0))

    def rule(info: Any, dims: Any, *args: Any) -> Any:
        V = info.batch_size
        ts = [_front(a, d, V) if isinstance(a, Tensor) else a for a, d in zip(args, dims, strict=True)]
        B = ts[0].shape[1]
        if random is not None and args[random] and ts[ids] is None:
            ts[ids] = torch.arange(B, device=ts[0].device).expand(V, B)
        out = kernel(*(t.flatten(0, 1) if isinstance(t, Tensor) else t for t in ts))
        single = isinstance(out, Tensor)
        parts = [t.unflatten(0, (V, B)) if t.dim() > 1 else t.expand(V, 0) for t in ((out,) if single else out)]
        return (parts[0], 0) if single else (tuple(parts), (0,) * len(parts))

    return rule


_SAMPLE = DifferentiableOp(
    "q_sample",
    tensors=3,
    public=1,
    reference=reference.q_sample,
    reference_backward=reference.q_sample_backward,
    fake=_fake_like(1),
    fake_backward=_fake_sample_backward,
    saved=lambda inputs, out: inputs[:3],
    vmap=_vmap,
    lazy=True,
    finish=_finish_sample,
    triton="q_sample",
)
_PREDICT = DifferentiableOp(
    "predict_x0",
    tensors=3,
    public=1,
    reference=reference.predict_x0,
    reference_backward=reference.predict_x0_backward,
    fake=_fake_like(0),
    fake_backward=_fake_predict_backward,
    saved=lambda inputs, out: inputs[:3],
    vmap=_vmap,
    lazy=True,
    finish=_finish_predict,
    triton="predict_x0",
)
_STEP = DifferentiableOp(
    "reverse_step",
    tensors=6,
    public=2,
    reference=reference.reverse_step,
    reference_backward=reference.reverse_step_backward,
    fake=_fake_step,
    fake_backward=_fake_step_backward,
    saved=lambda inputs, out: inputs[:6],
    vmap=_vmap,
    lazy=True,
    finish=_finish_step,
    triton="reverse_step",
)
for _name, _serves in (("flow_sample", "q_sample"), ("flow_step", "reverse_step")):
    _backend.register(_backend.OpInfo(_name, triton=_serves, alias_of=_serves))
