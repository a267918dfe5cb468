"""What the ops of one step share: checks of levels, predictions and noise, fakes, gradients of the levels."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import number, one_of, stream_step
from .._validation.numbers import seed as signed_seed
from ..reference._common import compute_dtype
from ..reference._diffusion import EPS, X0, V

Prediction = Literal["eps", "x0", "v"]
PREDICTIONS = {"eps": EPS, "x0": X0, "v": V}


def check_like(name: str, t: Tensor, x_t: Tensor) -> None:
    plain = type(x_t) is Tensor and type(t) is Tensor and x_t.dtype is torch.float32 is t.dtype and x_t.dim() in (2, 3)
    try:
        if plain and t.shape == x_t.shape and t.device == x_t.device and x_t.layout is torch.strided is t.layout:
            return  # most calls, in a fraction of the time of the checks one by one
    except RuntimeError:  # a nested tensor has no shape; the checks say so
        pass
    checks.floating("x_t", x_t)
    checks.dims("x_t", x_t, (2, 3), "[B, D] or [B, K, D]")
    checks.same(name, t, "x_t", x_t)
    if t.shape != x_t.shape:
        raise ValueError(f"{name}: expected the shape of x_t, {list(x_t.shape)}, got {list(t.shape)}")


def prediction_kind(prediction: Any) -> int:
    return PREDICTIONS[one_of("prediction", prediction, tuple(PREDICTIONS))]


def clip_limit(clip: Any) -> float:
    if clip is None:
        return math.inf
    limit = number("clip", clip, "a number or None")
    if not limit > 0:
        raise ValueError(f"clip: expected a positive number or None, got {clip}")
    return limit


def level_per_row(name: str, level: Any, rows: Tensor, time: bool = False) -> tuple[Tensor | None, float]:
    """alpha_bar in (0, 1], or a time in [0, 1]: its view with one number per row, [B] or [B, K], or the number."""
    if type(level) is float and 0 < level <= 1:
        return None, level
    if isinstance(level, Tensor):
        checks.floating(name, level)
        if level.dim() == 0 and not level.requires_grad and checks.can_read_values(level):
            level = level.item()
    if not isinstance(level, Tensor):
        value = number(name, level, "a number or a tensor")
        _check_range(name, value, value, time)
        return None, value
    if level.numel() and checks.can_read_values(level):
        _check_range(name, *checks.extremes(level), time)
    if level.dtype not in (torch.float32, torch.float64):
        level = level.float()
    if level.device != rows.device:
        if level.dim():
            raise ValueError(f"{name}: expected the device of the rows, {rows.device}, got {level.device}")
        level = level.to(rows.device)
    lead = rows.shape[:-1]
    if level.shape != lead:
        if level.dim() > len(lead) or any(n not in (1, m) for n, m in zip(reversed(level.shape), reversed(lead), strict=False)):
            form = "[B]" if len(lead) == 1 else "[B, K]"
            raise ValueError(f"{name}: expected a number or a shape that broadcasts to {form} = {list(lead)}, got {list(level.shape)}")
        level = level.expand(lead)
    return level, 0.0


def _check_range(name: str, low: float, high: float, time: bool) -> None:
    if low < 0 or (low == 0 and not time) or high > 1:  # NaN passes
        bad = high if high > 1 else low
        raise ValueError(f"{name}: expected values in {'[0, 1]' if time else '(0, 1]'}, got {bad}")


def step_noise(x_t: Tensor, noise: Any, seed: Any, row_ids: Any, step: Any) -> tuple[Tensor | None, Tensor | None, int, int]:
    """(noise, row ids, seed, step), for a step that needs noise: explicit, or row-keyed where noise is None."""
    if noise is not None:
        checks.same("noise", noise, "x_t", x_t)
        if noise.shape != x_t.shape:
            raise ValueError(f"noise: expected the shape of x_t, {list(x_t.shape)}, got {list(noise.shape)}")
        return noise, None, 0, 0
    if seed is None:
        raise ValueError("noise: expected noise or seed, as eta > 0 needs noise, got neither")
    return None, checks.row_ids("row_ids", row_ids, x_t), signed_seed(seed), stream_step(step)


def fake_step(x_t: Tensor) -> tuple[Tensor, Tensor]:
    return x_t.new_empty(x_t.shape), x_t.new_empty(x_t.shape)


def grad_dots(asked: int, rows: Tensor, n: int) -> Tensor:
    """For fakes: n sums per row, of which the gradients of the levels are made; empty if not asked for."""
    return rows.new_empty((*rows.shape[:-1], n) if asked else 0, dtype=compute_dtype(rows))


def weighted_dots(slopes: Sequence[Tensor], dots: Tensor) -> Tensor:
    """Their sum of products; a coefficient that does not move adds nothing, also where its gradient overflows."""
    total: Tensor = dots.new_zeros(())
    for i, slope in enumerate(slopes):
        total = total + torch.where(slope == 0, 0.0, slope * dots[..., i])
    return total
